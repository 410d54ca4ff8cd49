"""An installed Djinn computes: libdjinn.so finds the link library, the hook, the executor and the server from where `cmake --install` put them, with
nothing but LD_LIBRARY_PATH and LD_PRELOAD in the environment."""
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import BUILD, TORCH_MINOR, Case, Server, clean_environment, run

PROGRAM = """
import torch
a = torch.arange(12.0).reshape(3, 4)
print((a.cuda() @ a.cuda().t()).cpu().equal(a @ a.t()))
print([line.split()[-1] for line in open('/proc/self/maps') if 'libdjinn' in line])
"""


class Installed(Case):
    def test_torch_through_an_installed_local_server(self):
        with tempfile.TemporaryDirectory(prefix="djinn-install-") as folder, tempfile.TemporaryDirectory(prefix="djinn-run-") as runtime:
            subprocess.run(["cmake", "--install", str(BUILD), "--prefix", folder], check=True, capture_output=True, timeout=120, env=clean_environment())
            env = clean_environment(LD_LIBRARY_PATH=f"{folder}/lib/djinn", LD_PRELOAD="libdjinn.so", XDG_RUNTIME_DIR=runtime)
            done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
            self.assertEqual(done.returncode, 0, done.stderr)
            right, libraries = done.stdout.strip().splitlines()
            self.assertEqual(right, "True")
            self.assertIn(f"{folder}/lib/djinn/libdjinn.so", libraries)
            self.assertIn(f"{folder}/lib/djinn/libdjinn_torch-{TORCH_MINOR}.so", libraries)
            self.assertNotIn(str(BUILD) + "/", libraries)

    def without_its_hook(self, spoil, sentence):
        """A build whose hook for this torch was spoilt: CUDA ops are refused, and why is said once."""
        with tempfile.TemporaryDirectory(prefix="djinn-other-") as folder, Server() as server:
            for library in BUILD.glob("libdjinn*.so"):
                shutil.copy(library, folder)
            spoil(pathlib.Path(folder, f"libdjinn_torch-{TORCH_MINOR}.so"))
            done = run("""
import torch
x = torch.empty(3, device="cuda")
try:
    print((x + 1).cpu())
except RuntimeError as e:
    print("refused:", str(e).splitlines()[0])
""", server, LD_PRELOAD=f"{folder}/libdjinn.so", DJINN_SUMMARY="off")
            self.assertTrue(done.out.startswith("refused:"), str(done))
            sentences = [line for line in done.err.splitlines() if sentence in line]
            self.assertEqual(len(sentences), 1, str(done))

    def test_at_call_level_a_torch_without_a_hook_goes_on(self):
        with tempfile.TemporaryDirectory(prefix="djinn-other-") as folder, Server("--check") as server:
            for library in BUILD.glob("libdjinn*.so"):
                if "torch-" not in library.name:
                    shutil.copy(library, folder)
            done = run("import torch\nx = torch.ones(3, device='cuda') + 1\ntorch.cuda.synchronize()", server, LD_PRELOAD=f"{folder}/libdjinn.so",
                       DJINN_LEVEL="call", DJINN_SUMMARY="off")
        sentences = [line for line in done.err.splitlines() if line.startswith("djinn: ")]
        self.assertEqual(len(sentences), 1, str(done))
        self.assertTrue(sentences[0].endswith("hooks for torch none: what ops are part of is not told"), str(done))

    def test_a_hook_of_another_torch_is_refused_in_one_sentence(self):
        def spoil(hook):
            minor = f"\0{TORCH_MINOR}\0".encode()
            self.assertEqual(hook.read_bytes().count(minor), 1)
            hook.write_bytes(hook.read_bytes().replace(minor, b"\0" + b"9.99"[: len(minor) - 2] + b"\0"))
        self.without_its_hook(spoil, "built for torch 9.99")

    def test_a_torch_without_a_hook_is_refused_in_one_sentence(self):
        self.without_its_hook(lambda hook: hook.rename(hook.with_name("libdjinn_torch-9.99.so")), "this build has hooks for torch ")


if __name__ == "__main__":
    unittest.main(verbosity=2)

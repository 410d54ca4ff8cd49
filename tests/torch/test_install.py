"""An installed Djinn computes: libdjinn.so finds the link library, the hook, the executor and the server from where `cmake --install` put them, with
nothing but LD_LIBRARY_PATH and LD_PRELOAD in the environment."""
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest
from importlib.metadata import version

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import BUILD, Case, Server, clean_environment, run

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
            self.assertIn(f"{folder}/lib/djinn/libdjinn_torch.so", libraries)
            self.assertNotIn(str(BUILD) + "/", libraries)

    def test_a_hook_of_another_torch_is_refused_in_one_sentence(self):
        with tempfile.TemporaryDirectory(prefix="djinn-other-") as folder, Server() as server:
            for library in BUILD.glob("libdjinn*.so"):
                shutil.copy(library, folder)
            hook = pathlib.Path(folder, "libdjinn_torch.so")
            minor = ".".join(version("torch").split(".")[:2])
            self.assertEqual(hook.read_bytes().count(f"\0{minor}\0".encode()), 1)
            hook.write_bytes(hook.read_bytes().replace(f"\0{minor}\0".encode(), b"\0" + b"9.99"[: len(minor)] + b"\0"))
            done = run("""
import torch
x = torch.empty(3, device="cuda")
try:
    print((x + 1).cpu())
except RuntimeError as e:
    print("refused:", str(e).splitlines()[0])
""", server, LD_PRELOAD=f"{folder}/libdjinn.so", DJINN_SUMMARY="off")
            self.assertTrue(done.out.startswith("refused:"), str(done))
            sentences = [line for line in done.err.splitlines() if "built for torch 9.99" in line]
            self.assertEqual(len(sentences), 1, str(done))


if __name__ == "__main__":
    unittest.main(verbosity=2)

"""What torch imports, Djinn exports: the list is recomputed from the wheel with nm. And BLAS stays where it is loaded."""
import json
import pathlib
import re
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import harness  # noqa: E402

# CUPTI (a profiler that finds no device gives a CPU-only profile) and NVSHMEM stay NVIDIA's own: they are in the process already.
FAMILIES = r"__cuda|cuda[A-Z]|cu[A-Z]|cublas|cudnn|cusparse|cusolver|cufft|curand|nccl|nvrtc"


def imported():
    names = set()
    for library in sorted((harness.torch_directory() / "lib").glob("*.so*")):
        out = subprocess.run(["nm", "-D", "--undefined-only", str(library)], capture_output=True, text=True).stdout
        names |= {line.split()[-1].split("@")[0] for line in out.splitlines() if re.match(FAMILIES, line.split()[-1])}
    return names


class Symbols(harness.Case):
    def test_every_import_of_torch_is_exported(self):
        out = subprocess.run(["nm", "-D", "--defined-only", str(harness.PRELOAD)], capture_output=True, text=True, check=True).stdout
        exported = {line.split()[-1].split("@")[0] for line in out.splitlines()}
        wanted = imported()
        self.assertGreaterEqual(len(wanted), 700)  # 720 in torch 2.14.1
        self.assertEqual(sorted(wanted - exported), [])

    def test_every_import_of_torch_has_one_row(self):
        rows = [r["name"] for r in json.loads((harness.BUILD / "generated" / "ledger.json").read_text())["functions"]]
        self.assertEqual([n for n in sorted(imported()) if rows.count(n) != 1], [])


class Blas(harness.Case):
    PRODUCTS = ("import torch, hashlib\n"
                "torch.manual_seed(0); torch.set_num_threads(1)\n"
                "a, b = torch.randn(257, 129), torch.randn(129, 311)\n"
                "d = (a.double() @ b.double()).numpy().tobytes()\n"
                "print(hashlib.sha256((a @ b).numpy().tobytes() + d).hexdigest())\n")

    def test_mm_is_bit_equal_with_the_plug_in_loaded(self):
        load = ("import ctypes, os\n"
                "for name in ('libopenblas.so.0', 'libopenblas.so', 'libblas.so.3'):\n"
                "    try: lib = ctypes.CDLL(name, mode=os.RTLD_NOW | os.RTLD_LOCAL); lib.sgemm_; break\n"
                "    except OSError: pass\n"
                "else: raise SystemExit('no BLAS on this machine')\n")
        alone = harness.run(self.PRODUCTS, preload=False).out
        beside = harness.run(load + self.PRODUCTS, preload=False, check=False)
        if beside.err.strip() == "no BLAS on this machine":
            self.skipTest("no BLAS on this machine")
        self.assertEqual(beside.status, 0, str(beside))
        self.assertEqual(alone, beside.out)


if __name__ == "__main__":
    unittest.main()

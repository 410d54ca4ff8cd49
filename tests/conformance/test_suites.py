"""CI's part of each conformance suite (suite.py): the cases that are not slow."""
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import Case
from suites import run_suite


class Suites(Case):
    def passes(self, name):
        rows = run_suite(name, slow=False)
        self.assertTrue(rows)
        bad = [f"{r['case']} ({r['shows']}): {r['status']}: {r['detail']}" for r in rows if r["status"] not in ("ok", "skipped")]
        self.assertFalse(bad, "\n".join(bad))
        skipped = [f"{r['case']}: {r['detail']}" for r in rows if r["status"] == "skipped"]
        if skipped:
            self.skipTest("; ".join(skipped))

    def test_cuda(self):
        self.passes("cuda")

    def test_models(self):
        self.passes("models")

    def test_training(self):
        self.passes("training")

    def test_devices(self):
        self.passes("devices")

    def test_cuda_graphs(self):
        self.passes("cuda_graphs")

    def test_cuda_ipc(self):
        self.passes("cuda_ipc")

    def test_cuda_profiler(self):
        self.passes("cuda_profiler")

    def test_cuda_memory(self):
        self.passes("cuda_memory")

    def test_errors(self):
        self.passes("errors")

    def test_meaning(self):
        self.passes("meaning")

    def test_random(self):
        self.passes("random")


if __name__ == "__main__":
    unittest.main(verbosity=2)

"""An extension's operators are computed by a server that has loaded their library."""
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import BUILD, Case, Server, run

LIBRARY = BUILD / "tests" / "libdjinn_test_ops.so"
PROGRAM = f"""
import torch
torch.ops.load_library({str(LIBRARY)!r})
x = torch.arange(5.0, device="cuda")
for _ in range(2):
    x = torch.ops.djinn_test.twice(x)
print(x.tolist())
"""


class OpLibrary(Case):
    def test_the_server_computes_with_the_library(self):
        with Server("--op-library", LIBRARY) as server:
            done = run(PROGRAM, server)
        self.assertEqual(done.out, "[0.0, 4.0, 8.0, 12.0, 16.0]\n", str(done))

    def test_a_library_that_is_none_ends_the_start(self):
        with self.assertRaises(AssertionError) as caught:
            Server("--op-library", "/no/such/library.so")
        self.assertIn("/no/such/library.so", str(caught.exception))


if __name__ == "__main__":
    unittest.main(verbosity=2)

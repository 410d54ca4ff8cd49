"""Breadth: small programs by group (ops_client.py) give on the device what they give on the CPU; and what a user sees when an op fails."""
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import Case, Server, run

CLIENT = pathlib.Path(__file__).resolve().parent / "ops_client.py"


class Ops(Case):
    def check(self, group, **environment):
        with Server() as server:
            done = run(CLIENT, server, [group], timeout=300, check=False, CUBLAS_WORKSPACE_CONFIG=":4096:8", PYTHONWARNINGS="ignore", **environment)
            self.assertEqual(done.status, 0, str(done))
            self.assertNotIn("is not supported", done.err)
            self.assertGreater(server.total("ops"), 0)

    def test_values(self):
        self.check("values")

    def test_views_and_indexing(self):
        self.check("views")

    def test_autograd_and_optimizers(self):
        self.check("autograd")

    def test_out_in_place_and_lists(self):
        self.check("writes")

    def test_sparse_and_nested(self):
        self.check("layouts")

    def test_randomness(self):
        self.check("random")

    def test_streams_copies_loaders_and_memory(self):
        self.check("device")

    def test_what_once_went_wrong(self):
        self.check("regressions")

    def test_deterministic_mode(self):
        self.check("deterministic")

    def test_without_the_optimisations(self):
        for group in ("values", "views", "writes", "autograd"):
            with self.subTest(group):
                self.check(group, DJINN_PERF="no_shape_cache,no_idle_flush,no_placement,no_pool")


class Errors(Case):
    """Where an error appears, and what it says."""

    LATE = """
import torch
x = torch.zeros(4, 3, device='cuda')
i = torch.tensor([7], device='cuda')
try:
    y = torch.nn.functional.embedding(i, x)
    print('posted')
    torch.cuda.synchronize()
except RuntimeError as e:
    print('embedding' in str(e), str(e).splitlines()[0])
"""

    def test_an_error_arrives_at_the_next_synchronisation(self):
        with Server() as server:
            done = run(self.LATE, server)
        self.assertEqual(done.out.splitlines()[0], "posted", str(done))
        self.assertTrue(done.out.splitlines()[1].startswith("True CUDA error"), str(done))

    def test_launch_blocking_makes_it_arrive_at_the_line(self):
        with Server() as server:
            done = run(self.LATE, server, CUDA_LAUNCH_BLOCKING="1")
        self.assertNotIn("posted", done.out, str(done))
        self.assertTrue(done.out.startswith("True CUDA error"), str(done))

    def test_arguments_are_refused_at_the_line_in_pytorch_words(self):
        with Server() as server:
            done = run("""
import torch
for bad in (lambda x: x @ torch.ones(5, 5, device='cuda'), lambda x: x + torch.ones(7, device='cuda'), lambda x: x.view(7), lambda x: x + torch.ones(4, 3),
            lambda x: torch.cat([x, x.reshape(3, 4)]), lambda x: x.sum(5)):
    try:
        bad(torch.ones(4, 3, device='cuda'))
        print('accepted')
    except (RuntimeError, IndexError) as e:
        print(type(e).__name__, str(e).splitlines()[0])
x = torch.ones(3, device='cuda')
print(x.sum().item())
""", server)
        lines = done.out.splitlines()
        self.assertEqual(len(lines), 7, str(done))
        for line, words in zip(lines, ("mat1 and mat2 shapes", "must match the size", "invalid for input of size", "same device", "Sizes of tensors must match", "Dimension out of range")):
            self.assertIn(words, line, str(done))
        self.assertEqual(lines[-1], "3.0")


if __name__ == "__main__":
    unittest.main(verbosity=2)

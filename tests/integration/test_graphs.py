"""CUDA graphs at call level: a C program captures copies, memsets and products, replays them on new data, and meets what captures refuse."""
import pathlib
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import harness  # noqa: E402

PROGRAM = harness.BUILD / "tests" / "graph_program"


class Graphs(harness.Case):
    needs_torch = False

    def setUp(self):
        if not PROGRAM.exists():
            self.skipTest("the headers of cuBLAS were not found when this was built")

    def test_captures_and_replays(self):
        with harness.Server(torch=False) as server:
            done = subprocess.run([str(PROGRAM)], env=harness.client_environment(server, DJINN_LEVEL="call"), capture_output=True, text=True,
                                  timeout=60)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr + server.log())
            self.assertTrue(done.stdout.startswith("ok: "), done.stdout)
            server.until(lambda s: not s["sessions"])
            self.assertEqual(server.total("calls"), 5)  # the product of each replay; that of the capture was only kept
            self.assertEqual(server.total("errors"), 1)  # the launch whose memory was gone


if __name__ == "__main__":
    unittest.main()

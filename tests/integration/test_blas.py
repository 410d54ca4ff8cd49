"""Call level, thin: a C program without torch multiplies matrices through libdjinn.so, the wire and the CPU device's BLAS, and compares with itself."""
import pathlib
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import harness  # noqa: E402

PROGRAM = harness.BUILD / "tests" / "blas_program"


def program(server, **extra):
    return subprocess.run([str(PROGRAM)], env=harness.client_environment(server, **extra), capture_output=True, text=True, timeout=60)


class Blas(harness.Case):
    needs_torch = False

    def setUp(self):
        if not PROGRAM.exists():
            self.skipTest("the headers of cuBLAS were not found when this was built")

    def test_products_equal_the_hosts(self):
        with harness.Server(torch=False) as server:
            done = program(server, DJINN_LEVEL="call")
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr + server.log())
            self.assertTrue(done.stdout.startswith("ok: "), done.stdout)
            server.until(lambda s: not s["sessions"])
            self.assertGreaterEqual(server.total("calls"), 3)  # the server multiplied, not the client
            self.assertEqual(server.total("errors"), 0)

    def test_nothing_is_computed_without_a_server(self):
        done = program("ipc:///nonexistent/djinn", DJINN_LEVEL="call")
        self.assertNotEqual(done.returncode, 0, done.stdout)
        self.assertNotIn("ok", done.stdout)


if __name__ == "__main__":
    unittest.main()

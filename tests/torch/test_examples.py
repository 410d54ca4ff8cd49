"""The main promise: the example scripts, which have no word of Djinn in them, print the same losses with --device cpu (no Djinn) and with
--device cuda (through a server), and the ops were executed by the server."""
import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import EXAMPLES, Case, Server, run


def losses(script, server, *arguments):
    with tempfile.NamedTemporaryFile("r", suffix=".losses") as file:
        device = "cuda" if server else "cpu"
        done = run(EXAMPLES / script, server, ["--device", device, "--losses", file.name, *arguments], preload=server is not None, timeout=600)
        return [float(line) for line in file.read().split()], done


class Examples(Case):
    def compare(self, script, *arguments):
        here, _ = losses(script, None, *arguments)
        with Server() as server:
            there, done = losses(script, server, *arguments)
            self.assertGreater(server.total("ops"), 100)
        self.assertEqual(len(here), len(there))
        self.assertGreater(len(here), 4)
        for step, (a, b) in enumerate(zip(here, there)):
            self.assertLessEqual(abs(a - b), 1e-5, f"{script}: step {step}: cpu {a!r}, cuda {b!r}")
        return done

    def test_digits(self):
        done = self.compare("train_digits.py")
        accuracy = float(done.out.strip().splitlines()[-1].split()[-1])
        self.assertGreaterEqual(accuracy, 0.97, done.out)
        summary = [line for line in done.err.splitlines() if line.startswith("djinn:") and "round trip" in line]
        self.assertEqual(len(summary), 1, done.err)
        self.assertIn("djinn-gpu-server", summary[0])

    def test_chars_in_float32(self):
        self.compare("train_chars.py", "--float32", "--steps", "12")

    def test_chars_under_autocast_learns(self):
        with Server() as server:
            values, done = losses("train_chars.py", server, "--steps", "40")
        self.assertLess(values[-1], values[0] - 0.5, done.out)

    def test_no_shape_cache_gives_the_same(self):
        here, _ = losses("train_digits.py", None, "--epochs", "1")
        with Server() as server, tempfile.NamedTemporaryFile("r") as file:
            run(EXAMPLES / "train_digits.py", server, ["--device", "cuda", "--epochs", "1", "--losses", file.name], timeout=600, DJINN_PERF="no_shape_cache")
            there = [float(line) for line in file.read().split()]
        self.assertEqual(len(here), len(there))
        self.assertTrue(all(abs(a - b) <= 1e-5 for a, b in zip(here, there)))


if __name__ == "__main__":
    unittest.main(verbosity=2)

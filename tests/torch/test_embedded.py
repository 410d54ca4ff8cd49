"""The embedded default: nothing is configured, and a local server appears, once, whoever asks for it first."""
import os
import pathlib
import re
import signal
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import Case, finish, run, start

PROGRAM = "import torch; x = torch.arange(9.0).reshape(3, 3); print((x.cuda() @ x.cuda()).cpu().equal(x @ x))"


class Embedded(Case):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="djinn-run-")
        self.addCleanup(folder.cleanup)
        self.runtime, self.servers = folder.name, set()
        self.addCleanup(self.end_servers)

    def end_servers(self):
        for pid in self.servers:
            os.kill(pid, signal.SIGTERM)

    def started(self, done):
        pids = [int(pid) for pid in re.findall(r"started a local server \(pid (\d+)", done.err)]
        self.servers.update(pids)
        return pids

    def test_eight_programs_at_once_get_one_server(self):
        programs = [start(PROGRAM, XDG_RUNTIME_DIR=self.runtime) for _ in range(8)]
        finished = [finish(p) for p in programs]
        pids = [pid for done in finished for pid in self.started(done)]
        for done in finished:
            self.assertEqual(done.out, "True\n", str(done))
        self.assertEqual(len(pids), 1, "\n".join(str(done) for done in finished))
        for done in finished:
            self.assertIn(f"djinn-gpu-server (pid {pids[0]},", done.err)

    def test_it_takes_nothing_of_the_program_and_lies_in_a_private_folder(self):
        pid, = self.started(run(PROGRAM, XDG_RUNTIME_DIR=self.runtime, OMP_NUM_THREADS="1", DJINN_SUMMARY="off", OPENBLAS_NUM_THREADS="1"))
        environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes().decode()
        for word in ("LD_PRELOAD", "OMP_NUM_THREADS", "DJINN_SUMMARY", "OPENBLAS"):
            self.assertNotIn(word, environment)
        self.assertEqual(pathlib.Path(self.runtime, "djinn").stat().st_mode & 0o777, 0o700)
        again = run(PROGRAM, XDG_RUNTIME_DIR=self.runtime)
        self.assertEqual(self.started(again), [])
        self.assertIn(f"(pid {pid},", again.err)

    def test_a_folder_that_others_may_enter_is_refused(self):
        folder = pathlib.Path(self.runtime, "djinn")
        folder.mkdir()
        folder.chmod(0o755)
        done = run("import torch; print(torch.cuda.is_available())", XDG_RUNTIME_DIR=self.runtime)
        self.assertEqual(done.out, "False\n")
        self.assertIn("mode 0700", done.err)


if __name__ == "__main__":
    unittest.main(verbosity=2)

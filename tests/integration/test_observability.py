"""What people and machines look at, at call level: djinn ps, top, graph and run, Prometheus, the dashboard, the log as JSON. The sessions are real; what
they mean is tests/torch/test_observability.py."""
import json
import pathlib
import re
import subprocess
import sys
import unittest
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import harness  # noqa: E402

COMMAND = harness.ROOT / "scripts" / "djinn"
DASHBOARD = harness.ROOT / "docs" / "grafana" / "djinn.json"
# Holds a session, with 4 MiB in it, until its stdin ends.
HOLDER = """
import ctypes, sys
cuda = ctypes.CDLL(None)
pointer = ctypes.c_void_p()
assert cuda.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(4 << 20)) == 0
assert cuda.cudaMemset(pointer, 1, ctypes.c_size_t(4 << 20)) == 0
assert cuda.cudaDeviceSynchronize() == 0
print("ready")
sys.stdin.read()
"""


def djinn(*arguments, check=True, **extra):
    done = subprocess.run([str(COMMAND), *map(str, arguments)], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
                          env=harness.clean_environment(DJINN_BUILD=harness.BUILD, DJINN_PYTHON=sys.executable, COLUMNS=160, **extra))
    if check and done.returncode:
        raise AssertionError(f"djinn {arguments}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done


class Held(harness.Case):
    """With one session at call level."""
    needs_torch = False
    options = ()

    def setUp(self):
        self.server = harness.Server(*self.options, torch=False)
        self.addCleanup(self.server.__exit__)
        self.client = harness.start(HOLDER, self.server, stdin=subprocess.PIPE, DJINN_LEVEL="call")
        self.addCleanup(self.client.communicate, timeout=30)
        harness.await_line(self.client, "ready")


class Commands(Held):
    def test_ps(self):
        lines = djinn("ps", "--server", self.server.endpoint).stdout.splitlines()
        self.assertEqual(lines[0].split(), ["ID", "NAME", "PROGRAM", "PID", "HOST", "PHASE", "MODULE", "OPS/S", "MEMORY", "AGE"])
        self.assertEqual(len(lines), 2)
        self.assertIn(f" {self.client.pid} ", lines[1])
        sessions = json.loads(djinn("ps", "--json", DJINN_SERVER=self.server.endpoint).stdout)
        self.assertEqual([s["client_pid"] for s in sessions], [self.client.pid])
        self.assertGreater(sessions[0]["open_nanoseconds"], 0)
        self.assertGreaterEqual(sessions[0]["memory_bytes"], 4 << 20)

    def test_phase(self):
        sys.path.insert(0, str(harness.PACKAGES))
        from djinn.cli import _show
        self.assertEqual(_show.phase({"ops": 0, "meaning": {"ops": {}, "phase": "other"}}), "–")
        self.assertEqual(_show.phase({"ops": 7, "meaning": {"ops": {}, "phase": "other"}}), "other")
        self.assertEqual(_show.phase({"ops": 0, "meaning": {"ops": {"backward": 7}, "phase": "backward"}}), "backward")  # call level

    def test_top_once(self):
        out = djinn("top", "--once", "--interval", "0.2", "--server", self.server.endpoint).stdout
        self.assertNotIn("\x1b", out)
        self.assertIn("1 sessions", out)
        self.assertRegex(out, r"(?m)^1 python.* MiB ")
        self.assertRegex(out, r"(?m)^all 1 ")

    def test_top_redraws_and_leaves_the_terminal_as_it_was(self):
        import os
        import pty
        import select
        import time
        main, side = pty.openpty()
        environment = harness.clean_environment(DJINN_BUILD=harness.BUILD, DJINN_PYTHON=sys.executable, TERM="xterm")
        top = subprocess.Popen([str(COMMAND), "top", "--interval", "0.2", "--server", self.server.endpoint], stdin=side, stdout=side, stderr=side,
                               env=environment)
        os.close(side)
        seen, deadline, quitting = b"", time.monotonic() + 30, False
        while time.monotonic() < deadline and select.select([main], [], [], 5)[0]:
            try:
                piece = os.read(main, 65536)
            except OSError:  # the other side is closed
                break
            seen += piece
            if not quitting and seen.count(b"\x1b[H") >= 3:
                os.write(main, b"q")
                quitting = True
        self.assertEqual(top.wait(timeout=20), 0)
        os.close(main)
        self.assertIn(b"1 sessions", seen)
        self.assertTrue(seen.rstrip().endswith(b"\x1b[?1049l"), seen[-200:])

    def test_graph_of_a_session_without_ops_is_a_sentence(self):
        done = djinn("graph", "--server", self.server.endpoint, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("session 1 has run no ops", done.stderr)
        done = djinn("graph", "99", "--server", self.server.endpoint, check=False)
        self.assertIn("there is no session 99", done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1)

    def test_nobody_there_is_a_sentence(self):
        for command in ("ps", "top", "graph"):
            done = djinn(command, *(["--once"] if command == "top" else []), "--server", "ipc:///tmp/djinn-no-such", check=False)
            self.assertEqual(done.returncode, 1)
            self.assertRegex(done.stderr, rf"^djinn {command}: .*(no answer|ipc:///tmp/djinn-no-such).*\n$")

    def test_run(self):
        program = "import ctypes, os; n = ctypes.c_int(); assert ctypes.CDLL(None).cudaGetDeviceCount(ctypes.byref(n)) == 0; print(n.value, os.environ['DJINN_LEVEL'])"
        done = djinn("run", "--server", self.server.endpoint, "--level", "call", "--", sys.executable, "-c", program)
        self.assertEqual(done.stdout, "1 call\n")
        self.assertEqual(djinn("run", "--server", self.server.endpoint, "--", "sh", "-c", "exit 7", check=False).returncode, 7)
        self.assertIn("no program", djinn("run", check=False).stderr)
        self.assertIn("no-such-program is not", djinn("run", "--", "no-such-program", check=False).stderr)


class Metrics(Held):
    options = ("--metrics", "127.0.0.1:0", "--log-format", "json")

    def scrape(self):
        port = re.search(r"metrics at http://127.0.0.1:(\d+)/metrics", self.server.log())[1]
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()

    def until(self, pattern, seconds=10):
        import time
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, text := self.scrape(), re.MULTILINE)):
            if time.monotonic() > deadline:
                raise AssertionError(f"{pattern} is not in:\n{text}")
            time.sleep(0.1)
        return found

    def until_greater(self, pattern, number, seconds=10):
        import time
        deadline = time.monotonic() + seconds
        while float(self.until(pattern)[1]) <= number:
            self.assertLess(time.monotonic(), deadline, f"{pattern} stays at {number} or less")
            time.sleep(0.1)

    def test_numbers(self):
        self.until(r"^djinn_sessions 1$")
        self.until(r'^djinn_session_memory_bytes\{session="1"\} (4194304|[5-9]\d{6}|\d{8,})$')
        self.until(r'^djinn_session_info\{session="1",program="[^"]*",name="",host="[^"]+"\} 1$')
        self.until(r"^djinn_commands_total [1-9]")
        # a session that does nothing is open all the same
        before = float(self.until(r"^djinn_open_seconds_total (\S+)$")[1])
        self.until_greater(r"^djinn_open_seconds_total (\S+)$", before + 1)
        self.client.communicate(timeout=30)
        self.until(r"^djinn_sessions 0$")
        self.until(r"^djinn_sessions_ended_total 1$")
        self.until(r"^djinn_commands_total [1-9]")  # what has ended still counts

    def test_the_dashboard_draws_what_there_is(self):
        text = self.scrape()
        exported = set(re.findall(r"^# TYPE (djinn_\w+) ", text, re.MULTILINE))
        drawn = set(re.findall(r"djinn_\w+", " ".join(t["expr"] for p in json.loads(DASHBOARD.read_text())["panels"] for t in p["targets"])))
        self.assertGreater(len(drawn), 15)
        self.assertEqual(drawn - exported, set())
        self.assertEqual(exported - drawn, set())

    def test_log_lines_are_objects(self):
        self.client.communicate(timeout=30)
        self.server.until(lambda s: not s["sessions"])
        lines = [json.loads(line) for line in self.server.log().splitlines() if line.startswith("{")]
        self.assertEqual([line for line in self.server.log().splitlines() if not line.startswith(("{", "djinn-gpu-server "))], [])
        for line in lines:
            self.assertLessEqual({"time", "level", "message", "pid"}, set(line))
        sessions = {line["pid"]: line["session"] for line in lines if "session" in line}
        self.assertIn(1, sessions.values())
        self.assertEqual(len(sessions), 2, lines)  # the broker says that it opened, the worker that it ended
        self.assertRegex(lines[0]["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")


class Refusals(harness.Case):
    needs_torch = False

    def test_a_port_that_is_taken(self):
        import socket
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with self.assertRaises(AssertionError) as caught:
                harness.Server("--metrics", f"127.0.0.1:{taken.getsockname()[1]}", torch=False)
            self.assertIn(f"--metrics 127.0.0.1:{taken.getsockname()[1]}", str(caught.exception))


if __name__ == "__main__":
    unittest.main()

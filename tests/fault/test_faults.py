"""Bad luck with processes: what a program sees when its server is missing, dies, is stopped, or when it dies itself. Clear errors, bounded waits,
nobody else hurt."""
import os
import pathlib
import signal
import socket
import sys
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import Case, Server, await_line, finish, run, start

AVAILABLE = "import torch, sys; print(torch.cuda.is_available())"
LOOP = """
import torch, sys, time
x = torch.ones(64, 64, device='cuda'); x.sum().item()
print('ready', flush=True)
deadline = time.monotonic() + {seconds}
try:
    while time.monotonic() < deadline:
        y = (x @ x).relu(); y.sum().item()
    print('DONE')
except RuntimeError as e:
    print('caught', type(e).__name__, str(e).splitlines()[0], 'after', time.monotonic(), flush=True)
"""


def said(done):
    return [line for line in done.err.splitlines() if "djinn" in line.lower()]


class NoServer(Case):
    def unavailable(self, endpoint, *words, **extra):
        begin = time.monotonic()
        done = run(AVAILABLE, endpoint, timeout=40, **extra)
        self.assertEqual(done.out.strip(), "False", str(done))
        self.assertEqual(len(said(done)), 1, str(done))
        for word in words:
            self.assertIn(word, said(done)[0])
        self.assertLess(time.monotonic() - begin, 25)

    def test_malformed(self):
        for endpoint in ("nonsense", "tcp://", "tcp://host:notaport", "http://localhost:1"):
            with self.subTest(endpoint):
                self.unavailable(endpoint, endpoint)

    def test_nobody_listens(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.unavailable(f"tcp://127.0.0.1:{port}", str(port))
        self.unavailable("ipc:///tmp/djinn-no-such-socket", "djinn-no-such-socket")

    def test_somebody_else_listens(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            s.listen()
            done = threading.Event()

            def accept_and_say_nothing():
                s.settimeout(0.2)
                held = []
                while not done.is_set():
                    try:
                        held.append(s.accept()[0])
                    except TimeoutError:
                        pass
            t = threading.Thread(target=accept_and_say_nothing)
            t.start()
            try:
                self.unavailable(f"tcp://127.0.0.1:{s.getsockname()[1]}", str(s.getsockname()[1]))
            finally:
                done.set()
                t.join()

    def test_local_server_forbidden(self):
        self.unavailable(None, "DJINN_LOCAL", DJINN_LOCAL="off")

    def test_unknown_switch_is_refused_by_name(self):
        with Server() as server:
            self.unavailable(server, "no_such_switch", DJINN_PERF="no_such_switch")
            self.unavailable(server, "sideways", DJINN_LEVEL="sideways")


class Deaths(Case):
    def test_server_killed(self):
        with Server() as server:
            client = start(LOOP.format(seconds=30), server)
            await_line(client, "ready")
            begin = time.monotonic()
            server.kill()
            done = finish(client, 30)
            self.assertLess(time.monotonic() - begin, 5 + 2, str(done))
            self.assertIn("caught", done.out, str(done))
            self.assertTrue(any(server.endpoint in line for line in said(done)), str(done))

    def test_worker_killed_ends_its_session_only(self):
        with Server() as server:
            victim, other = (start(LOOP.format(seconds=8), server) for _ in range(2))
            for c in (victim, other):
                await_line(c, "ready")
            workers = {s["client_pid"]: s["worker_pid"] for s in server.stats()["sessions"]}
            os.kill(workers[victim.pid], signal.SIGKILL)
            self.assertIn("caught", finish(victim, 20).out)
            self.assertIn("DONE", finish(other, 60).out)
            self.assertIn("2.0", run("import torch; print((torch.ones(1, device='cuda') * 2).item())", server).out)

    def test_client_killed(self):
        with Server() as server:
            client = start(LOOP.format(seconds=60), server)
            await_line(client, "ready")
            worker = server.stats()["sessions"][0]["worker_pid"]
            client.kill()
            finish(client)
            server.until(lambda s: not s["sessions"] and s["memory_leased"] == 0, 5)
            self.assertFalse(alive(worker))

    def test_client_killed_while_a_forked_child_survives(self):
        source = ("import os, time, torch\nx = torch.ones(8, device='cuda'); x.sum().item()\n"
                  "child = os.fork()\n"
                  "if child == 0:\n    time.sleep(60); os._exit(0)\n"
                  "print('child', child, flush=True)\ntime.sleep(60)")
        with Server() as server:
            client = start(source, server)
            child = int(await_line(client, "child").split()[-1])
            try:
                client.kill()
                client.wait(timeout=10)
                server.until(lambda s: not s["sessions"], 5)
                self.assertTrue(alive(child))
            finally:
                os.kill(child, signal.SIGKILL)
                client.stdout.close()
                client.stderr.close()

    def test_client_stopped_for_half_a_minute(self):
        with Server() as server:
            client = start(LOOP.format(seconds=34), server)
            await_line(client, "ready")
            client.send_signal(signal.SIGSTOP)
            threading.Event().wait(30)  # the thing under test is time itself
            self.assertEqual(len(server.stats()["sessions"]), 1)
            client.send_signal(signal.SIGCONT)
            self.assertIn("DONE", finish(client, 60).out)

    def test_sigterm_is_a_clean_end(self):
        with Server() as server:
            client = start(LOOP.format(seconds=30), server)
            await_line(client, "ready")
            self.assertEqual(server.kill(signal.SIGTERM), 0, server.log())
            self.assertIn("caught", finish(client, 20).out)
            self.assertEqual([f for f in os.listdir(server.folder.name) if f != "log"], [])


class Errors(Case):
    def test_out_of_memory_and_on(self):
        source = """
import torch
keep = [torch.ones(1 << 20, device='cuda')]
try:
    while True: keep.append(torch.empty(64 << 20, dtype=torch.uint8, device='cuda'))
except torch.cuda.OutOfMemoryError as e: print('oom', str(e).splitlines()[0])
n = len(keep); del keep[1:]; torch.cuda.empty_cache()
print('went on', n, (keep[0] * 2).sum().item(), torch.empty(200 << 20, dtype=torch.uint8, device='cuda').numel())
"""
        with Server("--memory", "512MiB") as server:
            done = run(source, server)
        self.assertIn("oom CUDA out of memory", done.out)
        self.assertIn("went on", done.out)

    # An assertion of the device, which is sticky as on CUDA: the process is told so from then on, the server and its other clients go on.
    def test_bad_index_into_an_embedding(self):
        source = """
import torch
e = torch.nn.Embedding(10, 4).cuda(); good = torch.tensor([1, 2]).cuda(); bad = torch.tensor([1, 99]).cuda()
e(good); torch.cuda.synchronize()
try:
    e(bad); torch.cuda.synchronize(); print('NOTHING')
except RuntimeError as x: print('caught', str(x).replace(chr(10), ' '))
try: e(good); torch.cuda.synchronize(); print('FORGOTTEN')
except RuntimeError as x: print('sticky', str(x).replace(chr(10), ' '))
"""
        for perf in ("", "no_shape_cache"):
            with self.subTest(perf), Server() as server:
                done = run(source, server, DJINN_PERF=perf)
                self.assertIn("caught", done.out, str(done))
                self.assertIn("aten::embedding", done.out)
                self.assertRegex(done.out, "(?i)index|range")
                self.assertRegex(done.out, "sticky .*device-side assert")
                self.assertIn("6.0", run("import torch; print(float((torch.ones(2, device='cuda') * 3).sum()))", server).out)

    def test_fork_after_initialisation(self):
        source = """
import os, sys, torch
x = torch.ones(4, device='cuda'); x.sum().item()
r, w = os.pipe()
if os.fork() == 0:
    try: (torch.ones(2, device='cuda') + 1).cpu(); text = 'COMPUTED'
    except RuntimeError as e: text = str(e).splitlines()[0]
    os.write(w, text.encode()); os._exit(0)
os.close(w); print('child:', os.read(r, 1000).decode()); os.wait()
print('parent', (x * 2).sum().item())
"""
        with Server() as server:
            done = run(source, server)
        self.assertIn("re-initialize CUDA in forked subprocess", done.out)
        self.assertIn("parent 8.0", done.out)

    def test_eight_at_once_do_not_disturb_each_other(self):
        source = """
import sys, torch
seed = int(sys.argv[1]); torch.manual_seed(seed)
a = torch.randn(96, 96); b = a.cuda()
for _ in range(60): a, b = torch.tanh(a @ a.t() / 96) + seed, torch.tanh(b @ b.t() / 96) + seed
print('difference', (a - b.cpu()).abs().max().item())
"""
        with Server() as server:
            clients = [start(source, server, [seed]) for seed in range(8)]
            for done in (finish(c, 180) for c in clients):
                self.assertEqual(done.status, 0, str(done))
                self.assertLess(float(done.out.split()[-1]), 1e-4, str(done))
            self.assertGreaterEqual(server.stats()["sessions_opened"], 8)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    unittest.main(verbosity=2)

"""What djinn ps, top, graph and the metrics say of a real program: a GPT that trains and generates. Its times, FLOPs, bytes and edges, by module and
phase, while it runs and when it has ended."""
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request
import xml.dom.minidom

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "integration"))
from test_observability import djinn

CLIENT = pathlib.Path(__file__).resolve().parent / "observability_client.py"
WIDTH, LAYERS, CHARACTERS, STEPS, TOKENS = 32, 2, 40, 3, 5
TRAINED, PROMPT = 2 * 16, 2 * 8  # tokens of a training step, of the prompt


def linear_flops(tokens):
    """Of all products with weights, forward."""
    return 2 * tokens * (LAYERS * (WIDTH * 3 * WIDTH + WIDTH * WIDTH + 2 * WIDTH * 4 * WIDTH) + WIDTH * CHARACTERS)


class Graph(harness.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server = harness.Server("--metrics", "127.0.0.1:0")
        cls.addClassCleanup(cls.server.__exit__)
        cls.client = harness.start(CLIENT, cls.server, stdin=subprocess.PIPE)
        cls.addClassCleanup(lambda: cls.client.communicate(timeout=60))
        harness.await_line(cls.client, "ready", timeout=120)

    def graph(self, *arguments):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "graph"
            djinn("graph", "--server", self.server.endpoint, *arguments, path)
            return path.read_text()

    def nodes(self, **wanted):
        graph = json.loads(self.graph("--json"))
        return [n for n in graph["nodes"] if all(n[k] == v for k, v in wanted.items())]

    def flops(self, phase, ops=("aten::mm", "aten::addmm", "aten::bmm")):
        return sum(n["flops"] for n in self.nodes(phase=phase) if n["op"].split(".")[0] in ops)

    def test_steps_are_what_they_were(self):
        steps = json.loads(self.graph("--json"))["meaning"]["steps"]
        self.assertEqual({p: steps.get(p) for p in ("forward", "backward", "optimizer", "llm_prefill", "llm_decode")},
                         {"forward": STEPS, "backward": STEPS, "optimizer": STEPS, "llm_prefill": 1, "llm_decode": TOKENS})

    def test_flops_are_those_of_the_products(self):
        self.assertEqual(self.flops("forward"), STEPS * linear_flops(TRAINED))
        self.assertEqual(self.flops("backward"), 2 * STEPS * linear_flops(TRAINED))
        self.assertEqual(self.flops("llm_prefill"), linear_flops(PROMPT))
        self.assertEqual(self.flops("llm_decode"), TOKENS * linear_flops(2))

    def test_modules_and_times(self):
        up = self.nodes(module="blocks.1.up", phase="forward")
        self.assertEqual(sum(n["count"] for n in up), STEPS)
        self.assertGreater(sum(n["nanoseconds"] for n in up), 0)
        self.assertTrue(self.nodes(module="blocks.1.up", phase="backward"))
        session = self.server.stats()["sessions"][0] if self.server.stats()["sessions"] else self.server.stats()["ended"]
        self.assertLess(sum(n["nanoseconds"] for n in self.nodes()), session["execute_nanoseconds"])

    def test_bytes_are_read_as_what_they_are(self):
        down = self.nodes(module="blocks.0.down", phase="llm_decode")
        weight = 4 * (WIDTH * 4 * WIDTH + WIDTH)
        self.assertEqual(sum(n["bytes_read"].get("persistent_weight", 0) for n in down), TOKENS * weight)
        attention = [n for n in self.nodes(phase="llm_decode") if n["bytes_read"].get("stateful_kv_cache")]
        self.assertTrue(attention)
        self.assertTrue([n for n in self.nodes(phase="optimizer") if n["bytes_read"].get("gradient")])

    def test_edges_follow_the_program(self):
        graph = json.loads(self.graph("--json"))

        def joined(a, b):
            return [e for e in graph["edges"] if graph["nodes"][e["from"]]["module"] == a[0] and graph["nodes"][e["from"]]["phase"] == a[1]
                    and graph["nodes"][e["to"]]["module"] == b[0] and graph["nodes"][e["to"]]["phase"] == b[1]]

        for phase in ("forward", "llm_prefill", "llm_decode"):
            self.assertTrue(joined(("blocks.0.norm2", phase), ("blocks.0.up", phase)), phase)
        self.assertTrue(joined(("blocks.0.up", "forward"), ("blocks.0", "backward")))  # gelu's input is kept for its backward
        self.assertFalse(joined(("blocks.1.up", "forward"), ("blocks.0.up", "forward")))

    def test_the_table_the_page_and_the_picture(self):
        table = djinn("graph", "--server", self.server.endpoint).stdout
        for word in ("llm_decode", "backward", "blocks.*.up", "aten::addmm", "forward"):
            self.assertIn(word, table)
        self.assertIn("blocks.1.up", djinn("graph", "--server", self.server.endpoint, "--layers", "--rows", "99").stdout)
        page = self.graph("--html")
        self.assertIn("<svg", page)
        self.assertNotRegex(page, r"(src|href)=|https?://|<script")  # needs nothing else
        xml.dom.minidom.parseString(re.search(r"<svg.*</svg>", page, re.DOTALL)[0])
        self.assertIn("<b>up</b>", page)
        dot = self.graph("--dot")
        self.assertEqual(dot.count("{"), dot.count("}"))
        self.assertRegex(dot, r'n\d+ \[label="blocks\.\*\.up \[backward\]\\n')
        self.assertRegex(self.graph("--layers", "--dot"), r'n\d+ \[label="blocks\.0\.up \[backward\]\\n')
        self.assertRegex(dot, r"n\d+ -> n\d+ \[label=\"[\d.]+ \w*B \w+\"\]")

    def test_metrics_by_phase(self):
        port = re.search(r"metrics at http://127.0.0.1:(\d+)/", self.server.log())[1]

        def scrape():
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()

        self.server.until(lambda _: f'djinn_steps_total{{phase="llm_decode"}} {TOKENS}' in scrape(), seconds=10)
        text = scrape()
        self.assertRegex(text, r'djinn_ops_total\{phase="backward"\} [1-9]')
        self.assertRegex(text, r'djinn_op_seconds_total\{phase="forward"\} (0\.\d*[1-9]|[1-9]|\d.*e-)')


class Ended(harness.Case):
    def test_a_program_that_is_over_can_still_be_looked_at(self):
        with harness.Server() as server:
            harness.finish(harness.start(CLIENT, server))
            server.until(lambda s: s["sessions_ended"] == 1)
            done = djinn("graph", "--server", server.endpoint)
            self.assertIn("session 1,", done.stdout)
            self.assertIn("llm_decode", done.stdout)
            self.assertEqual(server.stats()["ended"]["meaning"]["steps"]["llm_decode"], TOKENS)


class Idle(harness.Case):
    PROGRAM = """
import sys, time, torch
a = torch.ones(3072, 3072, device="cuda")
torch.cuda.synchronize()
begin = time.monotonic()
b = a @ a  # for seconds: a worker tells its counters each half of one
while not torch.cuda.current_stream().query(): time.sleep(0.1)  # which asks the server for nothing
print("over after", time.monotonic() - begin, flush=True)
sys.stdin.readline()
"""

    def test_what_was_posted_last_is_in_the_numbers_when_it_is_over(self):
        with harness.Server("--metrics", "127.0.0.1:0", "--threads", 1) as server:
            port = re.search(r"metrics at http://127.0.0.1:(\d+)/", server.log())[1]
            client = harness.start(self.PROGRAM, server, stdin=subprocess.PIPE)
            self.addCleanup(client.communicate, timeout=60)
            took = float(re.search(r"over after (\S+)", harness.await_line(client, "over"))[1])
            told, deadline = 0.0, time.monotonic() + 15
            while told < took / 2:
                self.assertLess(time.monotonic(), deadline, f"{told} s of {took} s")
                time.sleep(0.2)
                text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
                told = float(re.search(r"^djinn_executor_seconds_total (\S+)$", text, re.MULTILINE)[1])


class Live(harness.Case):
    PROGRAM = """
import sys, time, torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(64, 64)
    def forward(self, x):
        return self.inner(x).relu()
net = Net().cuda()
x = torch.randn(8, 64, device="cuda")
end = time.monotonic() + 60
print("ready", flush=True)
with torch.no_grad():
    while time.monotonic() < end:
        for _ in range(50): y = net(x)
        torch.cuda.synchronize()
"""

    def test_ps_and_top_while_it_works(self):
        with harness.Server() as server:
            client = harness.start(self.PROGRAM, server)
            try:
                harness.await_line(client, "ready")
                server.until(lambda s: s["sessions"] and s["sessions"][0]["ops"] > 1000, seconds=30)
                line = djinn("ps", "--server", server.endpoint).stdout.splitlines()[1]
                self.assertIn(str(client.pid), line)
                self.assertRegex(line, r"forward +(inner|–|Net) ")
                out = djinn("top", "--once", "--server", server.endpoint).stdout
                row = next(row for row in out.splitlines() if row.startswith("1 "))
                self.assertIn("forward", row)
                self.assertIn("weights", row)
                busy = int(re.search(r"(\d+) %$", row)[1])
                self.assertGreater(busy, 5)
            finally:
                client.kill()
                client.communicate()


if __name__ == "__main__":
    unittest.main(verbosity=2)

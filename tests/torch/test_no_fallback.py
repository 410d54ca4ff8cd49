"""No local fallback, ever: the server's counters grow by what the client ran, a client without a server computes nothing, and the numbers of
round trips and messages are the program's own."""
import json
import pathlib
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import Case, Server, await_line, finish, run, start

STEPS = """
import json, sys, torch, torch.nn as nn
sys.path.insert(0, {tests!r})
from counters import Counters
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 8)).cuda()
optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
x, y = torch.randn(16, 32).cuda(), torch.randint(0, 8, (16,)).cuda()
def step(item):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.item() if item else None
for _ in range(3): step(True)
counters = Counters()
result = {{}}
for item in (False, True):
    torch.cuda.synchronize()
    before = counters.read()
    for _ in range(10): step(item)
    result[str(item)] = {{k: (v - before[k]) / 10 for k, v in counters.read().items()}}
print(json.dumps(result))
"""

CASES = pathlib.Path(__file__).resolve().parent.parent / "bench" / "cases.py"


class NoFallback(Case):
    def test_counters_grow_with_the_work(self):
        with Server() as server:
            before = server.total("ops")
            run("import torch\nx = torch.ones(8, 8, device='cuda')\nfor _ in range(100): x = x * 1.5\nprint(x.sum().item())", server)
            self.assertGreaterEqual(server.total("ops") - before, 100)

    def test_nothing_is_computed_without_a_server(self):
        with Server() as server:
            client = start("import torch, sys\nx = torch.ones(4, device='cuda')\ntorch.cuda.synchronize()\nprint('ready', flush=True)\n"
                           "import time\n"
                           "deadline = time.monotonic() + 20\n"
                           "try:\n"
                           "  while time.monotonic() < deadline: (x + 1).cpu()\n"
                           "  print('COMPUTED')\n"
                           "except RuntimeError as e: print('error', e)", server)
            await_line(client, "ready")
            server.kill()
            done = finish(client, 30)
        self.assertIn("error", done.out, str(done))
        self.assertNotIn("COMPUTED", done.out)

    def test_round_trips_are_the_programs_own(self):
        with Server() as server:
            done = run(STEPS.format(tests=str(pathlib.Path(__file__).resolve().parent.parent)), server)
        result = json.loads(done.out.strip().splitlines()[-1])
        self.assertEqual(result["True"]["round_trips"], 1, result)
        self.assertEqual(result["False"]["round_trips"], 0, result)

    def test_messages_per_training_step(self):
        """The GPT step of scripts/bench, flushed by size and synchronisation only: at most 8 data messages."""
        with Server() as server:
            bench = start(CASES, server, ["cuda"], DJINN_PERF="no_idle_flush", stdin=subprocess.PIPE)
            out, err = bench.communicate("".join(json.dumps(dict(case="gpt", repeat=n)) + "\n" for n in (3, 10)), timeout=120)
        per_step = json.loads(out.splitlines()[-1])["counters"]
        self.assertEqual(per_step["round_trips"], 0, per_step)
        self.assertGreater(per_step["ops"], 100, per_step)
        self.assertLessEqual(per_step["frames"], 8, per_step)


if __name__ == "__main__":
    unittest.main(verbosity=2)

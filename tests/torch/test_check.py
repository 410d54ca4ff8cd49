"""The call level's first thread: under --check every launch of a training step is forwarded and validated while the ops compute the right losses;
blind (DJINN_LEVEL=call) a step costs exactly the round trips of its own synchronisations."""
import json
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import Case, Server, run

TESTS = str(pathlib.Path(__file__).resolve().parent.parent)
STEPS = """
import json, os, sys
sys.path[:0] = [{tests!r}, {tests!r} + '/bench']
import torch
from cases import TrainGpt
device = sys.argv[1]
case = TrainGpt(device)
result = {{}}
if device == 'cuda':
    from counters import Counters
    counters = Counters()
    for item in (False, True):
        case.item = item
        case.once(); torch.cuda.synchronize()
        before = counters.read()
        for _ in range(3): case.once()
        result[str(item)] = {{k: v - before[k] for k, v in counters.read().items()}}
    torch.cuda.synchronize()
    result['entry_launches'] = counters.read()['entry_launches']
else:
    for _ in range(8): case.once()
result['losses'] = [float(x) for x in case.losses]
print(json.dumps(result))
""".format(tests=TESTS)


def result_of(done):
    return json.loads(done.out.strip().splitlines()[-1])


class Check(Case):
    def test_ops_compute_and_every_launch_is_validated(self):
        here = result_of(run(STEPS, preload=False, arguments=["cpu"]))
        with Server("--check") as server:
            there = result_of(run(STEPS, server, ["cuda"], DJINN_PERF="no_shape_cache", timeout=300))
            validated, violations = server.total("launches_validated"), server.total("violations")
        self.assertEqual(violations, 0)
        self.assertGreater(validated, 500)
        self.assertEqual(validated, there["entry_launches"])
        self.assertEqual(len(here["losses"]), len(there["losses"]))
        for a, b in zip(here["losses"], there["losses"]):
            self.assertLessEqual(abs(a - b), 1e-5)

    def test_blind_round_trips(self):
        with Server("--check") as server:
            # over a network the server cannot have finished before it is asked
            there = result_of(run(STEPS, server, ["cuda"], DJINN_LEVEL="call", DJINN_LINK="rtt=5ms", timeout=300))
            self.assertEqual(server.total("violations"), 0, server.log())
            self.assertEqual(server.total("launches_validated"), there["entry_launches"])
        self.assertEqual(there["False"]["round_trips"], 0)
        self.assertEqual(there["True"]["round_trips"], 3)

    def test_without_check_a_kernel_is_refused_by_name(self):
        source = "import torch\nx = torch.ones(8, device='cuda')\ntry:\n  torch.cuda.synchronize(); print('NOTHING')\nexcept RuntimeError as e: print('caught', e)"
        with Server() as server:
            done = run(source, server, DJINN_LEVEL="call", check=False)
        self.assertIn("caught", done.out, str(done))
        self.assertIn("SASS", done.out + done.err)


if __name__ == "__main__":
    unittest.main(verbosity=2)

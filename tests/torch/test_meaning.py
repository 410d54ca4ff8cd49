"""What a program says about itself (djinn.phase, djinn.session) and what the hooks say about it, seen from outside: through `--stats` and `--graph`. Whether
phases and residencies are true is tests/conformance/meaning_client.py's business."""
import json
import pathlib
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import ROOT, SERVER, Case, Server, clean_environment, run

PACKAGES = str(ROOT / "hooks" / "python")
TRAIN = """
import sys; sys.path.insert(0, {packages!r})
import djinn, torch, torch.nn as nn
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).cuda()
optimizer = torch.optim.SGD(model.parameters(), 0.1)
x = torch.ones(3, 8).cuda()
def step():
    loss = model(x).square().mean()
    loss.backward(); optimizer.step(); optimizer.zero_grad()
    return loss
""".format(packages=PACKAGES)


def graph_of(server):
    done = subprocess.run([str(SERVER), "--graph", server.endpoint], capture_output=True, text=True, timeout=20, env=clean_environment(), check=True)
    return json.loads(done.stdout)


def nodes(graph, **wanted):
    return [n for n in graph["nodes"] if all(n[k] == v for k, v in wanted.items())]


class Meaning(Case):
    def seen(self, source, options=(), **environment):
        """The graph of a program's session after its end, and what the program printed."""
        with Server(*options) as server:
            done = run(TRAIN + source, server, **environment)
            server.until(lambda s: s["sessions_ended"] == 1)
            return graph_of(server), done

    def test_a_label_is_with_the_ops_inside_of_it_and_their_backward(self):
        graph, _ = self.seen("with djinn.phase('warm up'):\n  loss = model(x).square().mean()\nloss.backward()\nmodel(x)\ntorch.cuda.synchronize()")
        inside = {(n["phase"], n["op"]) for n in nodes(graph, label="warm up")}
        self.assertIn(("forward", "aten::addmm"), inside)
        self.assertTrue(any(phase == "backward" for phase, _ in inside), inside)
        self.assertTrue(nodes(graph, label="", op="aten::addmm", phase="forward"))

    def test_a_label_that_is_a_phase_stands_for_it_and_labels_nest(self):
        graph, _ = self.seen("with torch.no_grad(), djinn.phase('llm_decode'):\n  y = x + 1\n  with djinn.phase('inner'):\n    y = x * 2\n  y = x - 1\ntorch.cuda.synchronize()")
        self.assertEqual([n["label"] for n in nodes(graph, op="aten::add.Tensor", phase="llm_decode")], ["llm_decode"])
        self.assertEqual([n["label"] for n in nodes(graph, op="aten::sub.Tensor", phase="llm_decode")], ["llm_decode"])
        self.assertEqual([n["phase"] for n in nodes(graph, label="inner")], ["other"])

    def test_a_session_has_its_name_while_it_is_called_so(self):
        source = "with djinn.session(name='nightly'):\n  step(); torch.cuda.synchronize()\n  print('named', flush=True); sys.stdin.readline()\n"
        import harness
        with Server() as server:
            process = harness.start(TRAIN + source, server, stdin=subprocess.PIPE)
            harness.await_line(process, "named")
            self.assertEqual([s["meaning"]["name"] for s in server.stats()["sessions"]], ["nightly"])
            process.stdin.write("\n")
            process.stdin.flush()
            self.assertEqual(harness.finish(process).status, 0)

    def test_malformed_annotations_are_ignored_by_name(self):
        graph, done = self.seen("for bad in (7, '', 'x' * 65, 'a\\nb'):\n  with djinn.phase(bad), djinn.session(bad):\n    y = x + 1\nprint(y.sum().item())")
        self.assertEqual(done.out.strip(), "48.0")
        for shown in ("djinn.phase: 7 is ignored", "djinn.session: '' is ignored", r"djinn.phase: 'a\nb' is ignored"):
            self.assertIn(shown, done.err)
        self.assertEqual({n["label"] for n in graph["nodes"]}, {""})

    def test_without_djinn_annotations_do_nothing(self):
        source = f"import sys; sys.path.insert(0, {PACKAGES!r}); import djinn\nwith djinn.session('a'), djinn.phase('b'):\n  print('done', 'torch' in sys.modules)"
        self.assertEqual(run(source, preload=False).out.split(), ["done", "False"])

    def test_module_phase_and_memory_of_a_step(self):
        graph, _ = self.seen("for _ in range(3): step()\ntorch.cuda.synchronize()")
        self.assertEqual(graph["meaning"]["steps"]["forward"], 3)
        self.assertEqual(graph["meaning"]["steps"]["backward"], 3)
        self.assertEqual(graph["meaning"]["steps"]["optimizer"], 3)
        for phase in ("forward", "backward"):
            self.assertEqual({n["module"] for n in nodes(graph, phase=phase) if n["op"] in ("aten::addmm", "aten::mm")}, {"0", "2"}, phase)
        weights = 4 * (8 * 16 + 16 + 16 * 4 + 4)
        self.assertEqual(graph["meaning"]["memory"]["persistent_weight"], weights)

    def test_memory_that_was_a_weights_and_is_an_inputs_now(self):
        source = """
for make in (lambda: torch.ones(512, 512).cuda(), lambda: torch.empty(512, 512, device='cuda').fill_(1)):
    layer = nn.Linear(512, 512).cuda()
    layer(torch.ones(1, 512, device='cuda'))
    was = layer.weight.data_ptr()
    del layer
    batch = make()
    print(batch.data_ptr() == was)
    batch.relu()
torch.cuda.synchronize()
"""
        graph, done = self.seen(source)
        self.assertEqual(done.out.split(), ["True", "True"])
        read = [n["bytes_read"] for n in nodes(graph, op="aten::relu", module="")]
        self.assertEqual(read, [{"input": 2 * 4 * 512 * 512}])

    def test_switched_off_the_server_is_told_nothing(self):
        graph, done = self.seen("print(step().item())", DJINN_MEANING="off")
        self.assertEqual({(n["module"], n["phase"]) for n in graph["nodes"]}, {("", "other")})
        _, told = self.seen("print(step().item())")
        self.assertEqual(done.out, told.out)

    def test_calls_are_said_to_be_their_ops_at_call_level(self):
        graph, _ = self.seen("step(); torch.cuda.synchronize()", ("--check",), DJINN_LEVEL="call")
        modules = {(n["module"], n["phase"]) for n in nodes(graph, op="aten::addmm")}
        self.assertEqual(modules, {("0", "forward"), ("2", "forward")})
        self.assertTrue([n for n in graph["nodes"] if n["phase"] == "backward"])

    def test_operators_that_a_library_brings_later_are_executed_too(self):
        source = "before = (x + 1).sum().item()\nimport torchvision\nboxes = torch.tensor([[0., 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30]]).cuda()\n" \
                 "print(torchvision.ops.nms(boxes, torch.tensor([3., 2, 1]).cuda(), 0.5).tolist())"
        graph, done = self.seen(source)
        self.assertEqual(done.out.strip(), "[0, 2]")
        self.assertTrue(nodes(graph, op="torchvision::nms"))


if __name__ == "__main__":
    unittest.main(verbosity=2)

"""What a program says about itself (djinn.phase, djinn.session) and what the hooks say about it, seen from outside: through `--stats` and `--graph`. Whether
phases and residencies are true is tests/conformance/meaning_client.py's business."""
import json
import pathlib
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import BUILD, ROOT, SERVER, Case, Server, clean_environment, run

PACKAGES = str(ROOT / "hooks" / "python")
LIBRARY = str(BUILD / "tests" / "libdjinn_test_ops.so")
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


# An attention over a cache that outlives it; its forward switches grad mode off by itself.
ATTENTION = """
class Attention(nn.Module):
    def __init__(self, attend):
        super().__init__()
        self.attend, self.cache = attend, None
    @torch.no_grad()
    def forward(self, x):
        self.cache = x * 2 if self.cache is None else torch.cat([self.cache, x * 2], 1)
        return self.attend(x, self.cache, self.cache)
def written_out(q, k, v):
    scores = torch.empty(q.shape[0], q.shape[1], k.shape[1], device="cuda")
    torch.bmm(q, k.transpose(1, 2), out=scores)
    return torch.bmm(scores.softmax(-1), v, out=torch.empty_like(q))
"""


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
        source = "class Bad:\n  def __repr__(self): raise OSError\n" \
                 "for bad in (7, '', 'x' * 65, 'a\\nb', '\\ud800', Bad(), x, b'b', None, 10 ** 5000, 'y' * 10 ** 7):\n" \
                 "  with djinn.phase(bad), djinn.session(bad):\n    y = x + 1\nprint(y.sum().item())"
        graph, done = self.seen(source)
        self.assertEqual(done.out.strip(), "48.0")
        for shown in ("djinn.phase: 7 is ignored", "djinn.session: '' is ignored", r"djinn.phase: 'a\nb' is ignored", r"djinn.phase: '\ud800' is ignored",
                      "djinn.phase: a Bad is ignored", "djinn.phase: a Tensor is ignored", "djinn.phase: b'b' is ignored", "djinn.phase: None is ignored",
                      "djinn.phase: a int is ignored", "yyy'... is ignored"):
            self.assertIn(shown, done.err)
        self.assertLess(len(done.err), 10000)
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

    def test_switched_off_the_server_is_told_nothing_but_the_sessions_name(self):
        source = "with djinn.session('mine'), djinn.phase('rollout'):\n  for _ in range(3): loss = step()\n  print(loss.item())\n  " \
                 "print('meaning', __import__('subprocess').run([sys.argv[1], '--stats', __import__('os').environ['DJINN_SERVER']], " \
                 "env={}, stdout=-1).stdout.decode().replace('\\n', ' '))"
        told = {}
        for switch in ("off", "on"):
            with Server() as server:
                done = run(TRAIN + source, server, [SERVER], DJINN_MEANING=switch)
                server.until(lambda s: s["sessions_ended"] == 1)
                loss, stats = done.out.split("meaning ")
                told[switch] = loss, json.loads(stats)["sessions"][0]["meaning"], graph_of(server)
        loss, meaning, graph = told["off"]
        self.assertEqual(loss, told["on"][0])
        self.assertEqual({(n["module"], n["phase"], n["label"]) for n in graph["nodes"]}, {("", "other", "")})
        self.assertEqual((meaning["name"], sum(meaning["steps"].values()), sum(meaning["memory"].values())), ("mine", 0, 0))
        meaning = told["on"][1]
        self.assertTrue(meaning["name"] == "mine" and sum(meaning["steps"].values()) and sum(meaning["memory"].values()), meaning)

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

    def test_the_first_call_of_a_later_operator_is_seen_too(self):
        source = f"torch.cuda.synchronize(); torch.ops.load_library({LIBRARY!r})\nprint(torch.ops.djinn_test.twice(x).sum().item())"
        graph, done = self.seen(source, ("--op-library", LIBRARY))
        self.assertEqual(done.out.strip(), "48.0")
        self.assertTrue(nodes(graph, op="djinn_test::twice"))

    def test_an_operator_that_comes_later_is_annotated_at_call_level(self):
        # the first call is found by the op before it: nobody has looked the name up in torch.ops
        source = f"torch.ops.load_library({LIBRARY!r})\ntorch._C._jit_get_operation('djinn_test::thrice')[0](x + 1)\n" \
                 "torch.ops.djinn_test.thrice(x); torch.cuda.synchronize()"
        graph, _ = self.seen(source, ("--check", "--op-library", LIBRARY), DJINN_LEVEL="call")
        self.assertEqual([n["count"] for n in nodes(graph, op="djinn_test::thrice")], [2], graph["nodes"])

    def test_an_interrupt_leaves_no_module_open(self):
        # a profile function raises where a signal's handler would: when `enter` has just returned, and inside of `name`
        source = """
class Interrupt(BaseException): pass
def after_enter(frame, event, what):
    if event == 'c_return' and what.__name__ == 'enter': raise Interrupt
def inside_name(frame, event, what):
    if event == 'call' and frame.f_code.co_name == 'name' and frame.f_code.co_filename == '<djinn>': raise Interrupt
for profile in (after_enter, inside_name):
    inner = nn.Linear(8, 8).cuda()
    sys.setprofile(profile)
    try: inner(x)
    except Interrupt: print('interrupted')
    finally: sys.setprofile(None)
step(); torch.cuda.synchronize()
"""
        graph, done = self.seen(source)
        self.assertEqual(done.out.split(), ["interrupted"] * 2)
        self.assertEqual([n["module"] for n in nodes(graph, op="aten::mean")], [""])

    def test_a_session_is_named_without_being_opened(self):
        source = """
import os
with djinn.session('outer'):
    child = os.fork()
    y = torch.ones(2).cuda() + 1
    if not child:
        print('child', y.sum().item(), flush=True); torch.cuda.synchronize(); os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with djinn.session('inner'): pass
    print('parent', y.sum().item(), flush=True)
    sys.stdin.readline()
"""
        import harness
        with Server() as server:
            process = harness.start(f"import sys; sys.path.insert(0, {PACKAGES!r}); import djinn, torch" + source, server, stdin=subprocess.PIPE)
            said = harness.await_line(process, "parent")
            self.assertEqual(said.split(), ["child", "4.0", "parent", "4.0"])
            self.assertIn("outer", [s["meaning"]["name"] for s in server.stats()["sessions"]])
            process.stdin.write("\n")
            process.stdin.flush()
            self.assertEqual(harness.finish(process).status, 0)
        # nor is a server started for a program that uses no device
        with Server() as server:
            run(f"import sys; sys.path.insert(0, {PACKAGES!r}); import djinn\nwith djinn.session('a'): pass", server)
            self.assertEqual(server.stats()["sessions_ended"], 0)

    def test_what_the_hook_asks_is_not_seen_by_the_programs_torch_function(self):
        source = """
from torch.overrides import TorchFunctionMode
asked = []
class Mode(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        asked.append(getattr(function, '__name__', str(function)))
        return function(*args, **(kwargs or {}))
torch.cuda.synchronize()
with Mode(): y = model(x)
print([a for a in asked if a != 'linear' and a != 'relu'])
"""
        _, done = self.seen(source)
        self.assertEqual(done.out.strip(), "[]")

    def test_a_labelled_forward_has_a_backward_of_its_own_phase(self):
        graph, _ = self.seen("with djinn.phase('forward'): loss = model(x).square().mean()\nloss.backward(); torch.cuda.synchronize()")
        self.assertEqual({n["label"] for n in nodes(graph, phase="backward") if n["op"] == "aten::mm"}, {"forward"})
        self.assertEqual({n["op"] for n in nodes(graph, phase="forward")} & {"aten::mm", "aten::threshold_backward"}, set())

    def test_a_prefill_whose_forward_switches_grad_mode_off_itself(self):
        source = ATTENTION + """
for attend in (nn.functional.scaled_dot_product_attention, written_out):
    layer = Attention(attend)
    for n in (4, 1, 1): y = layer(torch.ones(2, n, 8).cuda())
torch.cuda.synchronize()
"""
        graph, _ = self.seen(source)
        steps = graph["meaning"]["steps"]
        self.assertEqual((steps["llm_prefill"], steps["llm_decode"], steps.get("forward")), (2, 4, None), steps)

    def test_what_uses_no_device_is_no_step(self):
        source = "host = nn.Linear(2, 2); o = torch.optim.SGD(host.parameters(), 0.1)\n" \
                 "for _ in range(3): host(torch.ones(1, 2)).sum().backward(); o.step()\nstep(); torch.cuda.synchronize()"
        graph, _ = self.seen(source)
        steps = graph["meaning"]["steps"]
        self.assertEqual((steps["forward"], steps["backward"], steps["optimizer"]), (1, 1, 1), steps)

    def test_an_optimizer_that_steps_inside_of_the_backward(self):
        source = """
own = {p: torch.optim.Adam([p], 0.1, foreach=False) for p in model.parameters()}
def take(p): own[p].step(); own[p].zero_grad()
for p in own: p.register_post_accumulate_grad_hook(take)
model(x).square().mean().backward(); torch.cuda.synchronize()
"""
        graph, _ = self.seen(source)
        self.assertEqual({n["phase"] for n in nodes(graph, op="aten::addcdiv_")}, {"optimizer"})
        self.assertEqual(graph["meaning"]["steps"]["optimizer"], 4)
        self.assertEqual(graph["meaning"]["steps"]["backward"], 1)

    def test_passes_of_two_threads_count_both(self):
        # the first pass waits on the host, before any op of it, until the second is over
        source = """
import threading
first_is_under_way, second_is_over = threading.Event(), threading.Event()
class Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x.clone()
    @staticmethod
    def backward(ctx, g):
        first_is_under_way.set(); second_is_over.wait(30)
        return g
def first(): Gate.apply(model(x).square().mean().cpu()).backward()
t = threading.Thread(target=first); t.start()
first_is_under_way.wait(30)
model(x).square().mean().backward(); second_is_over.set(); t.join()
torch.cuda.synchronize()
"""
        graph, _ = self.seen(source)
        self.assertEqual(graph["meaning"]["steps"]["backward"], 2)

    def test_a_label_that_ends_elsewhere_is_said_so_and_leaves_nothing(self):
        source = """
import asyncio
async def task(name, turns):
    with djinn.phase(name):
        for _ in range(turns): await asyncio.sleep(0)
async def both(): await asyncio.gather(task('one', 1), task('two', 3))
asyncio.run(both())
@djinn.phase('made')
async def coroutine(): return x + 1
@djinn.phase('made')
def generator(): yield x + 1
asyncio.run(coroutine()); list(generator())
y = x + 1; torch.cuda.synchronize()
"""
        graph, done = self.seen(source)
        self.assertIn("djinn.phase: 'one' does not end where it began", done.err)
        self.assertNotIn("'two' does not", done.err)
        for name in ("coroutine", "generator"):
            self.assertIn(f"djinn.phase: 'made' is ignored around {name}", done.err)
        self.assertEqual({n["label"] for n in graph["nodes"]}, {""})

    def test_modules_are_known_while_the_main_thread_waits_in_c(self):
        source = "import threading, time\ndef work():\n  global model, x\n  time.sleep(1); model = nn.Sequential(nn.Linear(8, 4)).cuda(); x = torch.ones(3, 8).cuda()\n" \
                 "  time.sleep(1); model(x); torch.cuda.synchronize()\nt = threading.Thread(target=work); t.start(); t.join()"
        with Server() as server:
            run("import torch, torch.nn as nn\n" + source, server)
            server.until(lambda s: s["sessions_ended"] == 1)
            self.assertEqual([n["module"] for n in nodes(graph_of(server), op="aten::addmm")], ["0"])

    def test_a_double_backward_has_the_modules_of_its_forward(self):
        source = "x.requires_grad_()\ng, = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)\ng.square().sum().backward(); torch.cuda.synchronize()"
        graph, _ = self.seen(source)
        self.assertEqual({n["module"] for n in nodes(graph, phase="backward") if n["op"] == "aten::mm"}, {"0", "2"})

    def test_a_weight_that_is_moved_by_a_resize_stays_one(self):
        source = """
layer = nn.Linear(512, 512, bias=False).cuda(); y = torch.ones(4, 512).cuda()
layer(y)
s = layer.weight.untyped_storage(); before, size = s.data_ptr(), s.nbytes()
s.resize_(0); other = torch.empty(size, dtype=torch.uint8, device='cuda'); s.resize_(size)
assert s.data_ptr() != before
with djinn.phase('later'): layer(y)
torch.cuda.synchronize()
"""
        graph, _ = self.seen(source)
        read, = (n["bytes_read"] for n in nodes(graph, label="later", op="aten::mm"))
        self.assertEqual(read.get("persistent_weight"), 512 * 512 * 4, read)


if __name__ == "__main__":
    unittest.main(verbosity=2)

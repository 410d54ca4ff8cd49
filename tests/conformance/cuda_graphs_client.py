"""CUDA graphs: capture, replay on new data, whole training steps, graphed callables, private pools, randomness, and what a capture refuses; see suite.py."""
import copy
import ctypes
import pathlib
import tempfile
import threading
import time

import torch
import torch.nn.functional as F

from suite import case, compare, main

cuda = ctypes.CDLL(None)  # libdjinn.so is preloaded
torch.set_num_threads(1)  # small models: the reference needs no team of its own beside the server's
UNSUPPORTED = "operation not permitted when stream is capturing"


def warm_up(function, times=3):
    """On a side stream, as PyTorch's notes on CUDA graphs ask before a capture."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(times):
            function()
    torch.cuda.current_stream().wait_stream(side)


def captured(function, **options):
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, **options):
        result = function()
    return graph, result


def raises(text, function):
    try:
        function()
    except RuntimeError as e:
        assert text in str(e), f"another error: {e}"
        return
    raise AssertionError(f"no error with '{text}'")


@case("a forward pass, replayed on new data; nothing runs during the capture")
def forward_replay():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.LayerNorm(64), torch.nn.Linear(64, 8), torch.nn.Softmax(-1))
    host, x = copy.deepcopy(net), torch.zeros(5, 32, device="cuda")
    net.cuda()
    out = torch.full((5, 8), 7.0, device="cuda")
    with torch.no_grad():
        warm_up(lambda: net(x))
        graph, _ = captured(lambda: out.copy_(net(x)))
        compare(out, torch.full((5, 8), 7.0), 0, 0)
        for _ in range(3):
            data = torch.randn(5, 32)
            x.copy_(data)
            graph.replay()
            compare(out, host(data))


@case("convolution, batch norm, pooling and loss in a graph")
def convolution():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(),
                              torch.nn.Linear(8 * 7 * 7, 10))
    host = copy.deepcopy(net)
    net.cuda()
    x, y = torch.randn(4, 3, 16, 16, device="cuda"), torch.zeros(4, dtype=torch.long, device="cuda")
    before = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        warm_up(lambda: F.cross_entropy(net(x), y))
        net.load_state_dict(before)
        graph, loss = captured(lambda: F.cross_entropy(net(x), y))
        for seed in range(3):
            torch.manual_seed(seed)
            data, labels = torch.randn(4, 3, 16, 16), torch.randint(10, (4,))
            x.copy_(data), y.copy_(labels)
            graph.replay()
            compare(loss, F.cross_entropy(host(data), labels))
    compare(net.state_dict(), host.state_dict())  # running statistics


class Block(torch.nn.Module):
    def __init__(self, width=32, dropout=0.0):
        super().__init__()
        self.norm, self.attend = torch.nn.LayerNorm(width), torch.nn.Linear(width, 3 * width)
        self.out, self.mlp = torch.nn.Linear(width, width), torch.nn.Sequential(torch.nn.Linear(width, 4 * width), torch.nn.GELU(),
                                                                              torch.nn.Linear(4 * width, width))
        self.dropout = dropout

    def forward(self, x):
        b, t, w = x.shape
        q, k, v = (u.view(b, t, 4, w // 4).transpose(1, 2) for u in self.attend(self.norm(x)).chunk(3, -1))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, w)
        return x + F.dropout(self.out(a), self.dropout, self.training) + self.mlp(x)


class Gpt(torch.nn.Module):
    def __init__(self, layers=2, width=32, words=50, dropout=0.0):
        super().__init__()
        self.words, self.places = torch.nn.Embedding(words, width), torch.nn.Parameter(torch.randn(16, width) * 0.02)
        self.blocks, self.head = torch.nn.Sequential(*(Block(width, dropout) for _ in range(layers))), torch.nn.Linear(width, words)

    def forward(self, i):
        return self.head(self.blocks(self.words(i) + self.places))


def step_of(net, optimizer, i, labels):
    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(net(i).flatten(0, 1), labels.flatten())
        loss.backward()
        optimizer.step()
        return loss.detach()
    return step


def graphed_training(optimizer_of, steps=5, rtol=1e-4):
    """Losses of a step captured whole, forward to optimizer, against eager steps on the CPU."""
    torch.manual_seed(0)
    net = Gpt()
    host = copy.deepcopy(net)
    net.cuda()
    i, labels = (torch.zeros(4, 16, dtype=torch.long, device="cuda") for _ in range(2))
    before = copy.deepcopy(net.state_dict())
    optimizer = optimizer_of(net.parameters(), capturable=True)
    warm_up(step_of(net, optimizer, i, labels))  # also makes the optimizer's state, which must not be made anew at each replay
    net.load_state_dict(before)
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                value.zero_()
    graph, loss = captured(step_of(net, optimizer, i, labels))
    host_i, host_labels = (torch.zeros(4, 16, dtype=torch.long) for _ in range(2))
    reference, actual, expected = step_of(host, optimizer_of(host.parameters(), capturable=False), host_i, host_labels), [], []
    for n in range(steps):
        torch.manual_seed(n)
        for device, of_host in ((i, host_i), (labels, host_labels)):
            of_host.copy_(torch.randint(50, (4, 16)))
            device.copy_(of_host)
        graph.replay()
        actual.append(loss.item())
        expected.append(reference().item())
    compare(actual, expected, rtol, 1e-5)


@case("a whole training step in a graph, Adam capturable: losses equal the CPU's")
def train_adam():
    graphed_training(lambda p, capturable: torch.optim.Adam(p, lr=1e-2, capturable=capturable))


@case("a whole training step in a graph, fused AdamW")
def train_fused():
    graphed_training(lambda p, capturable: torch.optim.AdamW(p, lr=1e-2, fused=True) if not capturable
                     else torch.optim.AdamW(p, lr=1e-2, fused=True, capturable=True))


@case("a whole training step in a graph, SGD with momentum")
def train_sgd():
    graphed_training(lambda p, capturable: torch.optim.SGD(p, lr=1e-2, momentum=0.9))


@case("autocast and GradScaler: the backward pass in a graph, the step outside")
def train_amp():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1)).cuda()
    eager = copy.deepcopy(net)
    x, y = torch.randn(8, 16, device="cuda"), torch.randn(8, 1, device="cuda")

    def backward(n, scaler):
        for p in n.parameters():
            p.grad = None
        with torch.autocast("cuda", dtype=torch.bfloat16, cache_enabled=False):
            loss = F.mse_loss(n(x), y)
        scaler.scale(loss).backward()
        return loss.detach()

    losses = {}
    for name, n in (("graph", net), ("eager", eager)):
        scaler, optimizer = torch.amp.GradScaler("cuda", init_scale=256.0), torch.optim.SGD(n.parameters(), 0.1)
        warm_up(lambda: backward(n, scaler))
        if name == "graph":
            graph, loss = captured(lambda: backward(n, scaler))
        losses[name] = []
        for _ in range(4):
            if name == "graph":
                graph.replay()
            else:
                loss = backward(n, scaler)
            scaler.step(optimizer)
            scaler.update()
            losses[name].append(loss.item())
    compare(losses["graph"], losses["eager"], 0.0, 0.0)


@case("make_graphed_callables: training, several callables")
def graphed_callables():
    torch.manual_seed(0)
    first, second = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh()), torch.nn.Linear(32, 4)
    hosts = copy.deepcopy((first, second))
    first.cuda(), second.cuda()
    first, second = torch.cuda.make_graphed_callables(
        (first, second), ((torch.randn(6, 16, device="cuda"),), (torch.randn(6, 32, device="cuda", requires_grad=True),)))
    optimizers = [torch.optim.SGD([*a.parameters(), *b.parameters()], 0.1) for a, b in ((first, second), hosts)]
    for n in range(4):
        torch.manual_seed(n)
        x, y = torch.randn(6, 16), torch.randn(6, 4)
        losses = []
        for (a, b), optimizer, where in (((first, second), optimizers[0], "cuda"), (hosts, optimizers[1], "cpu")):
            optimizer.zero_grad(set_to_none=True)
            loss = F.mse_loss(b(a(x.to(where))), y.to(where))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        compare(*losses)
    compare(second.state_dict(), hosts[1].state_dict())


@case("make_graphed_callables: inference")
def graphed_inference():
    net = Gpt().eval()
    host = copy.deepcopy(net)
    net = torch.cuda.make_graphed_callables(net.cuda(), (torch.zeros(4, 16, dtype=torch.long, device="cuda"),))
    with torch.no_grad():
        for _ in range(3):
            i = torch.randint(50, (4, 16))
            compare(net(i.cuda()), host(i))


@case("private pools: two graphs share one, and hold their memory against other allocations")
def private_pool():
    pool = torch.cuda.graph_pool_handle()
    a = torch.ones(1 << 20, device="cuda")
    first, b = captured(lambda: a * 2, pool=pool)
    second, c = captured(lambda: b + 1, pool=pool)
    assert first.pool() == second.pool() == pool
    reserved = torch.cuda.memory_reserved()
    torch.cuda.empty_cache()
    others = [torch.full((1 << 20,), 9.0, device="cuda") for _ in range(8)]  # must not land on b or c
    for value in (1.0, 5.0):
        a.fill_(value)
        first.replay()
        second.replay()
        compare(c.mean().item(), 2 * value + 1)
    assert all(o.eq(9).all().item() for o in others)
    del others, b, c
    first.reset(), second.reset()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() < reserved, "the pool was not given back"


@case("memory allocated and freed inside a capture is used again within it")
def reuse_in_capture():
    x = torch.ones(1 << 18, device="cuda")

    def chain():
        y = x
        for _ in range(20):
            y = y * 1.5 - 0.5
        return y
    graph, y = captured(chain)
    x.fill_(3.0)
    graph.replay()
    expected = torch.tensor(3.0)
    for _ in range(20):
        expected = expected * 1.5 - 0.5
    compare(y[0], expected)
    del y
    graph.reset()
    torch.cuda.empty_cache()


@case("dropout in a graph: new numbers at each replay, the same as eager from the same seed")
def dropout():
    x, rounds = torch.ones(4096, device="cuda"), 3
    graph, y = captured(lambda: torch.stack([F.dropout(x, 0.5), torch.rand_like(x), torch.randn(4096, device="cuda")]))

    def replays():
        torch.cuda.manual_seed(5)
        return [(graph.replay(), y.clone())[1] for _ in range(rounds)]

    def eager():
        torch.cuda.manual_seed(5)
        return [torch.stack([F.dropout(x, 0.5), torch.rand_like(x), torch.randn(4096, device="cuda")]) for _ in range(rounds)]
    first, again, expected = replays(), replays(), eager()
    assert not any(torch.equal(a, b) for n, a in enumerate(first) for b in first[n + 1:]), "two replays drew the same"
    compare(again, first, 0.0, 0.0)
    compare(first, expected, 0.0, 0.0)
    assert torch.cuda.default_generators[0].get_offset() % 4 == 0
    kept = y[0].ne(0).float().mean().item()
    assert 0.4 < kept < 0.6, kept


@case("a generator of the program's own in a graph")
def own_generator():
    g = torch.Generator(device="cuda")
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(g)
    with torch.cuda.graph(graph):
        y = torch.rand(100, device="cuda", generator=g)
    results = []
    for _ in range(2):
        g.manual_seed(3)
        graph.replay()
        graph.replay()
        results.append(y.clone())
    assert torch.equal(*results)
    g.manual_seed(3)
    torch.rand(100, device="cuda", generator=g)
    compare(results[0], torch.rand(100, device="cuda", generator=g), 0, 0)


@case("training with dropout in a graph learns as eager training does, number for number")
def train_dropout():
    results = []
    for graphed in (False, True):
        torch.manual_seed(0)
        net = Gpt(dropout=0.2).cuda()
        i, labels = (torch.randint(50, (4, 16)).cuda() for _ in range(2))
        before = copy.deepcopy(net.state_dict())
        warm_up(step_of(net, torch.optim.SGD(net.parameters(), 0.1), i, labels))
        net.load_state_dict(before)
        step = step_of(net, torch.optim.SGD(net.parameters(), 0.1), i, labels)
        if graphed:
            graph, loss = captured(step)
        torch.cuda.manual_seed(1)
        results.append([(graph.replay(), loss.item())[1] if graphed else step().item() for _ in range(4)])
    compare(results[1], results[0], 0.0, 0.0)


@case("streams that fork from the capture and join it again")
def fork_and_join():
    x = torch.ones(100, device="cuda")
    side = torch.cuda.Stream()

    def forked():
        a = x * 2
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            b = a + 1
        c = a * 10
        torch.cuda.current_stream().wait_stream(side)
        return b + c
    graph, y = captured(forked)
    for value in (1.0, 4.0):
        x.fill_(value)
        graph.replay()
        compare(y.mean().item(), 2 * value + 1 + 20 * value)


@case("a fork that is not joined: cudaErrorStreamCaptureUnjoined, and the stream works again")
def unjoined():
    x, side = torch.ones(100, device="cuda"), torch.cuda.Stream()

    def forked():
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            x.mul_(2)
    raises("unjoined", lambda: captured(forked))
    with torch.cuda.stream(side):
        compare((x + 1).sum().item(), 200.0)


@case(".item() in a capture is refused and ends it; afterwards everything works")
def refused_item():
    x = torch.ones(10, device="cuda")
    graph = torch.cuda.CUDAGraph()

    def capture():
        with torch.cuda.graph(graph):
            y = x * 2
            raises(UNSUPPORTED, y[0].item)
            raises("previous error", lambda: y * 2)
    raises("previous error", capture)
    assert not torch.cuda.is_current_stream_capturing()
    compare(x.sum().item(), 10.0)
    graph, y = captured(lambda: x * 3)
    graph.replay()
    compare(y.sum().item(), 30.0)


@case("what depends on data, waits or asks is refused in a capture")
def refused_others():
    x = torch.arange(10.0, device="cuda")
    before, stream = torch.cuda.Event(), torch.cuda.Stream()
    before.record()

    def refuses(text, function):
        graph = torch.cuda.CUDAGraph()

        def capture():
            with torch.cuda.graph(graph):
                raises(text, function)
        raises("previous error", capture)
    refuses(UNSUPPORTED, lambda: torch.nonzero(x))
    refuses(UNSUPPORTED, lambda: x[x > 3])
    refuses(UNSUPPORTED, lambda: x.unique())
    refuses(UNSUPPORTED, torch.cuda.synchronize)
    refuses(UNSUPPORTED, lambda: torch.cuda.current_stream().synchronize())
    refuses(UNSUPPORTED, lambda: torch.cuda.current_stream().query())
    refuses(UNSUPPORTED, before.query)
    refuses("dependency", lambda: torch.cuda.current_stream().wait_event(before))
    compare(x.sum().item(), 45.0)

    def unpinned():  # PyTorch's own check, which comes before CUDA's
        raises("pinned", x.cpu)
        raises("pinned", lambda: torch.tensor([1.0], device="cuda"))
        return x + 1
    graph, y = captured(unpinned)
    graph.replay()
    compare(y.sum().item(), 55.0)


@case("while one stream captures, other streams run: thread_local mode, another thread")
def other_streams():
    x, y, results = torch.ones(100, device="cuda"), torch.ones(100, device="cuda"), []

    def other():
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(5):
                results.append((y + len(results)).sum().item())

    def capture():
        a = x * 2
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return a + 1
    graph, z = captured(capture, capture_error_mode="thread_local")
    compare(results, [100.0 * n for n in range(1, 6)])
    graph.replay()
    compare(z.sum().item(), 300.0)


@case("copies between pinned memory and the device are made anew at each replay")
def host_copies():
    source, target = torch.zeros(3000, pin_memory=True), torch.zeros(3000, pin_memory=True)
    x = torch.zeros(3000, device="cuda")

    def there_and_back():
        x.copy_(source, non_blocking=True)
        y = x * 2
        target.copy_(y, non_blocking=True)
        x.copy_(target, non_blocking=True)  # reads what has just come
        return x + 1
    graph, z = captured(there_and_back)
    for value in (3.0, -1.0):
        source.fill_(value)
        graph.replay()
        torch.cuda.synchronize()
        compare(target, torch.full((3000,), 2 * value), 0, 0)
        compare(z, torch.full((3000,), 2 * value + 1), 0, 0)


@case("a graph stays right when the client has forgotten every description that it was captured with")
def forgotten_descriptions():
    x = torch.ones(64, device="cuda")
    graph, y = captured(lambda: (x + 1) * (x - 3))
    big = torch.zeros(300, 300, device="cuda")
    for a in range(130):
        for b in range(260):
            big[a:, b:b + 2].zero_()  # 33,800 descriptions: more than a thread keeps
    for value in (1.0, 10.0):
        x.fill_(value)
        graph.replay()
        compare(y.mean().item(), (value + 1) * (value - 3))


@case("external events in a graph: recorded at each replay, and timed")
def external_events():
    x = torch.ones(1 << 20, device="cuda")
    begin, end = (torch.cuda.Event(enable_timing=True, external=True) for _ in range(2))

    def timed():
        begin.record()
        y = x
        for _ in range(10):
            y = y * 1.01
        end.record()
        return y
    graph, _ = captured(timed)
    graph.replay()
    torch.cuda.synchronize()
    first = begin.elapsed_time(end)
    assert first > 0, first
    assert end.query()


@case("one graph, several streams; the stream of the capture is gone")
def launched_elsewhere():
    x = torch.zeros(100, device="cuda")
    graph, _ = captured(lambda: x.add_(1), stream=torch.cuda.Stream())
    for _ in range(3):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            graph.replay()
        torch.cuda.current_stream().wait_stream(stream)
    compare(x.sum().item(), 300.0)


@case("keep_graph: nodes, edges and a picture of the raw graph; instantiated twice")
def raw_graph():
    x = torch.ones(10, device="cuda")
    graph = torch.cuda.CUDAGraph(keep_graph=True)
    with torch.cuda.graph(graph):
        y = (x + 1) * 2
        y.zero_()
    handle, count = ctypes.c_void_p(graph.raw_cuda_graph()), ctypes.c_size_t(0)
    assert cuda.cudaGraphGetNodes(handle, None, ctypes.byref(count)) == 0
    assert count.value == 3, count.value
    assert cuda.cudaGraphGetEdges(handle, None, None, None, ctypes.byref(count)) == 0
    assert count.value == 2, count.value
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "graph.dot"
        assert cuda.cudaGraphDebugDotPrint(handle, str(path).encode(), 0) == 0
        assert path.read_text().count("->") == 2 and "kernel" in path.read_text()
    for _ in range(2):
        graph.instantiate()
        y.fill_(5)
        graph.replay()
        compare(y.sum().item(), 0.0)


@case("conditional nodes and graphs inside graphs are refused by name")
def refused_by_name():
    x = torch.ones(10, device="cuda")
    inner, _ = captured(lambda: x + 1)
    raises("previous error", lambda: captured(lambda: raises(UNSUPPORTED, inner.replay)))
    outer = torch.cuda.CUDAGraph()

    def capture():
        with torch.cuda.graph(outer):
            outer.begin_capture_to_if_node(torch.ones((), dtype=torch.bool, device="cuda"))
    raises("not supported", capture)


@case("graphs come and go: a thousand captures leave nothing behind")
def many_graphs():
    x = torch.ones(10, device="cuda")
    for n in range(1000):
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            graph.capture_begin()
            y = x + n
            graph.capture_end()
            graph.replay()
        if n % 100 == 0:
            stream.synchronize()
            compare(y.mean().item(), 1.0 + n)


@case("a step of a small GPT, eager and as a graph: steps per second")
def speed():
    torch.manual_seed(0)
    net = Gpt(layers=4, width=64).cuda()
    i, labels = (torch.randint(50, (4, 16)).cuda() for _ in range(2))
    step = step_of(net, torch.optim.AdamW(net.parameters(), 1e-3, capturable=True), i, labels)
    warm_up(step, 5)
    graph, loss = captured(step)

    def rate(function, seconds=1.5):
        torch.cuda.synchronize()
        begin, n = time.monotonic(), 0
        while time.monotonic() - begin < seconds:
            for _ in range(5):
                function()
            torch.cuda.synchronize()
            n += 5
        return n / (time.monotonic() - begin)
    for function in (step, graph.replay):
        rate(function, 0.3)
    eager, replayed = rate(step), rate(graph.replay)
    assert torch.isfinite(loss).item()
    return f"{eager:.0f} steps/s eager, {replayed:.0f} as a graph"


if __name__ == "__main__":
    main()

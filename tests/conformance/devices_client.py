"""Two devices: placement, copies between them, streams, events, random numbers and memory of each, torch.cuda.comm, NCCL, DataParallel; see suite.py."""
import copy
import ctypes
import gc
import threading

import torch
import torch.cuda.comm as comm
import torch.cuda.nccl as nccl
from torch import nn

from suite import case, compare, main

TWO = ("--devices", 2, "--memory", "1GiB")


def on_two(shows, **options):
    return case(shows, server=TWO, **options)


def raises(message, function, kind=RuntimeError):
    try:
        function()
    except kind as e:
        assert message in str(e), f"{message!r} is not in {str(e)!r}"
        return
    raise AssertionError(f"no {kind.__name__} with {message!r}")


def where(*tensors):
    return [t.get_device() for t in tensors]


# ---- placement ----

@on_two("results lie where their arguments do, whatever device is current")
def placement():
    assert torch.cuda.device_count() == 2
    for _ in range(3):  # the second time the shape cache answers
        for d in (0, 1):
            for current in (0, 1):
                with torch.cuda.device(current):
                    x = torch.arange(12.0, device=f"cuda:{d}").view(3, 4)
                    results = [x + 1, x.sum(0), x @ x.T, torch.cat([x, x]), x.topk(2).values, x.nonzero(), x[x > 3], torch.empty_like(x), x.new_zeros(2),
                               torch.unique(x), x.softmax(1), x.clone(), x.to(torch.float64), *torch._foreach_add([x, x], 1), x.sort().indices]
                    assert where(*results) == [d] * len(results), where(*results)
                    assert where(torch.ones(2, device="cuda"), torch.arange(3, device="cuda"), torch.tensor([1]).cuda()) == [current] * 3
                    compare(x @ x.T, x.cpu() @ x.cpu().T)


@on_two("operators refuse arguments of two devices, from the cache too")
def mixing():
    x, y = torch.ones(3, device="cuda:0"), torch.ones(3, device="cuda:1")
    for _ in range(2):
        raises("Expected all tensors to be on the same device", lambda: x + y)
        x + x
        raises("Expected all tensors to be on the same device", lambda: torch.cat([x, y]))
        raises("Expected all tensors to be on the same device", lambda: torch.masked_select(x, y > 0))
        raises("Expected all tensors to be on the same device", lambda: torch.mm(x.view(1, 3), y.view(3, 1)))
        raises("Expected all tensors to be on the same device", lambda: nn.functional.embedding(torch.zeros(2, dtype=torch.long, device="cuda:1"),
                                                                                                 torch.ones(2, 2, device="cuda:0")))
    compare(x + y[0].cpu(), torch.full((3,), 2.0))
    # a list of both is two lists to PyTorch's foreach ops
    out = torch._foreach_mul([x, y], 3)
    assert where(*out) == [0, 1]
    compare(out, [torch.full((3,), 3.0)] * 2)


@on_two("copies between devices: every dtype and layout, non_blocking, into slices, in both directions")
def peer_copies():
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64):
        x = (torch.randn(17, 5) * 3).to(dtype)
        a = x.to("cuda:0")
        b = a.to("cuda:1", non_blocking=True)
        assert where(a, b, b.cuda(0)) == [0, 1, 0]
        compare([b, b.to("cuda:0"), a.t().to("cuda:1"), a[::2, 1:].to("cuda:1")], [x, x, x.t(), x[::2, 1:]])
    x = torch.randn(64, 64, 3)
    a, b = x.to("cuda:0"), torch.zeros(64, 128, 3, device="cuda:1")
    b[:, ::2].copy_(a)
    b[:, 1::2] = a * 2
    compare([b[:, ::2], b[:, 1::2]], [x, x * 2])
    compare(b.to("cuda:0", torch.float64), b.cpu().double())
    big = torch.randn(3_000_000)
    compare(big.cuda(0).cuda(1).cuda(0), big)
    assert torch.cuda.can_device_access_peer(0, 1) and not torch.cuda.can_device_access_peer(0, 0)
    s = torch.eye(4).to_sparse()
    moved = s.to("cuda:0").to("cuda:1")
    assert moved.device.index == 1 and moved.values().get_device() == 1
    compare(moved.to_dense(), torch.eye(4))


@on_two("a model's layers on two devices (device_map), trained: equal to the CPU")
def model_on_two():
    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.head = nn.Linear(10, 32), nn.Sequential(nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 32)), nn.Linear(32, 4)
            self.map = {}

        def place(self, **devices):
            for name, d in devices.items():
                getattr(self, name).to(d)
            self.map = devices
            return self

        def forward(self, x):
            x = self.first(x.to(self.map.get("first", "cpu")))
            x = x + self.second(x.to(self.map.get("second", "cpu"))).to(x.device)
            return self.head(x.to(self.map.get("head", "cpu")))

    def train(model):
        torch.manual_seed(1)
        optimizer, losses = torch.optim.AdamW(model.parameters(), lr=0.01), []
        for _ in range(5):
            x, y = torch.randn(16, 10), torch.randint(0, 4, (16,))
            out = model(x)
            loss = nn.functional.cross_entropy(out, y.to(out.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    torch.manual_seed(0)
    model = Split()
    on_cpu = train(copy.deepcopy(model))
    model.place(first="cuda:0", second="cuda:1", head="cuda:0")
    compare(train(model), on_cpu, rtol=1e-4, atol=1e-5)
    assert {n: p.get_device() for n, p in model.named_parameters()}["second.2.weight"] == 1
    assert all(p.grad.device == p.device for p in model.parameters())


@on_two("autograd across devices: gradients come back to where the leaves are")
def autograd_across():
    x, y = torch.randn(4, 4), torch.randn(4, 4)

    def run(a, b):
        a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
        z = ((a.to(b.device) @ b).sin().to(a.device) * a).sum()
        (g,) = torch.autograd.grad(z, b, create_graph=True)
        (z + (g ** 2).sum().to(z.device)).backward()
        assert a.grad.device == a.device and b.grad.device == b.device
        return z, a.grad, b.grad
    compare(run(x.to("cuda:0"), y.to("cuda:1")), run(x, y), rtol=1e-4, atol=1e-4)


# ---- the current device, streams, events ----

@on_two("torch.cuda.device, set_device, device_of; each thread has its own")
def current_device():
    assert torch.cuda.current_device() == 0
    with torch.cuda.device(1):
        assert torch.cuda.current_device() == 1
        with torch.cuda.device_of(torch.ones(1, device="cuda:0")):
            assert torch.cuda.current_device() == 0
        assert torch.cuda.current_device() == 1
    seen = []

    def thread():
        seen.append(torch.cuda.current_device())
        torch.cuda.set_device(1)
        seen.append((torch.cuda.current_device(), torch.ones(1, device="cuda").get_device()))
    torch.cuda.set_device(0)
    t = threading.Thread(target=thread)
    t.start(), t.join()
    assert seen == [0, (1, 1)] and torch.cuda.current_device() == 0, seen
    raises("device ordinal", lambda: torch.cuda.set_device(2))
    a, b = torch.cuda.get_device_properties(0), torch.cuda.get_device_properties(1)
    assert a.uuid != b.uuid and a.total_memory == b.total_memory == 1 << 30, (a, b)


@on_two("streams and events of each device; waiting across them; times of one only")
def streams_and_events():
    s0, s1 = torch.cuda.Stream(0), torch.cuda.Stream(1)
    assert (s0.device.index, s1.device.index) == (0, 1)
    assert torch.cuda.current_stream(1).device.index == 1
    x = torch.ones(1000, device="cuda:0")
    with torch.cuda.stream(s1):
        assert torch.cuda.current_device() == 1 and torch.cuda.current_stream() == s1
        with torch.cuda.stream(s0):
            y = x * 2
            e0 = s0.record_event(torch.cuda.Event(enable_timing=True))
        s1.wait_event(e0)
        z = y.to("cuda:1") + 1
        e1 = s1.record_event(torch.cuda.Event(enable_timing=True))
        z.record_stream(s1)
    assert torch.cuda.current_device() == 0
    e1.synchronize()
    assert e0.query() and e1.query() and s0.query() and s1.query()
    compare(z, torch.full((1000,), 3.0))
    begin = torch.cuda.Event(enable_timing=True)
    begin.record(s0)
    with torch.cuda.device(1):
        end = torch.cuda.Event(enable_timing=True)
        end.record(s0)  # of the stream's device
    torch.cuda.synchronize(0), torch.cuda.synchronize(1)
    assert begin.elapsed_time(end) >= 0
    raises("", lambda: e0.elapsed_time(e1))
    with torch.cuda.device(1):
        raises("", lambda: torch.cuda.Event().wait(s0) or begin.record(s1))


# ---- training ----

@on_two("GradScaler, clipping, foreach and fused optimizers, checkpointing, with parameters on both devices: equal to the CPU")
def training():
    from torch.utils.checkpoint import checkpoint

    def train(first, second, make, scaled):
        torch.manual_seed(2)
        a, b = nn.Linear(8, 16).to(first), nn.Linear(16, 3).to(second)
        optimizer, losses = make([*a.parameters(), *b.parameters()]), []
        scaler = torch.amp.GradScaler(torch.device(first).type, init_scale=4.0, growth_interval=2, enabled=scaled)
        for step in range(5):
            x, y = torch.randn(6, 8), torch.randn(6, 3)
            h = checkpoint(lambda v: torch.tanh(a(v)), x.to(first).requires_grad_(), use_reentrant=False)
            loss = ((b(h.to(second)) - y.to(second)) ** 2).mean()
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            if scaled and step == 2:
                b.weight.grad.fill_(float("inf"))  # the step is skipped on both devices
            scaler.unscale_(optimizer)
            norm = nn.utils.clip_grad_norm_([*a.parameters(), *b.parameters()], 0.5)
            scaler.step(optimizer)
            scaler.update()
            losses += [loss.item(), 0.0 if scaled and step == 2 else norm.item()]
        return losses, scaler.get_scale(), [p.detach() for p in (*a.parameters(), *b.parameters())]
    for make in (lambda p: torch.optim.AdamW(p, lr=0.01, fused=True), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=True),
                 lambda p: torch.optim.Adam(p, lr=0.01, foreach=True, weight_decay=0.1)):
        for scaled in (False, True):
            compare(train("cuda:0", "cuda:1", make, scaled), train("cpu", "cpu", make, scaled), rtol=1e-4, atol=1e-5)
            compare(train("cuda:1", "cuda:0", make, scaled), train("cpu", "cpu", make, scaled), rtol=1e-4, atol=1e-5)


# ---- random numbers and memory ----

@on_two("each device has its generator: seeds, states, one device's draws leave the other's alone")
def random_numbers():
    def draw(d):
        return torch.rand(1000, device=f"cuda:{d}").cpu()
    torch.cuda.manual_seed_all(7)
    a, b = draw(0), draw(1)
    assert torch.equal(a, b)
    assert not torch.equal(draw(0), a)
    states = torch.cuda.get_rng_state_all()
    assert len(states) == 2 and not torch.equal(*states)
    first, second = draw(0), draw(1)
    assert not torch.equal(first, second)
    torch.cuda.set_rng_state(states[1], 1)
    assert torch.equal(draw(1), second) and not torch.equal(draw(0), first)
    with torch.cuda.device(1):
        torch.cuda.manual_seed(7)
        assert torch.cuda.initial_seed() == 7
        assert torch.equal(torch.rand(1000, device="cuda").cpu(), a)
    torch.cuda.set_rng_state_all(states)
    assert torch.equal(draw(0), first) and torch.equal(draw(1), second)
    g = torch.Generator("cuda:1").manual_seed(7)
    assert torch.equal(torch.rand(1000, device="cuda:1", generator=g).cpu(), a)


@on_two("memory of each device: allocated, reserved, peak, mem_get_info, empty_cache, out of memory of one only")
def memory():
    gc.collect()
    for d in (0, 1):
        torch.cuda.set_device(d)
        torch.cuda.empty_cache()
    torch.cuda.set_device(0)
    for d in (0, 1):
        other = 1 - d
        before, other_before = torch.cuda.memory_allocated(d), torch.cuda.memory_allocated(other)
        free, total = torch.cuda.mem_get_info(d)
        x = torch.empty(100 << 20, dtype=torch.uint8, device=f"cuda:{d}")
        assert torch.cuda.memory_allocated(d) - before == 100 << 20
        assert torch.cuda.memory_allocated(other) == other_before
        assert free - torch.cuda.mem_get_info(d)[0] == 100 << 20 and total == 1 << 30
        assert torch.cuda.max_memory_allocated(d) >= 100 << 20
        del x
        assert torch.cuda.memory_reserved(d) >= 100 << 20
        with torch.cuda.device(d):
            torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(d)
        assert torch.cuda.max_memory_allocated(d) < 100 << 20
    almost = [torch.empty(900 << 20, dtype=torch.uint8, device=f"cuda:{d}") for d in (0, 1)]
    raises("GPU 1 ", lambda: torch.empty(200 << 20, dtype=torch.uint8, device="cuda:1"), torch.OutOfMemoryError)
    del almost[0]
    torch.cuda.empty_cache()
    kept = torch.empty(200 << 20, dtype=torch.uint8, device="cuda:0")
    raises("GPU 1 ", lambda: torch.empty(200 << 20, dtype=torch.uint8, device="cuda:1"), torch.OutOfMemoryError)
    kept.fill_(1)
    assert {s["device"] for s in torch.cuda.memory_snapshot()} == {0, 1}


@on_two("pinned memory to and from both devices")
def pinned():
    x = torch.randn(1 << 20).pin_memory()
    a, b = x.to("cuda:0", non_blocking=True), x.to("cuda:1", non_blocking=True)
    out = torch.empty_like(x).pin_memory()
    out.copy_(b * 2 + a.to("cuda:1"), non_blocking=True)
    torch.cuda.synchronize(1)
    compare(out, x * 3)


# ---- torch.cuda.comm and NCCL ----

@on_two("comm.broadcast, broadcast_coalesced, scatter, gather, reduce_add, reduce_add_coalesced")
def communication():
    x = torch.randn(20, 6)
    for source in (x, x.to("cuda:0")):
        out = comm.broadcast(source, (0, 1))
        assert where(*out) == [0, 1]
        compare(out, [x, x])
    tensors = [torch.randn(n) for n in (3, 100, 7)] + [torch.arange(5)]
    for copies, d in zip(comm.broadcast_coalesced([t.cuda(0) for t in tensors], (0, 1), buffer_size=50), (0, 1)):
        assert where(*copies) == [d] * 4
        compare(list(copies), tensors)
    for source in (x, x.to("cuda:0"), x.to("cuda:1")):
        chunks = comm.scatter(source, (0, 1), chunk_sizes=(5, 15))
        assert where(*chunks) == [0, 1]
        compare(list(chunks), [x[:5], x[5:]])
        compare(comm.gather(chunks, destination=1), x)
        compare(comm.gather(comm.scatter(source, (0, 1), dim=1), dim=1, destination=0), x)
    y = torch.randn(20, 6)
    total = comm.reduce_add((x.cuda(0), y.cuda(1)), destination=1)
    assert total.get_device() == 1
    compare(total, x + y)
    sums = comm.reduce_add_coalesced([[t.cuda(0) for t in tensors], [(t * 2).cuda(1) for t in tensors]], destination=0)
    assert where(*sums) == [0] * 4
    compare(list(sums), [t * 3 for t in tensors])


@on_two("NCCL: every collective of torch.cuda.nccl, in place and not, every dtype and reduction")
def nccl_collectives():
    assert nccl.version() >= (2, 0)
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.int8, torch.uint8):
        x, y = ((torch.randn(1111) * 3).to(dtype) for _ in range(2))
        both = [x.cuda(0), y.cuda(1)]
        wide = torch.float64 if dtype.is_floating_point else dtype
        for op, expected in ((0, x.to(wide) + y.to(wide)), (1, x.to(wide) * y.to(wide)), (2, torch.maximum(x, y)), (3, torch.minimum(x, y))):
            expected = expected.to(dtype)
            out = [torch.empty_like(t) for t in both]
            nccl.all_reduce(both, out, op)
            compare(out, [expected] * 2, rtol=0, atol=0)
            nccl.reduce(both, out[1], root=1, op=op)
            compare(out[1], expected, rtol=0, atol=0)
        nccl.all_gather(both, out := [torch.empty(2222, dtype=dtype, device=f"cuda:{d}") for d in (0, 1)])
        compare(out, [torch.cat([x, y])] * 2)
        nccl.reduce_scatter(out, parts := [torch.empty_like(t) for t in both])
        compare(parts, [x + x, y + y])
        nccl.broadcast(both, root=1)
        compare(both, [y, y])
        nccl.all_reduce(both)
        compare(both, [y + y] * 2)
    raises("", lambda: nccl.all_reduce([torch.ones(3, device="cuda:0"), torch.ones(4, device="cuda:1")]))


@on_two("a process group of one rank, by NCCL")
def process_group():
    import torch.distributed as dist
    store = dist.HashStore()
    dist.init_process_group("nccl", store=store, rank=0, world_size=1, device_id=torch.device("cuda:0"))
    x = torch.arange(5.0, device="cuda:0")
    dist.all_reduce(x)
    dist.broadcast(x, 0)
    out = [torch.zeros(5, device="cuda:0")]
    dist.all_gather(out, x)
    compare(out, [torch.arange(5.0)])
    dist.barrier()
    dist.destroy_process_group()


class NcclId(ctypes.Structure):
    _fields_ = [("internal", ctypes.c_char * 128)]


@on_two("NCCL's own functions: ranks of one process that join one by one, each from its thread; those of several are refused in words")
def nccl_ranks():
    library = ctypes.CDLL(None)
    library.ncclGetLastError.restype = ctypes.c_char_p
    comm_, sent = ctypes.c_void_p(), NcclId()
    assert library.ncclCommInitRank(ctypes.byref(comm_), 2, NcclId(), 0) == 5  # ncclInvalidUsage: an id of nobody here
    assert b"one process only" in library.ncclGetLastError(None)
    assert library.ncclGetUniqueId(ctypes.byref(sent)) == 0
    assert library.ncclCommInitRank(ctypes.byref(comm_), 3, sent, 0) == 5  # more than there are devices
    tensors, results = [torch.full((1000,), d + 1.0, device=f"cuda:{d}") for d in (0, 1)], {}

    def rank(d):
        torch.cuda.set_device(d)
        mine, n, r = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
        codes = [library.ncclCommInitRank(ctypes.byref(mine), 2, sent, d)]
        codes += [library.ncclCommCount(mine, ctypes.byref(n)), library.ncclCommUserRank(mine, ctypes.byref(r))]
        p = ctypes.c_void_p(tensors[d].data_ptr())
        for _ in range(100):
            codes.append(library.ncclAllReduce(p, p, ctypes.c_size_t(1000), 7, 4, mine, None))  # float32, average
        codes.append(library.ncclCommDestroy(mine))
        results[d] = (set(codes), n.value, r.value, tensors[d].cpu())
    both = [threading.Thread(target=rank, args=(d,)) for d in (0, 1)]
    for t in both:
        t.start()
    for t in both:
        t.join()
    for d in (0, 1):
        assert results[d][:3] == ({0}, 2, d), results[d][:3]
        compare(results[d][3], torch.full((1000,), 1.5))
    assert library.ncclCommCount(comm_, None) == 4  # ncclInvalidArgument
    assert library.ncclGroupEnd() == 5


# ---- torch.nn.parallel ----

def small_net():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 16), nn.Tanh(), nn.Linear(16, 5))


@on_two("replicate, parallel_apply, scatter, gather")
def parallel_parts():
    net = small_net().cuda(0).eval()
    replicas = nn.parallel.replicate(net, [0, 1])
    assert where(*(r[0].weight for r in replicas)) == [0, 1]
    x = torch.randn(9, 3, 8, 8)
    inputs = nn.parallel.scatter(x.cuda(0), [0, 1])
    assert where(*inputs) == [0, 1] and [len(i) for i in inputs] == [5, 4]
    outputs = nn.parallel.parallel_apply(replicas, inputs)
    compare(nn.parallel.gather(outputs, 1), net.cpu()(x), rtol=1e-4, atol=1e-5)


@on_two("DataParallel trains as the CPU does, from either device, with keyword arguments and nested outputs")
def data_parallel():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 20), nn.Linear(20, 3)

        def forward(self, x, scale=None):
            h = torch.tanh(self.a(x))
            return dict(out=self.b(h) * scale, hidden=[h.mean(1)])

    def train(net, device):
        torch.manual_seed(5)
        optimizer, losses = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), []
        for step in range(6):
            x, y, scale = torch.randn(11, 6), torch.randn(11, 3), torch.rand(11, 1)
            result = net(x.to(device), scale=scale.to(device))
            loss = ((result["out"] - y.to(device)) ** 2).mean() + result["hidden"][0].sum()
            optimizer.zero_grad(set_to_none=step % 2 == 0)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses, [p.detach() for p in net.parameters()]

    torch.manual_seed(4)
    net = Net()
    for ids in ([0, 1], [1, 0]):
        expected = train(copy.deepcopy(net), "cpu")
        got = train(nn.DataParallel(copy.deepcopy(net).cuda(ids[0]), ids), f"cuda:{ids[0]}")
        compare(got, expected, rtol=1e-4, atol=1e-5)
        assert where(*got[1]) == [ids[0]] * 4


@on_two("DataParallel of a convolutional net: buffers of the first device are updated, evaluation equals the CPU")
def data_parallel_buffers():
    net = small_net()
    parallel = nn.DataParallel(copy.deepcopy(net).cuda(0), [0, 1])
    x = torch.randn(8, 3, 8, 8)
    parallel(x.cuda(0)).sum().backward()
    net(x[:4])  # batch norm of the first device sees its half
    compare(parallel.module[1].running_mean, net[1].running_mean, rtol=1e-4, atol=1e-5)
    net.eval(), parallel.eval()
    compare(parallel(x), net(x), rtol=1e-4, atol=1e-4)


@on_two("threads on both devices at once")
def threads():
    failures, x = [], torch.randn(64, 64)

    def work(d):
        try:
            torch.cuda.set_device(d)
            a = x.cuda()
            for _ in range(50):
                a = (a @ a).softmax(1)
            assert a.get_device() == d
            b = x
            for _ in range(50):
                b = (b @ b).softmax(1)
            compare(a, b, rtol=1e-4, atol=1e-5)
        except BaseException as e:
            failures.append(e)
    both = [threading.Thread(target=work, args=(i % 2,)) for i in range(4)]
    for t in both:
        t.start()
    for t in both:
        t.join()
    assert not failures, failures


@on_two("saving and loading: map_location between devices")
def saving():
    import io
    x = {"a": torch.arange(4.0, device="cuda:1"), "b": torch.ones(2, device="cuda:0")}
    f = io.BytesIO()
    torch.save(x, f)
    for location, places in ((None, [1, 0]), ({"cuda:1": "cuda:0"}, [0, 0]), ("cuda:1", [1, 1]), ("cpu", [-1, -1])):
        f.seek(0)
        y = torch.load(f, map_location=location)
        assert where(y["a"], y["b"]) == places, (location, places)
        compare(y["a"], torch.arange(4.0))


@on_two("default, current and external streams of both devices; set_device inside of a device's context; storages and legacy constructors")
def identities():
    assert torch.cuda.default_stream(0) != torch.cuda.default_stream(1) and torch.cuda.default_stream(1).device.index == 1
    with torch.cuda.device(1):
        assert torch.cuda.current_stream() == torch.cuda.default_stream(1) == torch.cuda.current_stream(1)
        torch.cuda.set_device(0)
        assert torch.randn(2).cuda().get_device() == 0
        raw = ctypes.c_ulonglong(0)
        with torch.cuda.device(1):
            assert torch.cuda.cudart().cudaStreamCreate(ctypes.addressof(raw)) == 0 and raw.value
        s = torch.cuda.ExternalStream(raw.value, device="cuda:1")
        with torch.cuda.stream(s):
            x = torch.ones(5, device="cuda:1") * 3
        s.synchronize()
        compare(x, torch.full((5,), 3.0))
        assert torch.cuda.cudart().cudaStreamDestroy(raw.value) == 0
        torch.cuda.set_device(1)
    assert torch.cuda.current_device() == 0
    e = torch.cuda.Event()
    assert e.device is None
    e.record(torch.cuda.Stream(1))
    assert e.device.index == 1
    x = torch.randn(4, 4, device="cuda:1")
    for kind in ("byte", "int", "half", "double"):
        assert getattr(x.storage(), kind)().get_device() == 1
    assert x.storage().clone().get_device() == 1 and torch.cuda.FloatTensor(1, device=1).get_device() == 1
    assert x.new([1, 2]).get_device() == 1 and x.new([1], device=0).get_device() == 0
    assert copy.deepcopy(x).get_device() == 1


@case("four devices: communication, collectives of four ranks, DataParallel", server=("--devices", 4, "--memory", "256MiB"))
def four():
    devices = range(torch.cuda.device_count())
    assert len(devices) == 4
    x = torch.randn(4, 10, 3)
    parts = [x[d].to(f"cuda:{d}") for d in devices]
    compare(comm.reduce_add(parts, destination=2), x.sum(0))
    compare(comm.gather(comm.scatter(x.cuda(3), devices), destination=1), x)
    nccl.all_reduce(parts, out := [torch.empty_like(p) for p in parts], op=4)
    compare(out, [x.mean(0)] * 4)
    nccl.all_gather(parts, out := [torch.empty(40, 3, device=p.device) for p in parts])
    compare(out, [x.view(40, 3)] * 4)
    nccl.reduce_scatter(out, parts)
    compare(parts, [x[d] * 4 for d in devices])
    net = small_net()
    parallel = nn.DataParallel(copy.deepcopy(net).cuda(0))
    y = torch.randn(10, 3, 8, 8)
    compare(parallel.eval()(y), net.eval()(y), rtol=1e-4, atol=1e-4)


# ---- processes of their own ----

@on_two("two threads that begin with CUDA at once, each on a device of its own", alone=True)
def first_use_by_threads():
    results = {}
    both = [threading.Thread(target=lambda d=d: results.update({d: torch.tensor([d + 1.0]).cuda(d)})) for d in (0, 1)]
    for t in both:
        t.start()
    for t in both:
        t.join()
    assert where(results[0], results[1]) == [0, 1]
    compare([results[0], results[1]], [torch.tensor([1.0]), torch.tensor([2.0])])


@on_two("placement and mixing without the shape cache", slow=True, env={"DJINN_PERF": "no_shape_cache"})
def without_cache():
    placement()
    mixing()


@on_two("CUDA_VISIBLE_DEVICES=1 shows the second device as the first", env={"CUDA_VISIBLE_DEVICES": "1"})
def visible_second():
    assert torch.cuda.device_count() == 1
    x = torch.arange(3.0, device="cuda")
    assert x.get_device() == 0
    compare(x * 2, torch.tensor([0.0, 2.0, 4.0]))
    raises("device ordinal", lambda: torch.ones(1, device="cuda:1"))


@on_two("CUDA_VISIBLE_DEVICES=1,0 turns them round", env={"CUDA_VISIBLE_DEVICES": "1,0"})
def visible_reordered():
    assert torch.cuda.device_count() == 2
    x = torch.ones(100 << 20, dtype=torch.uint8, device="cuda:1")
    assert torch.cuda.mem_get_info(1)[0] < torch.cuda.mem_get_info(0)[0]
    compare(x.to("cuda:0")[:4], torch.ones(4, dtype=torch.uint8))


@on_two("CUDA_VISIBLE_DEVICES=0,1 with more than there are shows those that are", slow=True, env={"CUDA_VISIBLE_DEVICES": "0,1,2"})
def visible_too_many():
    assert torch.cuda.device_count() == 2


if __name__ == "__main__":
    main()

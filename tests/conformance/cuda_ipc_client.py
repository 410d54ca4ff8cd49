"""CUDA memory and events between processes, each with its own session: torch.multiprocessing, and the runtime's IPC functions under it; see suite.py."""
import contextlib
import ctypes
import os
import signal

import torch
import torch.multiprocessing as multiprocessing

from suite import Skip, case, main

PATIENCE = 120
MIB = 1 << 20
EXPANDABLE = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
SPAWN = multiprocessing.get_context("spawn")


@contextlib.contextmanager
def process(target, *arguments, status=0):
    """A process that runs target(take, give, *arguments); as `take` and `give` it has the other ends of the two queues here."""
    there, back = SPAWN.Queue(), SPAWN.Queue()
    p = SPAWN.Process(target=target, args=(there, back, *arguments))
    p.start()
    try:
        yield p, there.put, lambda: back.get(timeout=PATIENCE)
        p.join(PATIENCE)
        assert p.exitcode == status, f"the process ended with {p.exitcode}"
    finally:
        if p.is_alive():
            p.kill()


def double_in_place(take, give):
    x = take.get(timeout=PATIENCE)
    total = x.sum().item()
    x.mul_(2)
    torch.cuda.synchronize()
    give.put(total)
    assert take.get(timeout=PATIENCE) == "done"


@case("a tensor sent to another process: it reads what is there, and writes are seen here")
def tensor():
    x = torch.arange(1000.0, device="cuda")
    with process(double_in_place) as (_, put, get):
        put(x)
        assert get() == 499500
        assert torch.equal(x.cpu(), torch.arange(1000.0) * 2)
        put("done")


@case("tensors of another process are seen here")
def from_process():
    with process(produce) as (_, put, get):
        small, large, view = get(), get(), get()
        assert small.device.type == "cuda" and torch.equal(small.cpu(), torch.arange(10))
        assert large.shape == (3, MIB) and large[2, -1].item() == 7
        assert torch.equal(view.cpu(), torch.arange(100.0).view(10, 10).t()[2:5])
        view.zero_()
        torch.cuda.synchronize()
        put("zeroed")
        assert get() == 0
        del small, large, view


def produce(take, give):
    base = torch.arange(100.0, device="cuda").view(10, 10)
    keep = [torch.arange(10, device="cuda"), torch.full((3, MIB), 7.0, device="cuda"), base.t()[2:5]]
    for t in keep:
        give.put(t)
    assert take.get(timeout=PATIENCE) == "zeroed"
    give.put(base.t()[2:5].abs().sum().item())


def train(take, give):
    model = take.get(timeout=PATIENCE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(5):
        x = torch.randn(8, 16, generator=torch.Generator().manual_seed(step)).to("cuda")
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.cuda.synchronize()
    give.put(loss.item())
    assert take.get(timeout=PATIENCE) == "done"


@case("a module whose parameters another process trains")
def module():
    torch.manual_seed(0)
    reference = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4))
    shared = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4)).to("cuda")
    shared.load_state_dict(reference.state_dict())
    with process(train) as (_, put, get):
        put(shared)
        get()
        put("done")
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    for step in range(5):
        optimizer.zero_grad()
        reference(torch.randn(8, 16, generator=torch.Generator().manual_seed(step))).square().mean().backward()
        optimizer.step()
    for ours, theirs in zip(reference.parameters(), shared.parameters()):
        torch.testing.assert_close(theirs.cpu(), ours.detach(), rtol=1e-4, atol=1e-5)


def hold(take, give):
    x = take.get(timeout=PATIENCE)
    give.put("have")
    assert take.get(timeout=PATIENCE) == "drop"
    del x
    give.put("dropped")


@case("memory that another process holds is kept here, and reused when it lets go (ipc_collect)")
def collected():
    before = torch.cuda.memory_allocated()
    with process(hold) as (_, put, get):
        x = torch.ones(8 * MIB, dtype=torch.uint8, device="cuda")
        put(x)
        assert get() == "have"
        del x
        torch.cuda.ipc_collect()
        assert torch.cuda.memory_allocated() - before == 8 * MIB
        put("drop")
        assert get() == "dropped"
        torch.cuda.ipc_collect()
        assert torch.cuda.memory_allocated() == before


def wait_for_event(take, give):
    handle, x = take.get(timeout=PATIENCE)
    event = torch.cuda.Event.from_ipc_handle(torch.device("cuda:0"), handle)
    stream = torch.cuda.Stream()
    stream.wait_event(event)
    with torch.cuda.stream(stream):
        give.put(x.sum().item())
    assert event.query()
    assert take.get(timeout=PATIENCE) == "done"


@case("an event between processes (interprocess=True): who waits for it sees the work before it")
def event():
    x = torch.zeros(4 * MIB, device="cuda")
    e = torch.cuda.Event(enable_timing=False, interprocess=True)
    for _ in range(20):
        x.add_(1)
    e.record()
    with process(wait_for_event) as (_, put, get):
        put((e.ipc_handle(), x))
        assert get() == 20 * x.numel()
        put("done")


@case("a tensor of an expandable segment, whose memory goes by file descriptor", alone=True, env=EXPANDABLE)
def expandable():
    x = torch.arange(1000.0, device="cuda")
    assert all(s["is_expandable"] for s in torch.cuda.memory_snapshot())
    with process(double_in_place) as (_, put, get):
        try:
            put(x)
            total = get()
        except RuntimeError as e:
            raise Skip(f"the system does not let one process take another's file: {e}")
        assert total == 499500
        assert torch.equal(x.cpu(), torch.arange(1000.0) * 2)
        put("done")


def open_handle(handle):
    """cudaIpcOpenMemHandle: error and address."""
    address = ctypes.c_void_p()
    return ctypes.CDLL(None).cudaIpcOpenMemHandle(ctypes.byref(address), handle, 1), address


class Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_ubyte * 64)]


def handle_of(address):
    handle = Handle()
    return ctypes.CDLL(None).cudaIpcGetMemHandle(ctypes.byref(handle), ctypes.c_void_p(address)), handle


def open_them(take, give):
    torch.zeros(1, device="cuda")
    while (wanted := take.get(timeout=PATIENCE)) is not None:
        handle = Handle.from_buffer_copy(wanted)
        code, address = open_handle(handle)
        again, same = open_handle(handle)
        ctypes.CDLL(None).cudaGetLastError()
        value = ctypes.c_int()
        if code == 0:
            assert again == 0 and same.value == address.value
            assert ctypes.CDLL(None).cudaMemcpy(ctypes.byref(value), address, ctypes.c_size_t(4), 2) == 0
            assert [ctypes.CDLL(None).cudaIpcCloseMemHandle(address) for _ in range(3)] == [0, 0, 1]
            ctypes.CDLL(None).cudaGetLastError()
        give.put((code, value.value))


@case("handles: of cudaMalloc's memory, of its inside, opened at home, changed, and of memory that was freed", alone=True)
def handles():
    cuda, p = ctypes.CDLL(None), ctypes.c_void_p()
    torch.zeros(1, device="cuda")
    assert cuda.cudaMalloc(ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(1000)) == 0  # a neighbour, so that p has an offset
    assert cuda.cudaMalloc(ctypes.byref(p), ctypes.c_size_t(5000)) == 0
    assert cuda.cudaMemset(p, 0x11, ctypes.c_size_t(5000)) == 0
    code, handle = handle_of(p.value)
    assert code == 0 and bytes(handle_of(p.value)[1].bytes) == bytes(handle.bytes)
    assert handle_of(p.value + 256)[0] == 1  # cudaErrorInvalidValue
    assert open_handle(handle)[0] == 201     # cudaErrorDeviceUninitialized, as on CUDA
    changed = bytearray(handle.bytes)
    changed[9] ^= 1
    with process(open_them) as (_, put, get):
        put(bytes(handle.bytes))
        assert get() == (0, 0x11111111)
        put(bytes(changed))
        assert get()[0] == 400  # cudaErrorInvalidResourceHandle
        put(bytes(64))
        assert get()[0] == 400
        assert cuda.cudaFree(p) == 0
        put(bytes(handle.bytes))
        assert get()[0] == 400
        put(None)


@case("a process that is killed while it has our memory open leaves it as it is", alone=True)
def killed():
    x = torch.arange(1000.0, device="cuda")
    with process(hold, status=-signal.SIGKILL) as (p, put, get):
        put(x)
        assert get() == "have"
        os.kill(p.pid, signal.SIGKILL)
    assert torch.equal(x.cpu(), torch.arange(1000.0))
    assert (x * 2).sum().item() == 999000


if __name__ == "__main__":
    main()

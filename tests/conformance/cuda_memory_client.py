"""torch.cuda's memory: statistics, limits, pinned memory, expandable segments, virtual memory by the driver's API; see suite.py."""
import ctypes
import gc
import pickle
import tempfile

import torch

from suite import case, main

MIB = 1 << 20
EXPANDABLE = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


def fresh():
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


@case("memory_allocated, reserved, max_*, memory_stats, memory_summary, empty_cache")
def statistics():
    fresh()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    x = torch.empty(40 * MIB, dtype=torch.uint8, device="cuda")
    assert torch.cuda.memory_allocated() - allocated == 40 * MIB
    assert torch.cuda.memory_reserved() - reserved >= 40 * MIB
    del x
    assert torch.cuda.memory_allocated() == allocated
    assert torch.cuda.max_memory_allocated() - allocated == 40 * MIB
    assert torch.cuda.max_memory_reserved() >= torch.cuda.memory_reserved() > reserved
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() == reserved
    stats = torch.cuda.memory_stats()
    assert stats["num_ooms"] >= 0 and stats["allocation.all.allocated"] > 0
    assert "Active memory" in torch.cuda.memory_summary()


@case("mem_get_info follows what is mapped")
def free_memory():
    fresh()
    free, total = torch.cuda.mem_get_info()
    assert total == torch.cuda.get_device_properties(0).total_memory
    x = torch.empty(64 * MIB, dtype=torch.uint8, device="cuda")
    assert free - torch.cuda.mem_get_info()[0] == 64 * MIB
    del x
    torch.cuda.empty_cache()
    assert torch.cuda.mem_get_info() == (free, total)


@case("memory_snapshot, _record_memory_history, _dump_snapshot")
def snapshot():
    fresh()
    torch.cuda.memory._record_memory_history(max_entries=1000)
    x = torch.empty(30 * MIB, dtype=torch.uint8, device="cuda")
    assert any(b["address"] == x.data_ptr() for s in torch.cuda.memory_snapshot() for b in s["blocks"])
    with tempfile.NamedTemporaryFile() as file:
        torch.cuda.memory._dump_snapshot(file.name)
        dump = pickle.load(open(file.name, "rb"))
    torch.cuda.memory._record_memory_history(enabled=None)
    actions = [t for t in dump["device_traces"][0] if t["action"] == "alloc"]
    assert any(t["addr"] == x.data_ptr() and t["size"] == 30 * MIB and "snapshot" in str(t["frames"]) for t in actions), actions


@case("set_per_process_memory_fraction: OutOfMemoryError at the limit, and work afterwards", alone=True)
def fraction():
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(256 * MIB / total)
    keep = torch.ones(100 * MIB, dtype=torch.uint8, device="cuda")
    try:
        torch.empty(200 * MIB, dtype=torch.uint8, device="cuda")
        raise AssertionError("more than the fraction was given")
    except torch.cuda.OutOfMemoryError as e:
        assert "CUDA out of memory" in str(e)
    assert torch.cuda.memory_stats()["num_ooms"] == 1
    assert keep.min().item() == keep.max().item() == 1
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.zeros(200 * MIB, dtype=torch.uint8, device="cuda").sum().item() == 0


@case("more than the device has: OutOfMemoryError, and work afterwards", alone=True)
def out_of_memory():
    total = torch.cuda.get_device_properties(0).total_memory
    for _ in range(2):
        try:
            torch.empty(2 * total, dtype=torch.uint8, device="cuda")
            raise AssertionError("more than there is was given")
        except torch.cuda.OutOfMemoryError:
            pass
    assert torch.ones(1000, device="cuda").sum().item() == 1000


@case("more than the device has, with expandable segments", alone=True, env=EXPANDABLE)
def out_of_memory_expandable():
    out_of_memory()


@case("pin_memory, non_blocking copies both ways, cudaHostRegister, is_pinned")
def pinned():
    x = torch.arange(3 * MIB, dtype=torch.float32)
    p = x.pin_memory()
    assert p.is_pinned() and not x.is_pinned()
    back = torch.empty_like(x, pin_memory=True)
    back.copy_(p.to("cuda", non_blocking=True) * 2, non_blocking=True)
    torch.cuda.synchronize()
    assert torch.equal(back, x * 2)
    runtime = torch.cuda.cudart()
    assert int(runtime.cudaHostRegister(x.data_ptr(), x.numel() * 4, 0)) == 0
    assert x.is_pinned()
    assert torch.equal(x.to("cuda", non_blocking=True).cpu(), x)
    assert int(runtime.cudaHostUnregister(x.data_ptr())) == 0
    assert not x.is_pinned()


@case("CachingHostAllocator: a block is not reused while a copy from it is under way, and is afterwards")
def pinned_cache():
    address = set()
    for i in range(50):
        p = torch.full((MIB,), float(i)).pin_memory()
        address.add(p.data_ptr())
        d = p.to("cuda", non_blocking=True)
        del p
        assert torch.full((MIB,), -1.0).pin_memory()[0].item() == -1
        assert d[0].item() == i and d[-1].item() == i
    assert len(address) < 50, "pinned blocks are never reused"


def train(device):
    torch.manual_seed(0)
    m = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)).to(device)
    o = torch.optim.AdamW(m.parameters(), lr=1e-2)
    losses = []
    for step in range(10):
        g = torch.Generator().manual_seed(step)
        x, y = torch.randn(32 * (1 + step % 3), 64, generator=g), torch.randint(10, (32 * (1 + step % 3),), generator=g)
        loss = torch.nn.functional.cross_entropy(m(x.to(device)), y.to(device))
        o.zero_grad()
        loss.backward()
        o.step()
        losses.append(loss.item())
    return losses


def numbers_of_training():
    torch.testing.assert_close(train("cuda"), train("cpu"), rtol=1e-4, atol=0)


@case("expandable segments: the numbers of training are the CPU's, segments are expandable", alone=True, env=EXPANDABLE)
def expandable_training():
    numbers_of_training()
    assert all(s["is_expandable"] for s in torch.cuda.memory_snapshot())
    fresh()
    free, total = torch.cuda.mem_get_info()
    assert total - free == torch.cuda.memory_reserved(), (free, total, torch.cuda.memory_reserved())


def fragmented():
    """60 MiB at the front of what was 100, then 120 more with a limit of 200: there is room only if the 40 behind it can be a part of it."""
    torch.cuda.set_per_process_memory_fraction(200 * MIB / torch.cuda.get_device_properties(0).total_memory)
    torch.empty(100 * MIB, dtype=torch.uint8, device="cuda")
    front = torch.full((60 * MIB,), 7, dtype=torch.uint8, device="cuda")
    return front, torch.full((120 * MIB,), 9, dtype=torch.uint8, device="cuda")


@case("without expandable segments a block too large for what lies in pieces is refused", alone=True)
def fragmentation():
    try:
        fragmented()
        raise AssertionError("the next case shows nothing")
    except torch.cuda.OutOfMemoryError:
        pass


@case("expandable segments: the same block grows into it", alone=True, env=EXPANDABLE)
def expandable_growth():
    front, large = fragmented()
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert front.min().item() == front.max().item() == 7 and large.min().item() == large.max().item() == 9


@case("cudaMallocAsync as PyTorch's allocator: training's numbers are the CPU's, the pool's statistics add up", alone=True,
      env={"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"})
def malloc_async():
    assert torch.cuda.get_allocator_backend() == "cudaMallocAsync"
    numbers_of_training()
    fresh()
    allocated, free = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[0]
    x = torch.ones(40 * MIB, dtype=torch.uint8, device="cuda")
    assert torch.cuda.memory_allocated() - allocated == 40 * MIB
    assert free - torch.cuda.mem_get_info()[0] >= 40 * MIB
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        y = x + 1
        x.record_stream(side)
    del x
    assert y.min().item() == y.max().item() == 2
    del y
    fresh()
    assert torch.cuda.memory_allocated() == allocated and torch.cuda.max_memory_allocated() == allocated
    try:
        torch.empty(2 * torch.cuda.get_device_properties(0).total_memory, dtype=torch.uint8, device="cuda")
        raise AssertionError("more than there is was given")
    except torch.cuda.OutOfMemoryError:
        pass


class Location(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int), ("id", ctypes.c_int)]


class Properties(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int), ("handles", ctypes.c_int), ("location", Location), ("windows", ctypes.c_void_p), ("flags", ctypes.c_ubyte * 8)]


class Access(ctypes.Structure):
    _fields_ = [("location", Location), ("flags", ctypes.c_int)]


@case("the driver's virtual memory: one handle at two addresses, access, and a fault without", alone=True)
def aliasing():
    torch.cuda.init()
    cuda, size, word = ctypes.CDLL("libcuda.so.1"), 2 * MIB, ctypes.c_uint64

    def ok(code, *expected):
        assert code in (expected or (0,)), code
    torch.zeros(1, device="cuda")
    p = Properties(type=1, location=Location(1, 0))
    handle, address = word(), word()
    ok(cuda.cuMemCreate(ctypes.byref(handle), word(size + 1), ctypes.byref(p), word(0)), 1)
    ok(cuda.cuMemCreate(ctypes.byref(handle), word(size), ctypes.byref(p), word(0)))
    ok(cuda.cuMemAddressReserve(ctypes.byref(address), word(4 * size), word(0), word(0), word(0)))
    a, b = address.value, address.value + 2 * size
    for at in (a, b):
        ok(cuda.cuMemMap(word(at), word(size), word(0), handle, word(0)))
        ok(cuda.cuMemSetAccess(word(at), word(size), ctypes.byref(Access(Location(1, 0), 3)), word(1)))
    ok(cuda.cuMemsetD32Async(word(a), ctypes.c_uint(0x01020304), word(size // 4), None))
    runtime = torch.cuda.cudart()
    host = torch.empty(size // 4, dtype=torch.int32)
    lib = ctypes.CDLL(None)

    def read(at):
        return lib.cudaMemcpy(ctypes.c_void_p(host.data_ptr()), ctypes.c_void_p(at), ctypes.c_size_t(size), 2)
    ok(read(b))
    assert bool((host == 0x01020304).all()) and runtime
    ok(cuda.cuMemUnmap(word(a), word(size)))
    ok(cuda.cuMemRelease(handle))
    ok(read(b))
    ok(cuda.cuMemSetAccess(word(b), word(size), ctypes.byref(Access(Location(1, 0), 0)), word(1)))
    ok(read(b), 700)  # cudaErrorIllegalAddress


if __name__ == "__main__":
    main()

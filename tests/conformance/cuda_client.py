"""torch.cuda itself: streams, events, properties, visibility, NVML's queries, NVTX, what is refused; see suite.py. Memory, graphs, sharing, profiling and
several devices have suites of their own."""
import contextlib
import ctypes
import io
import os
import subprocess
import sys
import time
import warnings

import torch

from suite import Skip, case, main


def work(steps=30):
    a = x = torch.randn(256, 256, device="cuda")
    for _ in range(steps):
        x = torch.tanh(a @ x)
    return x


@case("torch.cuda.Stream: wait_stream, record_stream, priorities")
def streams():
    low, high = torch.cuda.Stream(), torch.cuda.Stream(priority=-1)
    assert high.priority < low.priority, (high.priority, low.priority)
    x = torch.ones(1000, device="cuda")
    with torch.cuda.stream(low):
        y = x * 2
    high.wait_stream(low)
    with torch.cuda.stream(high):
        y.record_stream(high)
        z = y + 1
    torch.cuda.current_stream().wait_stream(high)
    assert z.sum().item() == 3000


@case("streams: query, synchronize, wait_event, equality, the default stream, contexts nest, torch.Stream, external ones")
def stream_objects():
    s, t = torch.cuda.Stream(), torch.cuda.Stream()
    assert s != t and torch.cuda.ExternalStream(s.cuda_stream).cuda_stream == s.cuda_stream and torch.cuda.current_stream() == torch.cuda.default_stream()
    with torch.cuda.stream(s):
        assert torch.cuda.current_stream() == s
        with torch.cuda.stream(t):
            assert torch.cuda.current_stream() == t
        assert torch.cuda.current_stream() == s
        y = work()
        done = s.record_event()
    t.wait_event(done)
    s.synchronize()
    assert s.query() and done.query() and torch.isfinite(y).all()
    with torch.Stream("cuda") as generic:
        assert torch.cuda.current_stream().stream_id == generic.stream_id
    assert torch.cuda.Stream.priority_range() == (0, -3)  # of the six that a device has, PyTorch uses four


@case("events: elapsed_time against the wall clock, query, wait, reuse, errors of events that were not recorded or have no timing")
def events():
    work(2), torch.cuda.synchronize()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    wall = time.perf_counter()
    begin.record()
    work(60)
    end.record()
    end.synchronize()
    wall = (time.perf_counter() - wall) * 1e3
    device = begin.elapsed_time(end)
    assert end.query() and 0 < device <= wall * 1.05 + 1, (device, wall)
    assert device > wall * 0.2, (device, wall)
    begin.record(), end.record(), torch.cuda.synchronize()
    assert begin.elapsed_time(end) < device
    plain = torch.cuda.Event()
    plain.record(), plain.synchronize()
    for a, b in ((plain, end), (begin, torch.cuda.Event(enable_timing=True))):
        try:
            a.elapsed_time(b)
        except (RuntimeError, ValueError):
            continue
        raise AssertionError("elapsed_time of events without times")
    return f"{device:.1f} ms on the device, {wall:.1f} ms on the wall"


@case("properties: a small device that is consistent with itself")
def properties():
    p = torch.cuda.get_device_properties(0)
    assert p.total_memory == torch.cuda.mem_get_info()[1] and p.multi_processor_count > 0 and p.warp_size == 32
    assert (p.major, p.minor) == torch.cuda.get_device_capability() and p.name == torch.cuda.get_device_name(0) and "Djinn" in p.name
    assert p.max_threads_per_multi_processor % p.warp_size == 0 and p.L2_cache_size > 0 and str(p.uuid)
    assert torch.cuda.device_count() == 1 and torch.cuda.current_device() == 0 and torch.cuda.is_initialized()
    assert torch.cuda.is_bf16_supported() and torch.cuda.get_arch_list() and torch.version.cuda
    with torch.cuda.device(0), torch.cuda.device_of(torch.ones(1, device="cuda")):
        assert torch.cuda.current_device() == 0
    for wrong in (1, 7):
        try:
            torch.cuda.get_device_properties(wrong)
        except (AssertionError, RuntimeError):
            continue
        raise AssertionError(f"properties of device {wrong}")
    assert torch.backends.cudnn.is_available() and torch.backends.cudnn.version() > 90000
    return repr(p)


COUNT = "import torch; print(torch.cuda.device_count(), torch._C._cuda_getDeviceCount() if {0!r} else '', torch.cuda.is_available())"


def counted(**environment):
    done = subprocess.run([sys.executable, "-c", COUNT.format("count")], capture_output=True, text=True, env={**os.environ, **environment}, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@case("CUDA_VISIBLE_DEVICES, with NVML's count and CUDA's agreeing: unset, all, a wrong one, none, negative", server=("--devices", 2))
def visible():
    for value, count in ((None, 2), ("0", 1), ("1", 1), ("1,0", 2), ("0,5,1", 1), ("", 0), ("-1", 0), ("0,-1,1", 1)):
        by_nvml, by_cuda, available = counted(**({} if value is None else {"CUDA_VISIBLE_DEVICES": value}))
        assert (int(by_nvml), int(by_cuda)) == (count, count) and available == str(count > 0), (value, by_nvml, by_cuda, available)


@case("NVML through torch.cuda: memory, processes, clock; a CPU has no temperature and no power, by name")
def nvml():
    try:
        import pynvml
    except ImportError:
        raise Skip("nvidia-ml-py is not installed (scripts/setup --tests)") from None
    x = torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    handle = torch.cuda._get_pynvml_handler(0)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    free, total = torch.cuda.mem_get_info()
    assert (memory.free, memory.total) == (free, total) and memory.used >= x.numel(), (memory.free, memory.total, free, total)
    assert torch.cuda.device_memory_used() == memory.used and 0 <= torch.cuda.memory_usage() <= 100
    assert f"process {os.getpid():>10d} uses" in torch.cuda.list_gpu_processes(), torch.cuda.list_gpu_processes()
    assert torch.cuda.clock_rate() >= 0 and pynvml.nvmlDeviceGetName(handle) == torch.cuda.get_device_name(0)
    assert str(torch.cuda.get_device_properties(0).uuid) in pynvml.nvmlDeviceGetUUID(handle)
    assert pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByUUID(pynvml.nvmlDeviceGetUUID(handle))) == 0
    assert pynvml.nvmlDeviceGetCudaComputeCapability(handle) == torch.cuda.get_device_capability()
    assert pynvml.nvmlDeviceGetCount() == 1 and pynvml.nvmlDeviceGetPciInfo(handle).busId == "00000000:00:00.0"
    for missing in (torch.cuda.temperature, torch.cuda.power_draw):
        try:
            missing()
        except pynvml.NVMLError_NotSupported:
            continue
        raise AssertionError(f"{missing.__name__} of a CPU")
    try:
        pynvml.nvmlDeviceGetFanSpeed(handle)
    except pynvml.NVMLError_FunctionNotFound:
        pass
    else:
        raise AssertionError("a CPU device has no fan")


@case("utilization: the share of the time in which the server computed, since the last question")
def utilization():
    try:
        torch.cuda.utilization()
    except ModuleNotFoundError as e:
        raise Skip(str(e)) from None
    torch.cuda.synchronize(), torch.cuda.utilization()
    time.sleep(0.5)
    idle = torch.cuda.utilization()
    work(400), torch.cuda.synchronize()
    busy = torch.cuda.utilization()
    assert idle <= 10 and busy >= 40, (idle, busy)
    return f"idle {idle} %, computing {busy} %"


@case("torch.cuda.nvtx: ranges and marks; emit_nvtx around a step")
def nvtx():
    torch.cuda.nvtx.range_push("outer")  # without a tool NVTX counts nothing: a negative depth
    torch.cuda.nvtx.mark("here")
    with torch.cuda.nvtx.range("inner {}", 3):
        y = work(1)
    torch.cuda.nvtx.range_pop()
    torch.cuda.nvtx.range_end(torch.cuda.nvtx.range_start("started"))
    with torch.autograd.profiler.emit_nvtx(record_shapes=True):
        y = (y * 2).sum()
    assert torch.isfinite(y)


@case("set_device, current_device, synchronize and lazy initialisation in threads; ipc_collect; device as an index, a string, an object")
def selection():
    for device in (0, "cuda", "cuda:0", torch.device("cuda", 0)):
        torch.cuda.synchronize(device)
        assert torch.ones(2, device=device).device == torch.device("cuda", 0)
        assert torch.cuda.memory_allocated(device) > 0 or device is not None
    torch.cuda.set_device(0), torch.cuda.ipc_collect(), torch.cuda.init()
    for wrong in ("cuda:1", 5):
        try:
            torch.ones(1, device=wrong)
        except RuntimeError as e:
            assert "invalid device ordinal" in str(e), e
            continue
        raise AssertionError(f"a tensor on {wrong}")


@case("torch.utils.collect_env names the device")
def collect_env():
    from torch.utils import collect_env as env
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        report = env.get_pretty_env_info()
    assert "Is CUDA available: True" in report and torch.version.cuda in report


@case("kernels of the program's own are refused by name: NVRTC's, jiterator's", alone=True)
def own_kernels():
    source = "template <typename T> T twice_and_one(T x) { return x + x + 1; }"
    try:
        torch.cuda.jiterator._create_jit_fn(source)(torch.ones(3, device="cuda"))
        torch.cuda.synchronize()
    except RuntimeError as e:
        assert "Djinn" in str(e) or "not supported" in str(e).lower(), e
        return str(e).splitlines()[0][:100]
    raise AssertionError("a jiterator kernel on the CPU device")


@case("preferred libraries, matmul and cuDNN flags can be set and read")
def flags():
    old = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = not old
    assert torch.backends.cuda.matmul.allow_tf32 is not old
    torch.backends.cuda.matmul.allow_tf32 = old
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True):
        y = torch.nn.functional.conv2d(torch.ones(1, 2, 5, 5, device="cuda"), torch.ones(3, 2, 3, 3, device="cuda"))
    assert (y == 18).all()
    assert torch.backends.cuda.is_built() and torch.backends.cuda.cufft_plan_cache.size >= 0
    torch.backends.cuda.preferred_linalg_library("cusolver"), torch.backends.cuda.preferred_linalg_library("default")
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert torch.backends.cuda.math_sdp_enabled() and not torch.backends.cuda.flash_sdp_enabled()


if __name__ == "__main__":
    main()

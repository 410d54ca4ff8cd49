"""torch.profiler with CUDA activity: ops, copies and calls with the server's times, tied to the ops of the host; see suite.py."""
import json
import pathlib
import tempfile
import time

import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from suite import case, main

BOTH = [ProfilerActivity.CPU, ProfilerActivity.CUDA]


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 64)).to("cuda")


def trace_of(p):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "trace.json"
        p.export_chrome_trace(str(path))
        return json.loads(path.read_text())["traceEvents"]


@case("key_averages: device times of a training step's ops, forward, backward and optimizer")
def averages():
    m = model()
    o = torch.optim.SGD(m.parameters(), lr=0.1)
    x = torch.randn(64, 256, device="cuda")
    with profile(activities=BOTH) as p:
        for _ in range(5):
            o.zero_grad()
            m(x).square().mean().backward()
            o.step()
    rows = {e.key: e for e in p.key_averages()}
    for op, count in (("aten::addmm", 10), ("aten::mm", 15), ("aten::relu", 5), ("aten::mean", 5)):
        assert rows[op].count == count, (op, rows[op].count)
        assert rows[op].self_device_time_total > 0, (op, "has no device time")
    kernels = [e for e in p.events() if e.device_type == torch.autograd.DeviceType.CUDA and e.name == "aten::addmm"]
    assert len(kernels) == 10, len(kernels)
    assert "CUDA total" in p.key_averages().table(sort_by="self_cuda_time_total")


@case("a heavy op takes the device time that a clock outside sees, a light one little")
def times():
    a = torch.randn(1024, 1024, device="cuda")
    (a @ a).sum().item()
    torch.cuda.synchronize()
    with profile(activities=BOTH) as p:
        begin = time.perf_counter()
        for _ in range(4):
            b = a @ a
        torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
        b[:8, :8] + 1
    rows = {e.key: e for e in p.key_averages()}
    device = rows["aten::mm"].self_device_time_total / 1e6
    assert 0.5 * seconds < device < seconds, (device, seconds)
    assert rows["aten::add"].self_device_time_total / 1e6 < 0.2 * device


@case("the trace: kernels, copies and fills behind the runtime calls that gave them, in the device's order")
def trace():
    x, pinned = torch.randn(1000), torch.randn(1000).pin_memory()
    with profile(activities=BOTH) as p:
        with record_function("my part"):
            d = x.to("cuda")
            e = pinned.to("cuda", non_blocking=True)
            y = (d + e).relu()
        y.cpu()
        torch.cuda.synchronize()
    events = [e for e in trace_of(p) if e.get("ph") == "X"]
    kernels = [e for e in events if e["cat"] == "kernel"]
    copies = [e for e in events if e["cat"] == "gpu_memcpy"]
    calls = {e["args"]["correlation"]: e for e in events if e["cat"] == "cuda_runtime"}
    assert [k["name"] for k in kernels] == ["aten::add", "aten::relu"], kernels
    assert [c["name"] for c in copies] == ["Memcpy HtoD (Pageable -> Device)", "Memcpy HtoD (Pinned -> Device)", "Memcpy DtoH (Device -> Pageable)"], copies
    assert [c["args"]["bytes"] for c in copies] == [4000] * 3
    assert {c["name"] for c in calls.values()} >= {"cudaLaunchKernel", "cudaMemcpyAsync", "cudaDeviceSynchronize"}, calls
    work = sorted(kernels + copies, key=lambda e: e["ts"])
    for before, after in zip(work, work[1:]):
        assert before["ts"] + before["dur"] <= after["ts"] + 0.01, (before, after)
    host = {e["args"]["External id"]: e["name"] for e in events if e["cat"] == "cpu_op" and "External id" in e["args"]}
    for w in work:
        call = calls[w["args"]["correlation"]]
        assert call["ts"] <= w["ts"], (call, w)
        if w in kernels:
            assert host[w["args"]["External id"]] == w["name"], w
    mine = [e for e in events if e["cat"] == "gpu_user_annotation" and e["name"] == "my part"]
    assert len(mine) == 1 and mine[0]["dur"] > 0, mine


@case("a schedule: only the active steps are in the trace, each time anew")
def scheduled():
    traces = []
    x = torch.ones(100, device="cuda")
    with profile(activities=BOTH, schedule=schedule(wait=1, warmup=1, active=2, repeat=2), on_trace_ready=lambda p: traces.append(trace_of(p))) as p:
        for step in range(8):
            (x * step).sum()
            torch.cuda.synchronize()
            p.step()
    assert len(traces) == 2
    for t in traces:
        names = [e["name"] for e in t if e.get("cat") == "kernel"]
        assert names == ["aten::mul", "aten::sum"] * 2, names


@case("a CUDA graph is one piece of work for each launch")
def graph():
    x = torch.ones(100, device="cuda")
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        x * 2
    torch.cuda.synchronize()
    g = torch.cuda.CUDAGraph()
    with torch.cuda.graph(g):
        y = x * 2 + 1
    with profile(activities=BOTH) as p:
        for _ in range(3):
            g.replay()
        torch.cuda.synchronize()
    assert y[0].item() == 3
    events = trace_of(p)
    assert [e["name"] for e in events if e.get("cat") == "kernel"] == ["CUDA graph"] * 3
    assert [e["name"] for e in events if e.get("cat") == "cuda_runtime"].count("cudaGraphLaunch") == 3


@case("work of several threads (autograd's too) has the thread that gave it")
def threads():
    m = model()
    x = torch.randn(8, 256, device="cuda")
    with profile(activities=BOTH) as p:
        m(x).sum().backward()
        torch.cuda.synchronize()
    calls = {e["tid"] for e in trace_of(p) if e.get("cat") == "cuda_runtime" and e["name"] == "cudaLaunchKernel"}
    assert len(calls) == 2, calls


@case("values while profiling are those without")
def values():
    x = torch.arange(1000.0, device="cuda")
    with profile(activities=[ProfilerActivity.CUDA]):
        assert (x * 2).sum().item() == 999000
        assert torch.equal((x + 1).cpu(), torch.arange(1000.0) + 1)
    assert (x * 3).sum().item() == 1498500


@case("emit_nvtx and nvtx ranges do no harm")
def nvtx():
    x = torch.ones(4, device="cuda")
    with torch.autograd.profiler.emit_nvtx():
        torch.cuda.nvtx.range_push("outer")
        assert (x + x).sum().item() == 8
        torch.cuda.nvtx.range_pop()


if __name__ == "__main__":
    main()

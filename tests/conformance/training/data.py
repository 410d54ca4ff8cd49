"""What goes in and out: loaders, copies, files, pickles, other libraries' tensors, default devices, benchmarks."""
import copy
import io
import multiprocessing
import pathlib
import pickle
import subprocess
import sys
import tempfile
import warnings

import numpy
import torch
import torch.nn as nn

from suite import Skip, case, compare, same
from training import gradients_of, loss_of, network, numbers, parameters_of, raises


class Squares(torch.utils.data.Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, i):
        return {"x": torch.full((3,), float(i)), "y": i * i}


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        return (torch.tensor([k, info.id if info else -1]) for k in range(info.id if info else 0, 8, info.num_workers if info else 1))


def epoch(loader, device):
    total, seen = torch.zeros(3, device=device), 0
    for b in loader:
        if device == "cuda" and loader.pin_memory:
            assert b["x"].is_pinned()
        total += b["x"].to(device, non_blocking=True).square().sum(0) + b["y"].to(device, non_blocking=True).sum()
        seen += len(b["y"])
    return [total, seen]


@same("DataLoader: workers by fork and by spawn, persistent, pinned, non-blocking copies, an iterable data set")
def loaders(device):
    out = []
    for options in (dict(), dict(num_workers=2), dict(num_workers=2, persistent_workers=True, prefetch_factor=3)):
        loader = torch.utils.data.DataLoader(Squares(), 5, pin_memory=device == "cuda", **options)
        out += [epoch(loader, device) for _ in range(2)]
        del loader
    return out + [sorted(x.to(device)[0].tolist() for x in torch.utils.data.DataLoader(Stream(), None, num_workers=2))]


@case("DataLoader with spawned workers, pinned, in a program of its own")
def loader_spawn():
    with tempfile.TemporaryDirectory() as folder:
        program = pathlib.Path(folder) / "spawned.py"
        program.write_text("""
import torch
class Data(torch.utils.data.Dataset):
    def __len__(self): return 12
    def __getitem__(self, i): return torch.full((2,), float(i))
if __name__ == "__main__":
    total = torch.zeros(2, device="cuda")
    for x in torch.utils.data.DataLoader(Data(), 4, num_workers=2, pin_memory=True, multiprocessing_context="spawn"):
        total += x.cuda(non_blocking=True).sum(0)
    print(total.tolist())
""")
        done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=240)
        assert done.returncode == 0 and done.stdout.strip() == "[66.0, 66.0]", (done.stdout, done.stderr[-800:])


@case("CUDA in a forked child after its parent used it is refused in PyTorch's words; the parent goes on")
def fork_is_refused():
    x = torch.ones(3, device="cuda")
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(False)

    def child():
        try:
            torch.ones(1, device="cuda")
            send.send("worked")
        except RuntimeError as e:
            send.send(str(e))

    process = context.Process(target=child)
    process.start()
    assert receive.poll(60), "the child said nothing"
    text = receive.recv()
    process.join(60)
    assert "Cannot re-initialize CUDA in forked subprocess" in text, text
    assert x.sum().item() == 3


@same("copies: non-blocking from pinned and pageable memory and back, between dtypes and layouts, pin_memory of nested structures")
def copies(device):
    x = torch.arange(60.0).reshape(5, 12)
    pinned = x.pin_memory() if device == "cuda" else x
    there = pinned.to(device, non_blocking=True)
    back = torch.empty(5, 12, pin_memory=device == "cuda")
    back.copy_(there * 2, non_blocking=True)
    if device == "cuda":
        torch.cuda.current_stream().synchronize()
    structure = torch.utils.data._utils.pin_memory.pin_memory({"a": [x, (x, "s")]}) if device == "cuda" else {"a": [x, (x, "s")]}
    t = torch.empty(12, 5, device=device).T
    t.copy_(x[:, ::1], non_blocking=True)
    return [there, back, structure["a"][1][0].to(device), t, there.to("cpu", torch.float16, non_blocking=False), x.T.to(device), there[:, ::3].cpu(), there.T.contiguous().cpu(), there.to(torch.bfloat16).cpu(), torch.stack([there, there])[1].cpu().numpy()[2].tolist()]


@case("torch.save and load: both directions of map_location, weights_only, mmap, storages shared, whole modules, callables")
def files():
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/file.pt"
        x, model = numbers("cuda", 4, 6), network("cuda")
        torch.save(dict(x=x, view=x[1:, ::2], half=x.half(), model=model.state_dict(), n=3), path)
        for where, device in ((None, "cuda"), ("cpu", "cpu"), ("cuda", "cuda"), ("cuda:0", "cuda"), (torch.device("cuda"), "cuda"), ({"cuda:0": "cpu"}, "cpu"), (lambda s, place: s, "cpu")):
            got = torch.load(path, map_location=where, weights_only=not callable(where))
            assert got["x"].device.type == device == got["model"]["0.weight"].device.type, where
            compare(got, dict(x=x, view=x[1:, ::2], half=x.half(), model=dict(model.state_dict()), n=3), 0, 0)
            assert got["x"].untyped_storage().data_ptr() == got["view"].untyped_storage().data_ptr()
        mapped = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        again = network("cuda")
        again[0].weight.data.zero_()
        again.load_state_dict(mapped["model"])
        compare(parameters_of(again), parameters_of(model), 0, 0)
        with torch.device("meta"):
            empty = nn.Linear(6, 12)
        empty.load_state_dict({k[2:]: v for k, v in mapped["model"].items() if k.startswith("0.")}, assign=True)
        compare(empty.cuda()(x), model[0](x), 0, 0)
        torch.save(numbers("cpu", 3), path)
        assert torch.load(path, map_location="cuda").is_cuda
        torch.save(model, path)
        compare(torch.load(path, weights_only=False)(x), model(x), 0, 0)
        torch.save(x, path, _use_new_zipfile_serialization=False)
        compare(torch.load(path), x, 0, 0)
        raises(pickle.UnpicklingError, "", lambda: (torch.save(print, path), torch.load(path, weights_only=True)))


@case("safetensors: saved from the device, loaded to either")
def safetensors_files():
    try:
        from safetensors.torch import load_file, load_model, save_file, save_model
    except ImportError:
        raise Skip("safetensors is not installed")
    with tempfile.TemporaryDirectory() as folder:
        model, path = network("cuda"), f"{folder}/model.safetensors"
        save_file(model.state_dict(), path)
        for device in ("cpu", "cuda", "cuda:0"):
            got = load_file(path, device=device)
            assert got["0.weight"].device.type == device[:4].rstrip(":")
            compare(got, dict(model.state_dict()), 0, 0)
        save_model(model, path)
        again = network("cuda")
        load_model(again, path, device="cuda")
        compare(parameters_of(again), parameters_of(model), 0, 0)


@case("pickle and deepcopy of device tensors, modules with shared weights, optimizers, generators and streams' absence")
def pickles():
    x = numbers("cuda", 3, 4)
    p = nn.Parameter(x.clone())
    for t in (x, x.T, x[1], x.half(), p, x.to(torch.complex64).conj(), torch.tensor([], device="cuda")):
        for again in (pickle.loads(pickle.dumps(t)), copy.deepcopy(t)):
            assert again.is_cuda and type(again) is type(t) and again.stride() == t.stride() and again.requires_grad == t.requires_grad
            compare(again, t, 0, 0)
    model = network("cuda")
    model.tied = model[0]
    again = copy.deepcopy(model)
    assert again.tied is again[0] and again[0].weight.data_ptr() != model[0].weight.data_ptr()
    compare(parameters_of(again), parameters_of(model), 0, 0)
    generator = torch.Generator("cuda").manual_seed(5)
    torch.rand(3, device="cuda", generator=generator)
    twin = torch.Generator("cuda")
    twin.set_state(generator.get_state())
    compare(torch.rand(3, device="cuda", generator=twin), torch.rand(3, device="cuda", generator=generator), 0, 0)
    raises(RuntimeError, "deepcopy", lambda: copy.deepcopy(x.requires_grad_() * 2))


@case("state_dict: equality after moves, to('cpu') and back, half() and float(), to_empty, strictness, buffers that do not persist")
def state_dicts():
    model, reference = network("cuda"), network("cpu")
    compare(dict(model.state_dict()), dict(reference.state_dict()), 0, 0)
    address = model[0].weight.data_ptr()
    assert model.to("cuda")[0].weight.data_ptr() == address
    model.cpu().cuda().half().float()
    compare(dict(model.state_dict()), {k: v.half().float() for k, v in reference.state_dict().items()}, 0, 0)
    raises(RuntimeError, "size mismatch", lambda: model.load_state_dict(dict(reference.state_dict()) | {"0.weight": torch.zeros(2, 2)}))
    missing = model.load_state_dict({"0.weight": reference[0].weight, "other": torch.zeros(1)}, strict=False)
    assert "0.bias" in missing.missing_keys and missing.unexpected_keys == ["other"]
    with torch.device("meta"):
        blank = network("meta")
    blank.to_empty(device="cuda").load_state_dict(reference.state_dict())
    compare(blank(numbers("cuda", 4, 6)), reference(numbers("cpu", 4, 6)))
    optimizer = torch.optim.Adam(blank.parameters())
    loss_of(blank, "cuda").backward()
    optimizer.step()
    assert all(v.is_cuda or k == "step" for s in optimizer.state_dict()["state"].values() for k, v in s.items())


@case("DLPack: to and from torch and numpy, on the device and the host, without a copy; streams; a capsule is used once")
def dlpack():
    x = numbers("cuda", 3, 4)
    y = torch.from_dlpack(x)
    assert y.data_ptr() == x.data_ptr() and y.device == x.device
    y.mul_(2)
    compare(x, numbers("cpu", 3, 4) * 2)
    z = torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(x.T))
    assert z.stride() == x.T.stride()
    capsule = torch.utils.dlpack.to_dlpack(x)
    torch.from_dlpack(capsule)
    raises(RuntimeError, "", lambda: torch.from_dlpack(capsule))
    assert x.__dlpack_device__()[0] == 2
    with torch.cuda.stream(torch.cuda.Stream()):
        compare(torch.from_dlpack(x), x)
    compare(torch.from_numpy(numpy.from_dlpack(x.cpu())).cuda(), x)
    for refused in (lambda: numpy.asarray(x), lambda: x.numpy()):
        raises(TypeError, "can't convert cuda:0 device type tensor to numpy", refused)


@case("__cuda_array_interface__: given and taken without a copy")
def cuda_array_interface():
    x = numbers("cuda", 3, 4)
    about = x.T.__cuda_array_interface__
    assert about["data"][0] == x.data_ptr() and about["shape"] == (4, 3) and about["strides"] == (4, 16) and about["typestr"] == "<f4", about

    class Foreign:
        __cuda_array_interface__ = x.__cuda_array_interface__

    y = torch.as_tensor(Foreign(), device="cuda")
    assert y.data_ptr() == x.data_ptr()
    y.zero_()
    assert x.abs().sum().item() == 0
    raises(AttributeError, "CUDA", lambda: x.cpu().__cuda_array_interface__)


@case("torch.set_default_device('cuda'), torch.device as a context, factories and layers on the device", alone=True)
def default_device():
    torch.set_default_device("cuda")
    assert torch.get_default_device().type == "cuda"
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 4))
    made = [torch.zeros(2), torch.arange(3), torch.tensor([1.0]), torch.randn(2, 2), torch.eye(2), torch.randint(0, 5, (3,)), torch.randperm(4), torch.linspace(0, 1, 3), torch.full((2,), 3), torch.sparse_coo_tensor([[0]], [1.0], (3,)),
            torch.from_numpy(numpy.ones(2)).cuda(), torch.hann_window(5), torch.multinomial(torch.ones(4), 2), net[0].weight, net[1].running_mean]
    assert all(t.is_cuda for t in made), [t.device for t in made]
    torch.optim.AdamW(net.parameters(), fused=True)
    loss = torch.nn.functional.cross_entropy(net(torch.randn(4, 1, 6, 6)), torch.randint(0, 4, (4,)))
    loss.backward()
    with torch.device("cpu"):
        assert torch.ones(1).device.type == "cpu"
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.arange(6.0)), 2, shuffle=True, generator=torch.Generator("cuda"))
    assert sum(b.sum().item() for b, in loader) == 15
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float64)
    assert torch.ones(1, device="cuda").dtype == torch.float64 and torch.rand(2, device="cuda").dtype == torch.float64
    torch.set_default_dtype(torch.float32)


@case("torch.utils.benchmark.Timer measures device work, which it synchronises")
def benchmarks():
    from torch.utils.benchmark import Compare, Timer
    x = numbers("cuda", 64, 64)
    done = [Timer("x @ x", globals=dict(x=x), num_threads=n).blocked_autorange(min_run_time=0.05) for n in (1, 2)]
    assert all(0 < m.median < 10 for m in done)
    Compare(done)
    assert Timer("x @ x", globals=dict(x=x)).timeit(5).median > 0


@same("a training loop as in the tutorials: loader, scheduler, clipping, evaluation with best weights kept, early stop", rtol=1e-4, atol=1e-5)
def tutorial_loop(device):
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(numbers("cpu", 40, 6), torch.randint(0, 3, (40,), generator=torch.Generator().manual_seed(1)))
    train, test = torch.utils.data.random_split(data, [32, 8], torch.Generator().manual_seed(2))
    loader = torch.utils.data.DataLoader(train, 8, shuffle=True, generator=torch.Generator().manual_seed(3), pin_memory=device == "cuda", num_workers=1)
    model, best, losses = network(device), None, []
    optimizer = torch.optim.AdamW(model.parameters(), 0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=12)
    for _ in range(3):
        model.train()
        for x, y in loader:
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            optimizer.zero_grad(set_to_none=True)
            loss = torch.nn.functional.cross_entropy(model(x), y, label_smoothing=0.1)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step(), schedule.step()
        model.eval()
        with torch.inference_mode():
            value = sum((model(x.to(device)).argmax(1) == y.to(device)).sum().item() for x, y in torch.utils.data.DataLoader(test, 4)) / len(test)
        losses.append([loss.item(), value])
        if best is None or value > best[0]:
            best = (value, copy.deepcopy(model.state_dict()))
    return [losses, list(best[1].values())]

"""torch.compile without code generation, torch.jit, torch.export, and tracing with fake tensors: programs that look at ops instead of values."""
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F

from suite import case, compare, same
from training import batch, gradients_of, loss_of, network, numbers, parameters_of, raises


@same("torch.compile(backend='eager' and 'aot_eager') of a model that trains, with dynamic shapes and a graph break", rtol=1e-5, atol=1e-6)
def compile_training(device):
    out = []
    for backend in ("eager", "aot_eager"):
        torch._dynamo.reset()
        model = network(device)
        compiled = torch.compile(model, backend=backend)
        optimizer = torch.optim.AdamW(model.parameters(), 0.01)
        for step in range(3):
            optimizer.zero_grad()
            loss_of(compiled, device, step).backward()
            optimizer.step()
        out.append(parameters_of(model))

        @torch.compile(backend=backend, dynamic=True)
        def f(x):
            y = x.sin() * x.shape[0]
            torch._dynamo.graph_break()
            y[0].add_(1)
            return y.sum() if y.shape[0] > 3 else y

        out += [f(numbers(device, n, 2)) for n in (2, 4, 5)]
    return out


@same("torch.compile of an optimizer's step and of batch norm with mutated buffers, dropout and autocast inside", rtol=1e-2, atol=1e-3)
def compile_mutation(device):
    torch._dynamo.reset()
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.0), nn.Linear(8, 3)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    step = torch.compile(optimizer.step, backend="aot_eager")

    @torch.compile(backend="aot_eager")
    def loss_in_bf16(x, y):
        with torch.autocast(device, dtype=torch.bfloat16):
            return F.cross_entropy(model(x).float(), y)

    for k in range(2):
        optimizer.zero_grad()
        loss_in_bf16(*batch(device, k)).backward()
        step()
    return list(model.state_dict().values())


@same("torch.export, make_fx, fake tensors, torch.fx symbolic trace", rtol=1e-5, atol=1e-6)
def tracing(device):
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    net, x = network(device), numbers(device, 8, 6)
    exported = torch.export.export(net, (x,))
    traced = make_fx(torch.func.grad(lambda v: net(v).sum()))(x)
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(x)
        y = fake @ fake.T
        assert y.device.type == device and y.shape == (8, 8)
    return [exported.module()(x), traced(x), torch.fx.symbolic_trace(net)(x)]


@same("torch.jit.script and trace, several runs, forward and backward, saved and loaded", rtol=1e-5, atol=1e-6)
def jit(device):
    import io
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")

        @torch.jit.script
        def f(x: torch.Tensor, n: int):
            y = x
            for _ in range(n):
                y = torch.tanh(y * 2 + 1).sigmoid()
            return y, y.sum().item()

        net, x = network(device), numbers(device, 8, 6, grad=True)
        traced, scripted = torch.jit.trace(net, x.detach()), torch.jit.script(net)
        out = [f(numbers(device, 3, seed=k), 3) for k in range(4)]
        for _ in range(3):
            scripted(x).sum().backward()
        file = io.BytesIO()
        torch.jit.save(scripted, file)
        file.seek(0)
        loaded = torch.jit.load(file, map_location=device)
        frozen = torch.jit.freeze(torch.jit.script(network(device).eval()))
        return out + [traced(x), x.grad, loaded(x), frozen(x.detach())]


@case("TorchScript's fuser, asked for by name on CUDA, is refused by the kernel's name; otherwise nothing is fused")
def jit_fuser():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.zeros(1, device="cuda")
        assert not torch._C._jit_can_fuse_on_gpu()
        torch._C._jit_override_can_fuse_on_gpu(True)
        try:
            @torch.jit.script
            def f(x, y):
                return torch.tanh(x * y + 1).sigmoid() * x

            x, y = numbers("cuda", 64), numbers("cuda", 64, seed=1)
            for _ in range(4):
                got = f(x, y)
            raises(RuntimeError, "fused_mul_add_tanh_sigmoid_mul", got.cpu)
        finally:
            torch._C._jit_override_can_fuse_on_gpu(False)

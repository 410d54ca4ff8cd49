"""torch.func: vmap, grad and their compositions, functional_call, ensembles, randomness under vmap."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.func import functional_call, grad, grad_and_value, hessian, jacfwd, jacrev, jvp, linearize, stack_module_state, vjp, vmap

from suite import case, compare, same
from training import batch, integers, network, numbers, raises


@same("grad, grad_and_value, vjp, jvp, linearize and their nestings", rtol=1e-4, atol=1e-5)
def func_derivatives(device):
    f, x, t = (lambda v: (v.sin() * v.sum()).tanh().sum()), numbers(device, 5), numbers(device, 5, seed=1)
    value, pull = vjp(torch.exp, x)
    out, push = linearize(torch.tanh, x)
    return [grad(f)(x), grad_and_value(f)(x), grad(lambda v: grad(f)(v).square().sum())(x),
            value, pull(t), jvp(torch.exp, (x,), (t,)), jvp(grad(f), (x,), (t,)), out, push(t), grad(lambda a, b: (a * b["w"]).sum(), argnums=1)(x, {"w": t}), grad(lambda a: (a.sum(), a * 2), has_aux=True)(x)]


@same("jacrev, jacfwd, hessian, chunked", rtol=1e-4, atol=1e-5)
def func_jacobians(device):
    net, x = network(device), numbers(device, 6)
    return [jacrev(net)(x), jacfwd(net)(x), jacrev(net, chunk_size=1)(x), hessian(lambda v: net(v).square().sum())(x), jacfwd(jacrev(lambda v: net(v).sum()))(x), vmap(jacrev(net))(numbers(device, 3, 6))]


@same("vmap: axes in and out, nested, chunks, of indexing, reductions, linear algebra, in-place and data movement", rtol=1e-4, atol=1e-5)
def vmaps(device):
    x, y, i = numbers(device, 3, 4, 5), numbers(device, 5, 3, seed=1), integers(device, 4, 3, 2)

    def write(a, b):
        c = a.clone()
        c[0] = b
        return c.add_(1).sort(-1)[0]

    return [vmap(lambda a: a.T @ a)(x), vmap(torch.mv, in_dims=(0, 1))(x, y), vmap(torch.outer, (0, None), 1)(x[:, 0], x[0, 0]), vmap(vmap(lambda a: a / a.norm()))(x), vmap(lambda a: a.softmax(-1).sum(0), chunk_size=2)(x),
            vmap(lambda a, k: a[k])(x, i), vmap(write)(x, x[:, 1]), vmap(lambda a: torch.linalg.svdvals(a))(x), vmap(lambda a: torch.where(a > 0, a, -a).cumsum(0))(x), vmap(lambda a: F.conv1d(a[None], torch.ones(1, 4, 3, device=device)))(x),
            vmap(lambda a: torch.einsum("ij,kj->ik", a, a))(x), vmap(lambda a, k: a.index_select(0, k))(x, i), vmap(lambda a: F.layer_norm(a, (5,)))(x), vmap(lambda d: {"a": d["a"] + 1, "b": d["a"].max(0)})({"a": x})]


@same("per-sample gradients and an ensemble by functional_call and stack_module_state", rtol=1e-4, atol=1e-5)
def func_models(device):
    net = network(device)
    x, y = batch(device)
    weights = {k: v.detach() for k, v in net.named_parameters()}

    def loss(w, a, b):
        return F.cross_entropy(functional_call(net, w, (a[None],)), b[None])

    nets = [network(device) for _ in range(3)]
    with torch.no_grad():
        for k, n in enumerate(nets):
            n[0].weight.mul_(k + 1)
    stacked, buffers = stack_module_state(nets)
    together = vmap(lambda w, b, a: functional_call(nets[0], (w, b), (a,)), in_dims=(0, 0, None))(stacked, buffers, x)
    compare(together, torch.stack([n(x) for n in nets]), 1e-5, 1e-5)
    return [vmap(grad(loss), in_dims=(None, 0, 0))(weights, x, y), together]


@case("randomness under vmap: 'same', 'different' and 'error'; dropout in an ensemble")
def func_randomness():
    x = torch.ones(4, 1000, device="cuda")
    raises(RuntimeError, "randomness", lambda: vmap(lambda a: a + torch.randn_like(a))(x))
    one = torch.ones(1000, device="cuda")
    for draw in (lambda a: torch.randn(1000, device="cuda") + a, lambda a: torch.bernoulli(one * 0.5) + a, lambda a: torch.rand_like(one) + a, lambda a: F.dropout(one, 0.5) + a, lambda a: torch.randperm(1000, device="cuda") + a):
        torch.manual_seed(0)
        equal, different = vmap(draw, randomness="same")(x), vmap(draw, randomness="different")(x)
        assert (equal[0] == equal[1]).all() and not torch.equal(different[0], different[1])
        torch.manual_seed(0)
        compare(vmap(draw, randomness="same")(x), equal, 0, 0)
    for draw in (lambda a: F.dropout(a, 0.5), lambda a: torch.bernoulli(a * 0.5), torch.rand_like, lambda a: torch.multinomial(a, 20), lambda a: a.clone().uniform_()):
        different = vmap(draw, randomness="different")(x)
        assert not torch.equal(different[0], different[1])
    net = nn.Sequential(nn.Linear(3, 64), nn.Dropout(0.5)).cuda()
    y = vmap(net, randomness="different")(torch.ones(5, 3, device="cuda"))
    assert not torch.equal(y[0] == 0, y[1] == 0)


@same("functorch transforms over custom Functions, checkpoints and autocast; torch.func.functionalize", rtol=1e-2, atol=1e-2)
def func_compositions(device):
    class Cube(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x ** 3

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, g):
            return 3 * ctx.saved_tensors[0] ** 2 * g

    x, net = numbers(device, 3, 6), network(device)
    with torch.autocast(device, dtype=torch.bfloat16):
        cast = vmap(grad(lambda v: net(v).float().sum()))(x)

    def writes(v):
        w = v.clone()
        w[0].mul_(2)
        return w.sum(0)

    return [vmap(grad(lambda v: Cube.apply(v).sum()))(x), cast, torch.func.functionalize(writes)(x)]

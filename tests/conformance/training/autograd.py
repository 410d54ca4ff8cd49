"""Autograd: gradients of gradients, hooks, functions of one's own, checkpoints, saved tensors, forward mode, anomaly mode."""
import gc
import threading
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.autograd import forward_ad
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, checkpoint_sequential, create_selective_checkpoint_contexts

from suite import case, compare, same
from training import batch, gradients_of, integers, loss_of, network, numbers, parameters_of, raises


@same("the gradient of a gradient, a gradient penalty, a Hessian-vector product, unused and materialised gradients", rtol=1e-4, atol=1e-5)
def gradient_of_gradient(device):
    model, x = network(device), numbers(device, 8, 6, grad=True)
    g, = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    penalty = (g.norm(2, dim=1) - 1).square().mean()
    penalty.backward()
    out = [g, penalty, gradients_of(model)]
    weights = list(model.parameters())
    first = torch.autograd.grad(loss_of(model, device), weights, create_graph=True)
    product = torch.autograd.grad(first, weights, [torch.ones_like(w) for w in weights], retain_graph=True)
    third = torch.autograd.grad(torch.autograd.grad(x.pow(4).sum(), x, create_graph=True)[0].sum(), x, create_graph=True)
    unused = torch.autograd.grad(x.sum(), [x, weights[0]], allow_unused=True, materialize_grads=True)
    batched = torch.autograd.grad(x[0].square(), x, torch.eye(6, device=device), is_grads_batched=True)
    return out + [first, product, third, unused, batched]


@case("gradcheck and gradgradcheck of layers in double precision")
def gradient_checks():
    x, w = numbers("cuda", 1, 2, 4, 4, dtype=torch.float64, grad=True), numbers("cuda", 2, 2, 3, 3, dtype=torch.float64, grad=True)
    y = numbers("cuda", 3, 5, dtype=torch.float64, grad=True)
    assert torch.autograd.gradcheck(F.conv2d, (x, w)) and torch.autograd.gradgradcheck(F.conv2d, (x, w), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda t: F.layer_norm(t, (5,)).softmax(-1), (y,))
    assert torch.autograd.gradcheck(torch.linalg.svdvals, (y,), check_forward_ad=True)


@same("torch.autograd.functional: jacobian, hessian, vjp, jvp, vhp, hvp, vectorised and not", rtol=1e-4, atol=1e-5)
def autograd_functional(device):
    f, x, v = (lambda t: (t.sin() * t.sum()).exp().sum()), numbers(device, 4), numbers(device, 4, seed=1)
    a = torch.autograd.functional
    return [a.jacobian(torch.sin, x), a.jacobian(torch.sin, x, vectorize=True), a.jacobian(torch.sin, x, vectorize=True, strategy="forward-mode"), a.hessian(f, x), a.hessian(f, x, vectorize=True),
            a.vjp(f, x), a.jvp(f, x, v), a.vhp(f, x, v), a.hvp(f, x, v)]


@same("hooks: module forward (pre, kwargs, always), full backward (pre), state_dict, tensor, retain_grad, multi-grad, node")
def hooks(device):
    model, seen = network(device), []
    handles = [model[0].register_forward_pre_hook(lambda m, a: (a[0] * 2,)), model[0].register_forward_hook(lambda m, a, out: out + 1),
               model[3].register_forward_hook(lambda m, a, k, out: seen.append(sorted(k)) or out, with_kwargs=True), model[3].register_full_backward_hook(lambda m, gi, go: (gi[0] * 3,)),
               model[3].register_full_backward_pre_hook(lambda m, go: (go[0] * 0.5,)), model[1].register_full_backward_hook(lambda m, gi, go: seen.append(gi[0].detach().clone()))]
    x = numbers(device, 8, 6, grad=True)
    y = model[0](x)
    y.retain_grad()
    z = model[1:](y)
    z.register_hook(lambda g: g * 2)
    torch.autograd.graph.register_multi_grad_hook([x, y], lambda grads: seen.append([g.detach().clone() for g in grads]))
    z.grad_fn.register_hook(lambda gi, go: seen.append(go[0].clone()))
    z.grad_fn.register_prehook(lambda go: (go[0] + 1,))
    z.square().sum().backward()
    out = [x.grad, y.grad, seen, gradients_of(model)]
    for h in handles:
        h.remove()
    return out + [model(x.detach())]


class SwishV2(torch.autograd.Function):
    """With setup_context, a vmap rule, a jvp and saved intermediates."""
    @staticmethod
    def forward(x, scale):
        s = torch.sigmoid(x * scale)
        return x * s, s

    @staticmethod
    def setup_context(ctx, inputs, outputs):
        x, ctx.scale = inputs
        ctx.mark_non_differentiable(outputs[1])
        ctx.save_for_backward(x, outputs[1])
        ctx.save_for_forward(x, outputs[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, g, _):
        x, s = ctx.saved_tensors
        return g * (s + x * s * (1 - s) * ctx.scale), None

    @staticmethod
    def jvp(ctx, t, _):
        x, s = ctx.saved_tensors
        return t * (s + x * s * (1 - s) * ctx.scale), None

    @staticmethod
    def vmap(info, in_dims, x, scale):
        return SwishV2.apply(x, scale), (in_dims[0], in_dims[0])


@same("a custom Function: setup_context, non-differentiable outputs, its vmap and jvp, double backward, in-place with mark_dirty", rtol=1e-5, atol=1e-6)
def custom_function(device):
    x = numbers(device, 5, grad=True)
    y, s = SwishV2.apply(x, 1.5)
    assert not s.requires_grad
    g, = torch.autograd.grad(y.sum(), x, create_graph=True)
    h, = torch.autograd.grad(g.sum(), x)

    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, t):
            ctx.mark_dirty(t)
            return t.mul_(2)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g):
            assert ctx.needs_input_grad == (True,)
            return g * 2

    w = numbers(device, 4, grad=True)
    Double.apply(w.clone()).square().sum().backward()
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(SwishV2.apply(forward_ad.make_dual(x.detach(), torch.ones_like(x)), 1.5)[0]).tangent
    each = torch.func.vmap(lambda t: SwishV2.apply(t, 1.5)[0])(numbers(device, 3, 5))
    return [y, s, g, h, w.grad, tangent, each]


@case("anomaly mode names the forward's line, and the op that made NaN")
def anomaly():
    x = numbers("cuda", 4, grad=True)
    with warnings.catch_warnings(record=True) as said, torch.autograd.detect_anomaly():
        warnings.simplefilter("always")
        y = (x * 0 - 1).sqrt()  # the line to be named
        text = raises(RuntimeError, "SqrtBackward0", lambda: y.sum().backward())
    assert "nan" in text.lower(), text
    assert any("the line to be named" in str(w.message) for w in said), [str(w.message)[-300:] for w in said]
    with torch.autograd.detect_anomaly(check_nan=False), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (x * 0 - 1).sqrt().sum().backward()
    assert x.grad.isnan().all()


@case("a tensor changed in place after it was saved is refused in the backward; with allow_mutation_on_saved_tensors it is cloned")
def version_counters():
    x = numbers("cuda", 4, grad=True)
    y = x.exp()
    y.add_(1)
    raises(RuntimeError, "modified by an inplace operation", lambda: y.sum().backward())
    with torch.autograd.graph.allow_mutation_on_saved_tensors():
        z = x.exp()
        z2 = z.sin()
        z.add_(1)
        z2.sum().backward()
    compare(x.grad, x.detach().exp().cos() * x.detach().exp())
    raises(RuntimeError, "a leaf Variable that requires grad", lambda: x.add_(1))
    w = (x * 2).sum()
    w.backward()
    v = (x * x).sum()
    v.backward()
    raises(RuntimeError, "second time", v.backward)
    with torch.inference_mode():
        i = x * 2
    raises(RuntimeError, "Inference tensors cannot be saved", lambda: (i * x).sum().backward())


def block(device):
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(16, 32), nn.Dropout(0.4), nn.ReLU(), nn.Linear(32, 16), nn.Dropout(0.2)).to(device)


@case("activation checkpoints, re-entrant and not, draw the same dropout masks again, and leave the generator where it would be")
def checkpoint_repeats_dropout():
    def run(how):
        net, x = block("cuda"), numbers("cuda", 8, 16, grad=True)
        torch.manual_seed(7)
        y = how(net, x)
        y.square().sum().backward()
        return [y.detach(), x.grad, gradients_of(net), torch.rand(4, device="cuda")]

    plain = run(lambda net, x: net(x))
    for reentrant in (False, True):
        compare(run(lambda net, x: checkpoint(net, x, use_reentrant=reentrant)), plain, where=f"use_reentrant={reentrant}")
        compare(run(lambda net, x: checkpoint_sequential(net, 2, x, use_reentrant=reentrant)), plain, where=f"sequential, use_reentrant={reentrant}")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        compare(run(lambda net, x: checkpoint(net, x, use_reentrant=False)), run(lambda net, x: net(x)))
    raises(AssertionError, "", lambda: compare(run(lambda net, x: checkpoint(net, x, use_reentrant=False, preserve_rng_state=False))[1], plain[1]))


@same("checkpoints: nested, with kwargs, of several inputs, selective by policy, determinism check", rtol=1e-5, atol=1e-6)
def checkpoint_forms(device):
    net = network(device)
    x = numbers(device, 8, 6, grad=True)

    def inner(a, scale=1.0):
        return checkpoint(net[0], a, use_reentrant=False) * scale

    checkpoint(lambda a: net[1:](checkpoint(inner, a, scale=2.0, use_reentrant=False)), x, use_reentrant=False).sum().backward()
    first = [x.grad.clone(), gradients_of(net)]

    def policy(ctx, op, *args, **kwargs):
        return CheckpointPolicy.MUST_SAVE if op == torch.ops.aten.addmm.default else CheckpointPolicy.PREFER_RECOMPUTE

    y = numbers(device, 8, 6, seed=4, grad=True)
    checkpoint(net, y, use_reentrant=False, context_fn=lambda: create_selective_checkpoint_contexts(policy)).sum().backward()
    seen = []

    def changes(a):
        seen.append(1)
        return a.sin().exp() if len(seen) == 1 else a.sin()

    raises(torch.utils.checkpoint.CheckpointError, "", lambda: checkpoint(changes, x, use_reentrant=False).sum().backward())
    return [first, y.grad]


@same("save_on_cpu pinned and not, saved_tensors_hooks, disable_saved_tensors_hooks")
def saved_tensors(device):
    out = []
    for pin in (False, True):
        net, x = network(device), numbers(device, 8, 6, grad=True)
        with torch.autograd.graph.save_on_cpu(pin_memory=pin and device == "cuda"):
            y = net(x)
        y.sum().backward()
        out += [x.grad, gradients_of(net)]
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t.shape) or t.half(), lambda t: t.float()):
        x = torch.arange(4.0, device=device, requires_grad=True)
        (x * x).exp().sum().mul(0.1).sqrt().backward()
    with torch.autograd.graph.disable_saved_tensors_hooks("not here"):
        raises(RuntimeError, "not here", lambda: torch.autograd.graph.save_on_cpu().__enter__())
    return out + [packed]


@same("forward mode: dual numbers through a network, jvp against the transpose, forward over reverse", rtol=1e-4, atol=1e-5)
def forward_mode(device):
    net, x, t = network(device), numbers(device, 8, 6, grad=True), numbers(device, 8, 6, seed=9)
    with forward_ad.dual_level():
        dual = net(forward_ad.make_dual(x, t))
        y, tangent = forward_ad.unpack_dual(dual)
        reverse, = torch.autograd.grad(dual.sum(), x, create_graph=True)
        inner, outer = forward_ad.unpack_dual(reverse)
    return [y, tangent, inner, outer]


@same("several threads run forward and backward on streams of their own, and on one model", rtol=1e-4, atol=1e-6)
def threads(device):
    shared, own, results, problems = network(device), [network(device) for _ in range(6)], [None] * 6, []

    def work(k):
        try:
            stream = torch.cuda.stream(torch.cuda.Stream()) if device == "cuda" else warnings.catch_warnings()
            with stream:
                model = own[k]
                optimizer = torch.optim.Adam(model.parameters(), 0.01)
                for step in range(5):
                    optimizer.zero_grad()
                    loss_of(model, device, step + k).backward()
                    optimizer.step()
                x = numbers(device, 4, 6, seed=k, grad=True)
                g, = torch.autograd.grad(shared(x).sum(), x)
                if device == "cuda":
                    torch.cuda.current_stream().synchronize()
                results[k] = [parameters_of(model), g]
        except Exception as e:
            problems.append(e)

    if device == "cuda":
        torch.cuda.synchronize()
    workers = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for w in workers:
        w.start()
    for w in workers:
        w.join(120)
    if problems:
        raise problems[0]
    return results


@same("gradients accumulate from several threads and streams into one leaf; backward in a thread of its own", rtol=1e-4, atol=1e-5)
def threads_into_one_leaf(device):
    x = numbers(device, 32, grad=True)
    workers = [threading.Thread(target=lambda k=k: (x * k).sum().backward()) for k in range(5)]
    for w in workers:
        w.start()
    for w in workers:
        w.join(60)
    y = numbers(device, 8, grad=True)
    if device == "cuda":
        a, b = torch.cuda.Stream(), torch.cuda.Stream()
        a.wait_stream(torch.cuda.current_stream()), b.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(a):
            p = y.exp()
        with torch.cuda.stream(b):
            b.wait_stream(a)
            q = p.sin()
        torch.cuda.current_stream().wait_stream(b)
        q.sum().backward()
    else:
        y.exp().sin().sum().backward()
    with torch.autograd.set_multithreading_enabled(False):
        (y ** 3).sum().backward()
    return [x.grad, y.grad]


@case("graphs and their tensors are freed: memory is what it was")
def graphs_are_freed():
    def step():
        model = network("cuda")
        x = numbers("cuda", 64, 6, grad=True)
        g, = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        g.square().sum().backward()

    step()
    gc.collect()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        step()
    gc.collect()
    assert torch.cuda.memory_allocated() == before, (before, torch.cuda.memory_allocated())


@same("views and in-place ops in the graph: chunks written, a view's base rebased, detach, no_grad copies", rtol=1e-5, atol=1e-6)
def views_in_the_graph(device):
    x = numbers(device, 4, 6, grad=True)
    y = x * 2
    y[1:3, ::2].mul_(3)
    y.T[0] = x[:, 5].sin()
    a, b = y.chunk(2, 1)
    z = torch.where(a > 0, a, b).cumsum(0)
    with torch.no_grad():
        z.mul_(0.5)
    z.index_put_((torch.tensor([0, 2], device=device),), x[:2, :3], accumulate=True)
    z.masked_fill_(z > 3, 1.0)
    z.sum().backward()
    i = integers(device, 4, 7)
    w = numbers(device, 4, 6, seed=1, grad=True)
    (w[i].sum() + w.index_select(0, i).prod(1).sum() + w.gather(0, integers(device, 4, 4, 6)).square().sum()).backward()
    return [x.grad, z.detach(), w.grad]

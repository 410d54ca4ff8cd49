"""Optimizers in each of their implementations, schedules, clipping, accumulation, averaged weights. The reference is the loop over single tensors on
the host."""
import copy
import functools
import inspect
import io
import math
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import optim
from torch.optim import lr_scheduler, swa_utils

from suite import case, compare, same
from training import OPTIMISER_STEPS, gradients_of, integers, loss_of, network, numbers, parameters_of, raises

# What each optimizer has by way of variants.
VARIANTS = [
    (optim.SGD, [{}, dict(momentum=0.9), dict(momentum=0.9, nesterov=True, weight_decay=0.1), dict(momentum=0.5, dampening=0.1, maximize=True)]),
    (optim.Adam, [{}, dict(amsgrad=True), dict(weight_decay=0.1, maximize=True), dict(betas=(0.5, 0.9), eps=1e-3, decoupled_weight_decay=True, weight_decay=0.1)]),
    (optim.AdamW, [{}, dict(amsgrad=True, weight_decay=0.2), dict(maximize=True)]),
    (optim.Adagrad, [{}, dict(lr_decay=0.1, weight_decay=0.1), dict(initial_accumulator_value=0.2, maximize=True)]),
    (optim.RMSprop, [{}, dict(momentum=0.9), dict(centered=True, weight_decay=0.1), dict(maximize=True)]),
    (optim.Adadelta, [{}, dict(rho=0.8, weight_decay=0.1, maximize=True)]),
    (optim.Adamax, [{}, dict(weight_decay=0.1, maximize=True)]),
    (optim.NAdam, [{}, dict(weight_decay=0.1, decoupled_weight_decay=True), dict(momentum_decay=0.01, maximize=True)]),
    (optim.RAdam, [{}, dict(weight_decay=0.1, decoupled_weight_decay=True, maximize=True)]),
    (optim.ASGD, [{}, dict(lambd=0.01, t0=1, weight_decay=0.1, maximize=True)]),
    (optim.Rprop, [{}, dict(etas=(0.4, 1.3), step_sizes=(1e-5, 10), maximize=True)]),
]


def variants(*needed):
    """(kind, options) of those optimizers that take these arguments."""
    for kind, options in VARIANTS:
        if set(needed) <= set(inspect.signature(kind).parameters):
            for o in options:
                yield kind, dict(lr=0.01) | o


@functools.cache
def gradient_steps():
    """Gradients of the same steps for everybody, so that the optimizers alone are compared."""
    model = network("cpu")
    steps = []
    for step in range(OPTIMISER_STEPS):
        loss_of(model, "cpu", step).backward()
        steps.append([p.grad.clone() for p in model.parameters()])
    return steps


def trained(kind, options, device):
    """Parameters and state after some steps with given gradients."""
    model = network(device)
    optimizer = kind(model.parameters(), **options)
    for gradients in gradient_steps():
        for p, g in zip(model.parameters(), gradients):
            p.grad = g.to(device)
        optimizer.step()
    state = [{k: v for k, v in s.items() if isinstance(v, torch.Tensor) and k != "step"} for s in optimizer.state.values()]
    steps = [float(s["step"]) for s in optimizer.state.values() if "step" in s]
    return [parameters_of(model), state, steps]


def agree(chosen, mode, rtol=1e-4, atol=1e-6):
    count = 0
    for kind, options in chosen:
        expected = trained(kind, options, "cpu")
        compare(trained(kind, options | mode, "cuda"), expected, rtol, atol, where=f"{kind.__name__}({options | mode})")
        count += 1
    return f"{count} variants"


@case("every optimizer, one tensor after another")
def optimizers_single():
    return agree(variants(), dict(foreach=False))


@case("every optimizer with foreach=True")
def optimizers_foreach():
    return agree(variants("foreach"), dict(foreach=True))


@case("every optimizer that has it with fused=True")
def optimizers_fused():
    return agree([v for v in variants("fused") if v[0] is not optim.Adagrad], dict(fused=True))


@case("Adagrad's fused kernel exists for the host only: refused in PyTorch's words")
def optimizer_fused_adagrad():
    p = nn.Parameter(numbers("cuda", 4))
    p.grad = torch.ones_like(p)
    try:
        optim.Adagrad([p], fused=True).step()
    except RuntimeError as e:
        assert "fused" in str(e).lower() or "not implemented" in str(e).lower() or "_fused_adagrad_" in str(e), e
        return str(e).splitlines()[0][:120]
    q = nn.Parameter(numbers("cpu", 4))
    q.grad = torch.ones_like(q)
    optim.Adagrad([q], fused=True).step()
    compare(p, q)


@case("every optimizer that has it with capturable=True, single and foreach")
def optimizers_capturable():
    agree(variants("capturable"), dict(capturable=True, foreach=False))
    return agree(variants("capturable"), dict(capturable=True, foreach=True))


@case("every optimizer that has it with differentiable=True: the gradient through a step")
def optimizers_differentiable():
    def through(kind, options, device):
        start = numbers(device, 5, grad=True)
        p = start.clone()
        optimizer = kind([p], **options, differentiable=True)
        p.grad = numbers(device, 5, seed=1) * (start * start).sum()
        optimizer.step()
        p.sum().backward()
        return [p, start.grad]

    for kind, options in variants("differentiable"):
        if kind is optim.Rprop or options.get("amsgrad"):
            continue
        compare(through(kind, options, "cuda"), through(kind, options, "cpu"), 1e-4, 1e-5, where=f"{kind.__name__}({options})")


@case("the learning rate as a tensor, on the host and on the device")
def optimizers_tensor_rate():
    for kind, options in ((optim.SGD, dict(momentum=0.9)), (optim.Adam, {}), (optim.AdamW, {}), (optim.RMSprop, {}), (optim.Adadelta, {}), (optim.NAdam, {})):
        expected = trained(kind, options | dict(lr=0.01), "cpu")
        fused = [dict(fused=True)] if "fused" in inspect.signature(kind).parameters else []
        capturable = [dict(capturable=True, foreach=True), dict(capturable=True, foreach=False)] if "capturable" in inspect.signature(kind).parameters else []
        for mode in [dict(foreach=False)] + fused + capturable:
            for device in ("cpu", "cuda"):
                if device == "cpu" and mode.get("capturable") or device == "cuda" and not (mode.get("capturable") or mode.get("fused")):
                    continue  # PyTorch itself refuses, or synchronises
                compare(trained(kind, options | mode | dict(lr=torch.tensor(0.01, device=device)), "cuda"), expected, 1e-4, 1e-6, where=f"{kind.__name__} {mode} lr on {device}")


@same("LBFGS with and without line search", rtol=1e-4, atol=1e-5)
def lbfgs(device):
    out = []
    for search in (None, "strong_wolfe"):
        model = network(device)
        optimizer = optim.LBFGS(model.parameters(), lr=0.5, max_iter=6, history_size=4, line_search_fn=search)

        def closure():
            optimizer.zero_grad()
            loss = loss_of(model, device)
            loss.backward()
            return loss

        out.append([[optimizer.step(closure) for _ in range(2)], parameters_of(model)])
    return out


@same("SparseAdam, SGD and Adagrad on sparse gradients of embeddings", rtol=1e-4, atol=1e-6)
def sparse_optimizers(device):
    out = []
    for kind, options in ((optim.SparseAdam, dict(lr=0.05)), (optim.SGD, dict(lr=0.1)), (optim.Adagrad, dict(lr=0.1))):
        for layer in (nn.Embedding, nn.EmbeddingBag):
            torch.manual_seed(1)
            table = layer(10, 4, sparse=True).to(device)
            optimizer = kind(table.parameters(), **options)
            for step in range(3):
                optimizer.zero_grad()
                table(integers(device, 10, 3, 4, seed=step)).square().sum().backward()
                assert table.weight.grad.is_sparse
                optimizer.step()
            out.append(table.weight)
    return out


@same("Adafactor, single and foreach, and Muon", rtol=2e-2, atol=2e-4)
def adafactor_and_muon(device):
    def run(make):
        model = nn.Sequential(nn.Linear(6, 12, bias=False), nn.Tanh(), nn.Linear(12, 3, bias=False)).to(device)
        with torch.no_grad():
            for k, p in enumerate(model.parameters()):
                p.copy_(numbers(device, *p.shape, seed=k))
        optimizer = make(model.parameters())
        for step in range(OPTIMISER_STEPS):
            optimizer.zero_grad()
            loss_of(model, device, step).backward()
            optimizer.step()
        return parameters_of(model)

    return [run(lambda p: optim.Adafactor(p, lr=0.01, weight_decay=0.1, foreach=False)), run(lambda p: optim.Adafactor(p, lr=0.01, foreach=device == "cuda")),
            run(lambda p: optim.Muon(p, lr=0.01)), run(lambda p: optim.Muon(p, lr=0.01, nesterov=False, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"))]


@case("an optimizer's state goes to a file, to the host and back, and the training goes on as if nothing had happened")
def optimizer_state_round_trip():
    for kind, options in ((optim.SGD, dict(lr=0.1, momentum=0.9)), (optim.AdamW, dict(lr=0.01, fused=True)), (optim.Adam, dict(lr=0.01, amsgrad=True)), (optim.Adam, dict(lr=0.01, capturable=True)),
                          (optim.RMSprop, dict(lr=0.01)), (optim.LBFGS, {})):
        def steps(model, optimizer, first, last):
            for step in range(first, last):
                def closure():
                    optimizer.zero_grad()
                    loss = loss_of(model, "cuda", step)
                    loss.backward()
                    return loss
                optimizer.step(closure)

        model = network("cuda")
        optimizer = kind(model.parameters(), **options)
        steps(model, optimizer, 0, 2)
        file = io.BytesIO()
        torch.save(dict(model=model.state_dict(), optimizer=optimizer.state_dict()), file)
        file.seek(0)
        saved = torch.load(file, map_location="cpu", weights_only=True)
        steps(model, optimizer, 2, 4)
        again = network("cuda")
        again.load_state_dict(saved["model"])
        second = kind(again.parameters(), **options)
        second.load_state_dict(saved["optimizer"])
        steps(again, second, 2, 4)
        compare(parameters_of(again), parameters_of(model), 0, 0, where=kind.__name__)


@same("parameter groups, hooks of steps, a closure, zero_grad of both kinds, zero gradients that are None")
def optimizer_groups(device):
    model, seen = network(device), []
    optimizer = optim.AdamW([dict(params=model[0].parameters(), lr=0.1), dict(params=model[3].parameters(), weight_decay=0.5)], lr=0.01)
    optimizer.add_param_group(dict(params=model[1].parameters(), lr=0.001))
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    for step in range(2):
        optimizer.zero_grad(set_to_none=step == 0)
        loss_of(model, device, step).backward()
        model[1].bias.grad = None
        optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    return [parameters_of(model), seen, gradients_of(model)[0]]


@same("clip_grad_norm_ in several norms, foreach and not, with a norm that is not finite; clip_grad_value_; get_total_norm")
def clipping(device):
    out = []
    for norm in (1.0, 2.0, math.inf, 0.5):
        for foreach in (None, False, True):
            model = network(device)
            (loss_of(model, device) * 100).backward()
            out += [nn.utils.clip_grad_norm_(model.parameters(), 0.7, norm, foreach=foreach), gradients_of(model)]
    for foreach in (None, False, True):
        model = network(device)
        (loss_of(model, device) * 100).backward()
        nn.utils.clip_grad_value_(model.parameters(), 0.3, foreach=foreach)
        total = nn.utils.get_total_norm(gradients_of(model), foreach=foreach)
        out += [gradients_of(model), total]
    model[0].weight.grad[0, 0] = math.nan
    raises(RuntimeError, "non-finite", lambda: nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True))
    return out


@same("gradients accumulated over micro-batches, no_sync's loss scaling, and the step of the whole batch", rtol=1e-4, atol=1e-6)
def accumulation(device):
    out = []
    for parts in (1, 4):
        model = network(device)
        optimizer = optim.SGD(model.parameters(), 0.1, momentum=0.9)
        for step in range(2):
            x, y = numbers(device, 8, 6, seed=step), integers(device, 3, 8, seed=step)
            for a, b in zip(x.chunk(parts), y.chunk(parts)):
                (F.cross_entropy(model(a), b) / parts).backward()
            optimizer.step(), optimizer.zero_grad()
        out.append(parameters_of(model))
    compare(out[1], out[0], 1e-4, 1e-5)
    return out


@same("a step in the backward: optimizers in post-accumulate-grad hooks")
def optimizer_in_backward(device):
    model = network(device)
    own = {p: optim.Adam([p], lr=0.01) for p in model.parameters()}

    def hook(p):
        own[p].step()
        own[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(hook)
    for step in range(3):
        loss_of(model, device, step).backward()
    assert all(g is None for g in gradients_of(model))
    return parameters_of(model)


SCHEDULES = [
    lambda o: lr_scheduler.StepLR(o, 2, 0.5), lambda o: lr_scheduler.MultiStepLR(o, [1, 3]), lambda o: lr_scheduler.ExponentialLR(o, 0.9), lambda o: lr_scheduler.LambdaLR(o, lambda k: 1 / (k + 1)),
    lambda o: lr_scheduler.MultiplicativeLR(o, lambda k: 0.8), lambda o: lr_scheduler.ConstantLR(o, 0.5, 2), lambda o: lr_scheduler.LinearLR(o, 0.2, 1.0, 3), lambda o: lr_scheduler.PolynomialLR(o, 4, 2.0),
    lambda o: lr_scheduler.CosineAnnealingLR(o, 4), lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2), lambda o: lr_scheduler.OneCycleLR(o, 0.5, 6),
    lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 2), lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.ExponentialLR(o, 0.9), lr_scheduler.StepLR(o, 2)], o),
    lambda o: lr_scheduler.SequentialLR(o, [lr_scheduler.LinearLR(o), lr_scheduler.ExponentialLR(o, 0.9)], [2]), lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
]


@same("every schedule of the learning rate", rtol=1e-5, atol=1e-6)
def schedules(device):
    out = []
    for make in SCHEDULES:
        model = network(device)
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            schedule, rates = make(optimizer), []
            for step in range(5):
                optimizer.zero_grad()
                loss = loss_of(model, device)
                loss.backward()
                optimizer.step()
                schedule.step(loss) if isinstance(schedule, lr_scheduler.ReduceLROnPlateau) else schedule.step()
                rates.append(optimizer.param_groups[0]["lr"])
        out.append([rates, parameters_of(model)])
    return out


@same("a schedule that changes a tensor learning rate of a capturable optimizer", rtol=1e-5, atol=1e-6)
def schedule_of_a_tensor(device):
    model = network(device)
    cuda = device == "cuda"
    optimizer = optim.Adam(model.parameters(), lr=torch.tensor(0.01, device=device) if cuda else 0.01, capturable=cuda)
    schedule = lr_scheduler.CosineAnnealingLR(optimizer, 4)
    for step in range(4):
        optimizer.zero_grad()
        loss_of(model, device, step).backward()
        optimizer.step()
        schedule.step()
    return [parameters_of(model), float(optimizer.param_groups[0]["lr"])]


@same("averaged weights: SWA and EMA of torch.optim.swa_utils, update_bn, SWALR; an EMA by lerp", rtol=1e-5, atol=1e-6)
def averaged_weights(device):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).to(device)
    averages = [swa_utils.AveragedModel(model), swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True), swa_utils.AveragedModel(model, avg_fn=swa_utils.get_ema_avg_fn(0.8))]
    own = copy.deepcopy(model)
    optimizer = optim.SGD(model.parameters(), 0.1)
    schedule = swa_utils.SWALR(optimizer, swa_lr=0.05, anneal_epochs=2)
    for step in range(4):
        optimizer.zero_grad()
        loss_of(model, device, step).backward()
        optimizer.step(), schedule.step()
        for a in averages:
            a.update_parameters(model)
        with torch.no_grad():
            torch._foreach_lerp_(list(own.parameters()), list(model.parameters()), 0.1)
    swa_utils.update_bn([numbers(device, 8, 6, seed=k) for k in range(3)], averages[0])
    return [list(a.state_dict().values()) for a in averages] + [parameters_of(own), averages[0](numbers(device, 4, 6))]

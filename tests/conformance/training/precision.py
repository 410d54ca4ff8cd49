"""Mixed precision: autocast's lists, GradScaler's skipped steps and growth, custom_fwd and custom_bwd; and deterministic mode."""
import math
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F

from suite import case, compare, same
from training import batch, gradients_of, integers, loss_of, network, numbers, parameters_of, raises

HALVES = (torch.float16, torch.bfloat16)


@case("autocast computes each op in the type of CUDA's lists (torch.amp's reference page)")
def autocast_lists():
    x, w, i = numbers("cuda", 4, 4), numbers("cuda", 4, 4, seed=1), integers("cuda", 4, 4)
    image, kernel = numbers("cuda", 1, 2, 5, 5), numbers("cuda", 3, 2, 3, 3)
    for half in HALVES:
        with torch.autocast("cuda", dtype=half):
            assert torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") == half
            y = x @ w
            lower = [y, F.linear(x, w), torch.addmm(x, x, w), torch.bmm(x[None], w[None]), F.conv2d(image, kernel), F.prelu(x, w[0, :1]), torch.einsum("ij,jk", x, w),
                     F.scaled_dot_product_attention(x[None, None], x[None, None], x[None, None])]
            upper = [y.exp(), y.softmax(-1), y.log_softmax(-1), y.pow(2), y.norm(), y.sum(), y.cumsum(0), F.layer_norm(y, (4,)), F.cross_entropy(y, i), F.mse_loss(y, x), y.prod(), torch.cdist(y, y)]
            widest = [torch.cat([y, x]), torch.addcmul(y, y, x), torch.stack([x, y]), torch.cross(y[:, :3], x[:, :3], dim=1)]
            kept = [y + y, y.relu(), y.max(1).values]
        for kind, values, wanted in (("lower", lower, half), ("upper", upper, torch.float32), ("widest", widest, torch.float32), ("kept", kept, half)):
            assert all(v.dtype == wanted for v in values), (half, kind, [v.dtype for v in values])
    assert raises(RuntimeError, "binary_cross_entropy", lambda: amp_bce(x))


def amp_bce(x):
    with torch.autocast("cuda", dtype=torch.float16):
        return F.binary_cross_entropy((x @ x).sigmoid(), x.sigmoid())


@same("training under autocast, the weights' casts cached, a region of float32 inside", rtol=2e-2, atol=2e-3)
def autocast_training(device):
    out = []
    for half in HALVES:
        model = network(device)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for step in range(3):
            with torch.autocast(device, dtype=half):
                x, y = batch(device, step)
                z = model(x) + model(x)
                with torch.autocast(device, enabled=False):
                    loss = F.cross_entropy(z.float(), y)
            loss.backward()
            optimizer.step(), optimizer.zero_grad()
            out.append(loss)
        out += parameters_of(model)
    return out


def scaled_training(device, optimizer_kind, options, poison):
    """Scales after each of 8 steps and the parameters; `poison` gives a factor of the loss at some steps."""
    model = network(device)
    optimizer = optimizer_kind(model.parameters(), **options)
    scaler = torch.amp.GradScaler(device, init_scale=1024.0, growth_factor=2.0, backoff_factor=0.5, growth_interval=2)
    scales = []
    for step in range(8):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, device, step) * poison.get(step, 1.0)).backward()
        if step % 2:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return [scales, scaler.state_dict(), parameters_of(model)]


@same("GradScaler: steps with inf or NaN are skipped, the scale backs off and grows, unscale_ before clipping", rtol=1e-5, atol=1e-6)
def grad_scaler(device):
    poison = {2: math.inf, 5: math.nan}
    kinds = [(torch.optim.SGD, dict(lr=0.1, momentum=0.9)), (torch.optim.AdamW, dict(lr=0.01)), (torch.optim.Adam, dict(lr=0.01, fused=True)), (torch.optim.SGD, dict(lr=0.1, momentum=0.9, fused=True)),
             (torch.optim.Adagrad, dict(lr=0.1, fused=device == "cpu"))]
    out = [scaled_training(device, kind, options, poison) for kind, options in kinds]
    assert out[0][0] == [1024.0, 2048.0, 1024.0, 1024.0, 2048.0, 1024.0, 1024.0, 2048.0], out[0][0]
    return out


@same("GradScaler: two optimizers of which one overflows, set_scale by update, its state saved and loaded, misuse refused")
def grad_scaler_details(device):
    first, second = network(device), network(device)
    one, two = torch.optim.SGD(first.parameters(), 0.1), torch.optim.SGD(second.parameters(), 0.1)
    scaler = torch.amp.GradScaler(device, init_scale=8.0)
    scaler.scale(loss_of(first, device)).backward()
    scaler.scale(loss_of(second, device) * math.inf).backward()
    scaler.step(one), scaler.step(two), scaler.update()
    out = [parameters_of(first), parameters_of(second), scaler.get_scale()]
    compare(out[1], parameters_of(network(device)))
    again = torch.amp.GradScaler(device)
    again.load_state_dict(scaler.state_dict())
    again.scale(torch.ones((), device=device))
    again.update(2.0)
    one.zero_grad()
    again.scale(loss_of(first, device)).backward()
    again.unscale_(one)
    raises(RuntimeError, "already been called", lambda: again.unscale_(one))
    fp16 = network(device, torch.float16)
    three = torch.optim.SGD(fp16.parameters(), 0.1)
    again.scale(loss_of(fp16, device, dtype=torch.float16).float()).backward()
    raises(ValueError, "unscale FP16 gradients", lambda: again.unscale_(three))
    return out + [again.get_scale(), gradients_of(first)]


@same("custom_fwd with a cast, custom_bwd, under autocast and without", rtol=1e-2, atol=1e-2)
def custom_functions_under_autocast(device):
    class Product(torch.autograd.Function):
        @staticmethod
        @torch.amp.custom_fwd(device_type=device, cast_inputs=torch.bfloat16)
        def forward(ctx, a, b):
            assert a.dtype == b.dtype
            ctx.save_for_backward(a, b)
            ctx.seen = a.dtype, torch.is_autocast_enabled(device)
            return a @ b

        @staticmethod
        @torch.amp.custom_bwd(device_type=device)
        def backward(ctx, g):
            a, b = ctx.saved_tensors
            assert not torch.is_autocast_enabled(device)
            return g @ b.T, a.T @ g

    a, b = numbers(device, 4, 5, grad=True), numbers(device, 5, 3, seed=1, grad=True)
    plain = Product.apply(a, b)
    with torch.autocast(device, dtype=torch.bfloat16):
        cast = Product.apply(a, b)
    assert plain.dtype == torch.float32 and cast.dtype == torch.bfloat16
    (plain.sum() + cast.float().sum()).backward()
    return [plain, cast.float(), a.grad, b.grad]


@case("the old names torch.cuda.amp.autocast, GradScaler, custom_fwd and custom_bwd")
def old_names_of_amp():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        scaler, model = torch.cuda.amp.GradScaler(init_scale=4.0), network("cuda")
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        with torch.cuda.amp.autocast():
            loss = loss_of(model, "cuda")
            assert model(numbers("cuda", 1, 6)).dtype == torch.float16
        scaler.scale(loss).backward()
        scaler.step(optimizer), scaler.update()

        class Twice(torch.autograd.Function):
            @staticmethod
            @torch.cuda.amp.custom_fwd(cast_inputs=torch.float32)
            def forward(ctx, x):
                return x * 2

            @staticmethod
            @torch.cuda.amp.custom_bwd
            def backward(ctx, g):
                return g * 2

        with torch.cuda.amp.autocast(dtype=torch.bfloat16):
            y = Twice.apply(numbers("cuda", 3, dtype=torch.bfloat16, grad=True))
        assert y.dtype == torch.float32
        y.sum().backward()


@same("a model held in bfloat16 or float16 trains", rtol=3e-2, atol=3e-3)
def reduced_parameters(device):
    out = []
    for half in HALVES:
        model = network(device, half)
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        for step in range(3):
            loss = loss_of(model, device, step, half)
            loss.backward()
            optimizer.step(), optimizer.zero_grad()
            out.append(loss)
    return out


class deterministic:
    def __init__(self, warn_only=False):
        self.warn_only = warn_only

    def __enter__(self):
        torch.use_deterministic_algorithms(True, warn_only=self.warn_only)

    def __exit__(self, *_):
        torch.use_deterministic_algorithms(False)


@case("deterministic mode: ops that have no deterministic kernel on CUDA raise, and only those")
def deterministic_errors():
    x, image, i = numbers("cuda", 6, grad=True), numbers("cuda", 1, 2, 6, 6, grad=True), integers("cuda", 6, 4)
    volume = numbers("cuda", 1, 2, 4, 4, 4, grad=True)
    refused = {
        "put_": lambda: x.detach().clone().put_(i, torch.ones(4, device="cuda")),
        "_histc_cuda": lambda: torch.histc(x.detach()),
        "median": lambda: x.detach().median(0),
        "avg_pool3d_backward_cuda": lambda: F.avg_pool3d(volume, 2).sum().backward(),
        "adaptive_avg_pool2d_backward_cuda": lambda: F.adaptive_avg_pool2d(image, 4).sum().backward(),
        "adaptive_max_pool2d_backward_cuda": lambda: F.adaptive_max_pool2d(image, 4).sum().backward(),
        "nll_loss2d_forward_out_cuda_template": lambda: F.nll_loss(image.log_softmax(1), torch.zeros(1, 6, 6, dtype=torch.long, device="cuda")),
        "ctc_loss_backward_gpu": lambda: F.ctc_loss(numbers("cuda", 9, 1, 5, grad=True).log_softmax(2), torch.tensor([[1, 2]], device="cuda"), torch.tensor([9]), torch.tensor([2])).backward(),
        "max_unpooling2d_forward_out": lambda: F.max_unpool2d(*F.max_pool2d(image, 2, return_indices=True), 2),
        "grid_sampler_2d_backward_cuda": lambda: F.grid_sample(image, numbers("cuda", 1, 3, 3, 2), align_corners=True).sum().backward(),
        "_bincount_cuda": lambda: torch.bincount(i, torch.ones(4, device="cuda")),
    }
    done = [x @ x, F.conv2d(image, numbers("cuda", 2, 2, 3, 3)), x.cumsum(0), x.detach().index_add(0, i, torch.ones(4, device="cuda")), x.detach().scatter_add(0, i, torch.ones(4, device="cuda"))]
    for name, program in refused.items():
        torch.cuda.synchronize()
        with deterministic():
            raises(RuntimeError, "does not have a deterministic implementation", program)
        program()
    with deterministic():
        again = [x @ x, F.conv2d(image, numbers("cuda", 2, 2, 3, 3)), x.cumsum(0), x.detach().index_add(0, i, torch.ones(4, device="cuda")), x.detach().scatter_add(0, i, torch.ones(4, device="cuda"))]
        assert torch.empty(3, device="cuda").isnan().all() and (torch.empty(3, dtype=torch.int32, device="cuda") == 2 ** 31 - 1).all()
    compare(again, done)
    with deterministic(warn_only=True), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.histc(x.detach())
    assert any("does not have a deterministic implementation" in str(w.message) for w in said)


@case("deterministic training gives the same bits twice")
def deterministic_training():
    def train():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.LazyLinear(3)).cuda()
        optimizer = torch.optim.AdamW(model.parameters(), 0.01)
        for step in range(3):
            F.cross_entropy(model(numbers("cuda", 4, 1, 8, 8, seed=step)), integers("cuda", 3, 4)).backward()
            optimizer.step(), optimizer.zero_grad()
        return parameters_of(model)

    with deterministic():
        first, second = train(), train()
    assert all(torch.equal(a, b) for a, b in zip(first, second))

"""Programs of a user, small, by group: `ops_client.py GROUP` runs every function of the group on the CPU (where Djinn has no part) and on the
device, and compares what they return: values, dtypes and shapes. Run by test_ops.py with libdjinn.so preloaded.

A function takes the device and returns tensors, numbers or nested lists of them. What needs more than a comparison asserts by itself.
"""
import contextlib
import math
import sys
import traceback
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F

GROUPS = {}


def group(name):
    def add(function):
        GROUPS.setdefault(name, []).append(function)
        return function

    return add


def numbers(device, *shape, seed=0, dtype=torch.float32, **options):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g).to(dtype).to(device).requires_grad_(options.get("grad", False))


def integers(device, high, *shape, seed=0):
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed)).to(device)


def on_host(value):
    if isinstance(value, torch.Tensor):
        return value.detach().to_dense().cpu() if value.layout != torch.strided else value.detach().cpu()
    if isinstance(value, (list, tuple)):
        return [on_host(v) for v in value]
    return value


# ---- elementwise, promotion, reductions ----


@group("values")
def arithmetic_and_promotion(device):
    x, i, h = numbers(device, 5, 7), integers(device, 9, 5, 7), numbers(device, 5, 7).half()
    b = x > 0
    return [x + i, i + 2.5, h + 1, h + x, b + b, i / 3, i // 2, x % 0.7, -x, x ** 2, 2 ** i, x.sub(i, alpha=3), torch.addcmul(x, x, x, value=0.5),
            i & 3, i << 1, b ^ (i > 4), x + 1j, torch.true_divide(i, i + 1), torch.fmod(x, 0.3), x.lerp(x * 2, 0.3), x.clamp(-0.5, 0.5), torch.where(b, x, h)]


@group("values")
def a_host_number_takes_part(device):
    x = numbers(device, 4, 3)
    two, small = torch.tensor(2.0, dtype=torch.float64), torch.tensor(200, dtype=torch.uint8)
    return [x * two, two - x, torch.tensor(100, dtype=torch.int32).to(device) + small, torch.maximum(x, torch.tensor(0.1)), x.add_(torch.tensor(1))]


@group("values")
def mathematics(device):
    x = numbers(device, 40).abs() * 0.4 + 0.1
    return [f(x) for f in (torch.exp, torch.log, torch.sin, torch.erf, torch.tanh, torch.rsqrt, torch.lgamma, torch.digamma, torch.sigmoid, torch.expm1, torch.asin,
                           torch.round, torch.frac, torch.sign, torch.special.i0, torch.special.erfinv, F.gelu, F.silu, F.mish, F.softplus, F.hardswish, F.logsigmoid)]


@group("values")
def reductions(device):
    x, i = numbers(device, 6, 5, 4), integers(device, 5, 6, 5)
    return [x.sum(), x.sum(1), x.mean((0, 2)), x.std(), x.var(1, unbiased=False), x.amax(-1), x.max(1), x.min(0), x.argmax(), x.argmin(1), x.prod(2), x.norm(),
            x.norm(1, dim=1), x.logsumexp(1), x.cumsum(0), x.cumprod(1), x.cummax(1), x.median(1), x.quantile(0.3), x.all(), (x > 2).any(1), i.sum(), i.float().mean(),
            x.aminmax(), torch.count_nonzero(i, 1), torch.bincount(i.flatten()), x.histc(5), torch.var_mean(x, 0), x.nansum()]


@group("values")
def sorting_and_searching(device):
    x, i = numbers(device, 6, 9), integers(device, 4, 20)
    return [x.sort(1), x.argsort(0), x.topk(3), x.kthvalue(2), i.unique(return_inverse=True, return_counts=True), torch.unique_consecutive(i), x.nonzero(), x[x > 0.2],
            torch.searchsorted(x.sort(1).values, numbers(device, 6, 2, seed=4)), torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0], device=device)), x.msort(),
            torch.isin(i, torch.tensor([1, 3], device=device)), x.masked_select(x < 0), torch.argwhere(i == 2), x.isnan().sum().item(), int(i.max())]


@group("values")
def dtypes(device):
    x = numbers(device, 8, 3)
    kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool, torch.complex64)
    out = [(x * 3).to(k) for k in kinds] + [(x.to(k) + x.to(k)) for k in kinds if k != torch.bool]
    return out + [x.to(torch.float8_e4m3fn).float(), x.view(torch.int32), x.double().view(torch.uint8), torch.view_as_complex(x[:, :2].contiguous()), x.to(torch.complex64).conj() * 2,
                  x.to(torch.complex64).imag + 1, torch.tensor(1.0).to(device).to(torch.bfloat16).item()]


@group("values")
def linear_algebra(device):
    a, b = numbers(device, 5, 5), numbers(device, 5, 3, seed=1)
    s = a @ a.T + 5 * torch.eye(5, device=device)
    return [a @ b, a.mv(b[:, 0]), torch.bmm(a.expand(3, 5, 5), b.expand(3, 5, 3)), torch.addmm(b, a, b, beta=0.5, alpha=2), torch.einsum("ij,kj->ik", a, a), a.T @ b, torch.linalg.inv(s),
            torch.linalg.cholesky(s), torch.linalg.solve(s, b), torch.linalg.det(s), torch.linalg.eigvalsh(s), torch.linalg.svdvals(a), torch.linalg.norm(a), torch.outer(b[:, 0], b[:, 1]),
            torch.baddbmm(torch.zeros(2, 5, 3, device=device), a.expand(2, 5, 5), b.expand(2, 5, 3)), torch.tril(a), torch.trace(a), torch.kron(a, b), torch.cdist(a, a), a.matrix_exp(),
            torch.linalg.qr(s)[1].abs(), torch.linalg.lstsq(s, b).solution, (a.half() @ b.half()).float().round(decimals=1), (a.to(torch.complex64) @ b.to(torch.complex64)).real]


@group("values")
def transforms_and_layers(device):
    x, s = numbers(device, 2, 3, 16, 16), numbers(device, 2, 8, 32)
    w, w1, wt = numbers(device, 4, 3, 3, 3, seed=1), numbers(device, 6, 8, 5, seed=2), numbers(device, 3, 4, 2, 2, seed=3)
    return [F.conv2d(x, w, padding=1, stride=2), F.conv1d(s, w1, dilation=2), F.conv_transpose2d(x, wt, stride=2), F.max_pool2d(x, 2), F.avg_pool2d(x, 3, 1), F.adaptive_avg_pool2d(x, 5),
            F.interpolate(x, scale_factor=2.0, mode="bilinear"), F.interpolate(x, size=(7, 5)), F.group_norm(numbers(device, 2, 6, 8), 3), F.instance_norm(x), F.layer_norm(x, (16, 16)),
            F.softmax(s, 1), F.log_softmax(s, 2), F.pad(x, (1, 2, 0, 3), mode="reflect"), F.unfold(x, 3), F.pixel_shuffle(numbers(device, 1, 8, 4, 4), 2), F.grid_sample(x, numbers(device, 2, 5, 5, 2)),
            F.scaled_dot_product_attention(*(numbers(device, 2, 4, 8, 16, seed=k) for k in range(3)), is_causal=True), F.embedding(integers(device, 8, 4, 5), s[0]), F.one_hot(integers(device, 5, 7), 5),
            torch.fft.fft(s).abs(), torch.fft.rfft2(x).real, torch.fft.irfft(torch.fft.rfft(s)), torch.stft(s[0], 16, return_complex=True, window=torch.ones(16, device=device)).abs(),
            F.cross_entropy(s[:, :, 0], integers(device, 8, 2)), F.nll_loss(F.log_softmax(s, 1), integers(device, 8, 2, 32)), F.mse_loss(s, s * 2), F.smooth_l1_loss(s, s * 3), F.kl_div(s, s.softmax(1)),
            F.binary_cross_entropy_with_logits(s, s.sigmoid()), F.ctc_loss(s.permute(2, 0, 1).log_softmax(2), integers(device, 7, 2, 5) + 1, torch.tensor([32, 30]), torch.tensor([5, 4])),
            F.embedding_bag(integers(device, 8, 10), s[0], torch.tensor([0, 4], device=device)), F.local_response_norm(x, 2), F.rms_norm(s, (32,)), F.glu(s, 1), F.prelu(x, torch.tensor([0.2], device=device))]


# ---- views, indexing, shape ----


@group("views")
def views_share_memory(device):
    x = torch.arange(24, device=device).reshape(4, 6)
    x[1:3, ::2] += 100
    x.T[0].zero_()
    x.view(-1)[5] = -1
    x.diagonal().mul_(2)
    x.select(0, 3).copy_(torch.arange(6))
    y = x.as_strided((2, 3), (7, 2), 1)
    y.fill_(7)
    return [x, y, x.expand(2, 4, 6).sum(0), x.unfold(1, 3, 2), x.flip(0), x.roll(2, 1), x.movedim(0, 1).contiguous(), x.chunk(3, 1), x.split([1, 3]), x.unbind(1), x.narrow(1, 2, 3), x[:, None].squeeze()]


@group("views")
def indexing(device):
    x = numbers(device, 6, 5)
    i, m = torch.tensor([4, 0, 0], device=device), numbers(device, 6, 5) > 0
    y, z = x.clone(), x.clone()
    y[i, torch.tensor([1, 2, 3], device=device)] = 9
    y[m] *= 2
    z.index_put_((i,), torch.ones(5, device=device), accumulate=True)
    z.masked_fill_(m, -3).index_add_(0, i, x[:3]).index_fill_(1, torch.tensor([2], device=device), 0.5)
    host = torch.tensor([True, False, True, False, True, True])  # a mask on the host decides the shape
    return [x[i], x[m], x[2], x[..., 1], x[torch.tensor([1, 2])], x[host], x[~host], y, z, x.gather(1, integers(device, 5, 6, 2)), x.scatter(0, integers(device, 6, 2, 5), 1.5), x.take(i), x.index_select(1, i),
            x.scatter_add(1, integers(device, 5, 6, 5), x), x.scatter_reduce(0, integers(device, 6, 6, 5), x, "amax"), torch.take_along_dim(x, x.argsort(1), 1), x.put(i, x[0, :3]), x.masked_scatter(m, x.flatten())]


@group("views")
def joining_and_making(device):
    x = numbers(device, 3, 4)
    d = dict(device=device)
    return [torch.cat([x, x], 1), torch.stack([x, x * 2]), x.repeat(2, 2), x.tile(2), x.repeat_interleave(2, 0), x.repeat_interleave(torch.tensor([1, 0, 2], **d), 0), torch.block_diag(x, x), torch.meshgrid(x[0], x[1], indexing="ij"),
            torch.arange(0, 5, 0.5, **d), torch.linspace(0, 1, 7, **d), torch.logspace(0, 1, 3, **d), torch.eye(3, **d), torch.full((2, 2), 5, **d), torch.zeros_like(x), torch.ones(2, dtype=torch.int16, **d), torch.tensor([[1, 2], [3, 4]], **d),
            torch.tril_indices(3, 3, **d), torch.nn.utils.rnn.pad_sequence([x, x[:2]]), torch.cartesian_prod(x[0], x[0]), torch.combinations(x[0]), torch.hstack([x, x]), x.new_tensor([1.5]), torch.empty(0, **d), torch.zeros(0, 3, **d).sum(0),
            x.new_full((2,), 3), torch.from_numpy(on_host(x).numpy()).to(device), x.tolist(), torch.complex(x, x)]


# ---- autograd ----


@group("autograd")
def gradients(device):
    x, w = numbers(device, 4, 6, grad=True), numbers(device, 3, 6, seed=1, grad=True)
    F.cross_entropy(F.gelu(F.linear(F.layer_norm(x, (6,)), w)), integers(device, 3, 4)).backward()
    y = numbers(device, 5, grad=True)
    g, = torch.autograd.grad((y ** 3).sum(), y, create_graph=True)
    h, = torch.autograd.grad(g.sum(), y)
    return [x.grad, w.grad, g, h, torch.func.jvp(torch.sin, (y.detach(),), (y.detach(),)), torch.func.vmap(lambda r: r.sum() * r)(x.detach()), torch.autograd.functional.hessian(lambda v: (v ** 4).sum(), y.detach())]


@group("autograd")
def hooks_and_functions(device):
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, g):
            x, = ctx.saved_tensors
            return 2 * x * g

    seen = []
    x = numbers(device, 4, grad=True)
    y = Twice.apply(x)
    y.register_hook(lambda g: seen.append(g.clone()))
    with torch.autograd.detect_anomaly(check_nan=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y.exp().sum().backward()
    z = numbers(device, 4, 8, grad=True)
    torch.utils.checkpoint.checkpoint(lambda t: torch.sin(t).cos(), z, use_reentrant=False).sum().backward()
    return [x.grad, seen, z.grad]


def small_network(device):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 12, bias=False), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3)).to(device)


@group("autograd")
def every_optimizer(device):
    out = []
    kinds = [(torch.optim.SGD, dict(lr=0.1, momentum=0.9)), (torch.optim.Adam, dict(lr=0.01)), (torch.optim.AdamW, dict(lr=0.01, foreach=False)), (torch.optim.AdamW, dict(lr=0.01, foreach=True)),
             (torch.optim.Adagrad, dict(lr=0.1)), (torch.optim.RMSprop, dict(lr=0.01)), (torch.optim.Adam, dict(lr=0.01, fused=True)), (torch.optim.AdamW, dict(lr=0.01, amsgrad=True)), (torch.optim.NAdam, {}), (torch.optim.Rprop, {})]
    for kind, options in kinds:
        model = small_network(device)
        optimizer = kind(model.parameters(), **options)
        for step in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(numbers(device, 8, 6, seed=step)), integers(device, 3, 8, seed=step)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
        out += [p.detach().clone() for p in model.state_dict().values()]
    return out


@group("autograd")
def recurrent(device):
    out = []
    for kind in (nn.LSTM, nn.GRU, nn.RNN):
        torch.manual_seed(1)
        net = kind(5, 7, num_layers=2, bidirectional=True, batch_first=True).to(device)
        x = numbers(device, 3, 6, 5, grad=True)
        y, state = net(x)
        y.square().mean().backward()
        packed = nn.utils.rnn.pack_padded_sequence(numbers(device, 3, 6, 5), torch.tensor([6, 4, 1]), batch_first=True)
        z, _ = nn.utils.rnn.pad_packed_sequence(net(packed)[0], batch_first=True)
        out += [y, state, x.grad, z] + [p.grad for p in net.parameters()]
    return out


@group("autograd")
def transformer(device):
    torch.manual_seed(2)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True).to(device)
    x = numbers(device, 2, 5, 16, grad=True)
    y = layer(x, src_key_padding_mask=torch.tensor([[False] * 5, [False] * 3 + [True] * 2], device=device))
    y[:, :3].sum().backward()
    with torch.no_grad():
        fast = layer.eval()(x)
    return [y[:, :3], x.grad, fast]


@group("autograd")
def mixed_precision(device):
    model = small_network(device)
    optimizer, scaler = torch.optim.SGD(model.parameters(), 0.1), torch.amp.GradScaler(device, init_scale=2.0 ** 16, enabled=device == "cuda")
    for step in range(3):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(numbers(device, 8, 6, seed=step)), integers(device, 3, 8, seed=step))
        scaler.scale(loss * (math.inf if step == 1 else 1.0)).backward()
        if device == "cuda" or step != 1:  # the scaler skips the step that overflowed; the reference does not take it
            scaler.step(optimizer)
        scaler.update()
    if device == "cuda":
        assert scaler.get_scale() == 2.0 ** 15, scaler.get_scale()
    with torch.autocast(device, dtype=torch.bfloat16):
        y = model(numbers(device, 8, 6))
        assert y.dtype == torch.bfloat16
    return [p.detach() for p in model.parameters()]


# ---- out=, in place, foreach ----


@group("writes")
def out_arguments(device):
    x = numbers(device, 4, 5)
    out, strided, empty = torch.empty(4, 5, device=device), torch.zeros(5, 4, device=device).T, torch.empty(0, device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.mul(x, 2, out=empty)
        wrong = torch.mul(x, 3, out=torch.empty(3, device=device))
    torch.add(x, 1, out=out)
    torch.exp(x, out=strided)
    values, indices = torch.empty(4, device=device), torch.empty(4, dtype=torch.long, device=device)
    torch.max(x, 1, out=(values, indices))
    return [out, strided, empty, wrong, values, indices, torch.cat([x, x], out=torch.empty(0, device=device)), torch.mm(x, x.T, out=torch.empty(4, 4, device=device))]


@group("writes")
def in_place(device):
    x = numbers(device, 4, 5)
    x.add_(1).mul_(x).clamp_(0, 4).sqrt_()
    x[0].zero_()
    x.T.add_(torch.arange(4.0, device=device))
    y = torch.arange(6, device=device)
    y.resize_(2, 3)
    z = torch.zeros(3, device=device)
    z.set_(x[1:].storage(), 2, (3,))
    w = torch.empty(0, device=device)
    w.resize_(4).fill_(2)
    x.data = x.data * 2
    a, b = numbers(device, 3), numbers(device, 3, seed=1)
    torch.utils.swap_tensors(a, b)
    return [x, y, z, w, a, b, x.copy_(x.flip(0)), torch.zeros(3, dtype=torch.int32, device=device).copy_(torch.tensor([1.7, -2.2, 3.0]))]


@group("writes")
def overlapping_writes_are_refused(device):
    x = torch.arange(8.0, device=device)
    torch.add(x[:4], 1, out=x[4:])  # the shape cache knows the call from here on
    for bad in (lambda: torch.add(x[:-1], 1, out=x[1:]), lambda: torch.add(x[:4], 1, out=x[2:6]), lambda: x.expand(2, 8).add_(1)):
        try:
            bad()
        except RuntimeError as e:
            assert "memory location" in str(e) or "overlap" in str(e), e
        else:
            raise AssertionError("not refused")
    return x


@group("writes")
def lists_of_tensors(device):
    xs = [numbers(device, 3, k + 1, seed=k) for k in range(5)]
    ys = torch._foreach_mul(xs, 2.0)
    torch._foreach_add_(ys, xs, alpha=0.5)
    torch._foreach_addcdiv_(ys, xs, [x.abs() + 1 for x in xs], value=0.1)
    norm = torch._foreach_norm(xs)
    torch._foreach_copy_(ys[:2], xs[:2])
    many = [torch.full((2,), float(k), device=device) for k in range(600)]
    torch._foreach_add_(many, 1)
    return [ys, norm, torch._foreach_sqrt([x.abs() for x in xs]), torch.stack(many), torch.nn.utils.parameters_to_vector(xs)]


# ---- sparse, nested, quantised ----


@group("layouts")
def sparse(device):
    dense = numbers(device, 6, 5) * (numbers(device, 6, 5, seed=1) > 0)
    coo, csr = dense.to_sparse(), dense.to_sparse_csr()
    return [coo, csr, (coo @ numbers(device, 5, 2)), csr @ numbers(device, 5, 2), coo.coalesce().indices(), coo.values(), (coo + coo), torch.sparse.sum(coo, 1), csr.crow_indices(),
            torch.sparse_coo_tensor(torch.tensor([[0, 1, 1], [2, 0, 0]]), torch.tensor([1.0, 2.0, 3.0]), (2, 3), device=device)]


@group("layouts")
def sparse_gradients(device):
    table = nn.Embedding(10, 3, sparse=True).to(device)
    with torch.no_grad():
        table.weight.copy_(numbers("cpu", 10, 3))
    table(torch.tensor([1, 4, 1], device=device)).sum().backward()
    grad = table.weight.grad
    torch.optim.SGD(table.parameters(), 0.1).step()
    return [grad, table.weight]


@group("layouts")
def nested(device):
    parts = [numbers(device, 3, 4), numbers(device, 5, 4, seed=1)]
    n = torch.nested.nested_tensor(parts, device=device)
    return [torch.nested.to_padded_tensor(n, 0.0), [t for t in (n * 2).unbind()], torch.nested.to_padded_tensor(F.softmax(n, -1), -1.0)]


# ---- randomness ----


@group("random")
def draws_have_their_moments(device):
    torch.manual_seed(5)
    n = (200, 200)
    d = dict(device=device)
    for draw, mean, spread in ((torch.rand(n, **d), 0.5, 12 ** -0.5), (torch.randn(n, **d), 0.0, 1.0), (torch.randint(0, 10, n, **d).float(), 4.5, 2.872), (torch.empty(n, **d).exponential_(2.0), 0.5, 0.5),
                               (torch.bernoulli(torch.full(n, 0.3, **d)), 0.3, 0.458), (F.dropout(torch.ones(n, **d), 0.25), 1.0, 0.577), (torch.poisson(torch.full(n, 4.0, **d)), 4.0, 2.0), (torch.empty(n, **d).normal_(1, 3), 1.0, 3.0),
                               (torch.multinomial(torch.tensor([0.5, 0.5], **d), 40000, replacement=True).float(), 0.5, 0.5), (torch.empty(n, **d).uniform_(-1, 1), 0.0, 0.5774)):
        assert abs(draw.mean().item() - mean) < 0.05 * max(1, spread) and abs(draw.std().item() - spread) < 0.05 * max(1, spread), (draw.mean(), draw.std(), mean, spread)
    assert sorted(torch.randperm(100, **d).tolist()) == list(range(100))
    return []


@group("random")
def seeds_repeat(device):
    def draw():
        return torch.cat([torch.rand(5, device=device), torch.randn(5, device=device), F.dropout(torch.ones(8, device=device)), torch.rand(3, device=device)])

    torch.manual_seed(9)
    first, second = draw(), draw()
    torch.manual_seed(9)
    assert torch.equal(first, draw()) and not torch.equal(first, second)
    if device == "cuda":
        state = torch.cuda.get_rng_state()
        again = draw()
        torch.cuda.set_rng_state(state)
        assert torch.equal(again, draw())
        own = torch.Generator("cuda").manual_seed(9)
        a, b = torch.rand(4, device=device, generator=own), torch.rand(4, device=device, generator=own)
        assert torch.equal(a, torch.rand(4, device=device, generator=own.manual_seed(9))) and not torch.equal(a, b)
    before = torch.random.get_rng_state()
    torch.rand(3, device=device)
    assert device == "cpu" or torch.equal(before, torch.random.get_rng_state()), "a draw on the device moved the host's generator"
    return []


@group("random")
def neighbours_differ(device):
    torch.manual_seed(1)
    draws = [torch.rand(4, device=device) for _ in range(50)] + [torch.randn(4, device=device) for _ in range(50)]
    values = torch.stack(draws).flatten().tolist()
    assert len(set(values)) == len(values), "draws repeat"
    return []


# ---- streams, events, memory, copies ----


@group("device")
def streams_and_events(device):
    if device == "cpu":
        x = numbers(device, 64, 64)
        return [x @ x, (x @ x) @ x]
    x = numbers(device, 64, 64)
    side, begin, end = torch.cuda.Stream(), torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    y = x @ x
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        assert torch.cuda.current_stream() == side
        z = y @ x
        y.record_stream(side)
    torch.cuda.current_stream().wait_stream(side)
    end.record()
    end.synchronize()
    assert end.query() and side.query() and 0 <= begin.elapsed_time(end) < 60000
    torch.cuda.synchronize()
    return [y, z]


@group("device")
def copies(device):
    x = torch.arange(1 << 20, dtype=torch.int32)
    there = x.to(device, non_blocking=True)
    x2 = x * 2
    there2 = x2.to(device)
    pinned = x.pin_memory() if device == "cuda" else x
    back = torch.empty_like(pinned).pin_memory() if device == "cuda" else torch.empty_like(x)
    back.copy_(pinned.to(device, non_blocking=True) + 1, non_blocking=True)
    if device == "cuda":
        assert pinned.is_pinned() and back.is_pinned()
        torch.cuda.synchronize()
    rows = torch.zeros(6, 8).to(device)
    rows[:, 2:5] = torch.arange(18.0).reshape(6, 3)
    return [there + there2, back, rows, rows.T.cpu(), rows[::2].cpu(), there[5:9].numpy().tolist() if device == "cpu" else there[5:9].cpu().numpy().tolist(), there.clone(), there.double().cpu()]


@group("device")
def loader(device):
    data = torch.utils.data.TensorDataset(torch.arange(40.0).reshape(20, 2), torch.arange(20))
    out = []
    for x, y in torch.utils.data.DataLoader(data, 6, num_workers=2, pin_memory=device == "cuda"):
        out.append(x.to(device, non_blocking=True).sum() + y.to(device, non_blocking=True).sum())
    return out


@group("device")
def save_and_load(device):
    import copy
    import io
    model = small_network(device)
    file = io.BytesIO()
    torch.save(dict(model=model.state_dict(), extra=numbers(device, 3)), file)
    file.seek(0)
    here = torch.load(file, map_location="cpu")
    file.seek(0)
    there = torch.load(file)
    assert there["extra"].device.type == device and here["extra"].device.type == "cpu"
    second = copy.deepcopy(model)
    second.load_state_dict(here["model"])
    return [here["extra"], there["extra"], second(numbers(device, 4, 6))]


@group("device")
def memory_is_counted(device):
    if device == "cpu":
        return []
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    x = torch.empty(32 << 20, dtype=torch.uint8, device=device)
    assert torch.cuda.memory_allocated() - before == 32 << 20 and torch.cuda.max_memory_allocated() >= 32 << 20
    free, total = torch.cuda.mem_get_info()
    assert 0 < free < total
    del x
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() == before and "allocated" in torch.cuda.memory_summary().lower()
    properties = torch.cuda.get_device_properties(0)
    assert properties.name and properties.total_memory == total and torch.cuda.device_count() == 1 and torch.cuda.get_device_capability() >= (7, 0)
    return []


@group("device")
def threads_compute_at_once(device):
    import threading
    results = [None] * 4

    def work(k):
        x = numbers(device, 32, 32, seed=k)
        for _ in range(20):
            x = torch.tanh(x @ x)
        results[k] = x

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    return results


# ---- what once went wrong ----


@group("regressions")
def two_empty_results_are_two_tensors(device):
    x = numbers(device, 3, 0, 4)
    low, high = torch.empty(1, 0, device=device), torch.empty(1, 0, device=device)
    torch.aminmax(x, dim=0, out=(low, high))
    return [low, high]


@group("regressions")
def more_tensors_than_a_table_holds(device):
    """The table of tensor descriptions is forgotten when it is full (32,768); what it says afterwards must be as true as before."""
    n = 33000
    buffer = torch.zeros(n + 1, device=device)
    for i in range(n):
        torch.add(buffer[i], 1, out=buffer[i + 1])
    return buffer


@group("regressions")
def the_default_dtype_decides(device):
    i = integers(device, 9, 4)
    first = torch.sin(i)
    torch.set_default_dtype(torch.float64)
    try:
        return [first, torch.sin(i), i / 2, i * 1.5, torch.sin(i)]
    finally:
        torch.set_default_dtype(torch.float32)


@group("regressions")
def host_masks_of_equal_shape(device):
    x = torch.arange(6.0, device=device)
    masks = [torch.tensor([k & 1, k & 2, k & 4, k & 8, 1, 0], dtype=torch.bool) for k in range(16)]
    return [x[m] for m in masks] + [x[torch.tensor([k % 6, 1])] for k in range(8)]


@group("regressions")
def precision_through_the_newer_interface(device):
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    try:
        return numbers(device, 3, 3) @ numbers(device, 3, 3)
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


@group("regressions")
def batch_norm_in_evaluation(device):
    out = []
    for shape in ((8, 4), (8, 4, 5), (3, 4, 5, 5)):
        torch.manual_seed(2)
        m = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)](4).to(device)
        x = numbers(device, *shape, grad=True)
        m(x).square().mean().backward()
        first, x.grad = x.grad, None
        m.eval()(x).square().mean().backward()
        out += [first, x.grad, m.weight.grad, m.running_mean, m.running_var, F.batch_norm(x.detach(), m.running_mean, m.running_var)]
    return out


@group("regressions")
def embedding_bags(device):
    out = []
    for mode in ("sum", "mean", "max"):
        for offsets in ([0, 2], [0, 0, 5], [0, 3, 3, 6]):
            torch.manual_seed(1)
            m = nn.EmbeddingBag(10, 5, mode=mode).to(device)
            y = m(torch.tensor([1, 2, 3, 4, 5, 2], device=device), torch.tensor(offsets, device=device))
            y.square().sum().backward()
            out += [y, m.weight.grad]
        m = nn.EmbeddingBag(10, 5, mode=mode, include_last_offset=True).to(device)
        out.append(m(torch.tensor([1, 2, 3, 4], device=device), torch.tensor([0, 1, 4], device=device)).shape)
        y = F.embedding_bag(torch.tensor([1, 2, 3, 4], device=device), numbers(device, 10, 5, grad=True), torch.tensor([0, 1, 4], device=device), mode=mode, include_last_offset=True)
        y.sum().backward()
        out.append(y)
    weights = numbers(device, 4, grad=True)
    table = numbers(device, 6, 3, grad=True)
    y = F.embedding_bag(torch.tensor([0, 5, 2, 2], device=device), table, torch.tensor([0, 3], device=device), mode="sum", per_sample_weights=weights)
    y.square().sum().backward()
    return out + [y, weights.grad, table.grad]


@group("regressions")
def a_python_kernel_inside_an_op(device):
    """torch overrides bmm of outer products with a Triton kernel; bilinear's backward calls it."""
    x, y = numbers(device, 3, 4, grad=True), numbers(device, 3, 5, seed=1, grad=True)
    w = numbers(device, 2, 4, 5, seed=2, grad=True)
    F.bilinear(x, y, w).square().sum().backward()
    return [x.grad, y.grad, w.grad, torch.bmm(x.detach().unsqueeze(2), y.detach().unsqueeze(1))]


@group("regressions")
def empty_tensors_alike(device):
    x, i = torch.empty(0, device=device), torch.empty(0, dtype=torch.long, device=device)
    return [torch.take(x, i, out=torch.empty(0, device=device)), torch.empty(0, device=device).put_(i, x), torch.zeros(0, device=device).scatter_(0, i, x)]


@group("regressions")
def a_step_size_that_changes(device):
    """Numbers behind the first tensor are no part of the shape cache's key, but they are of the op."""
    x = torch.ones(4, device=device)
    return [torch.add(x, x, alpha=k / 3) for k in range(5)] + [x.mul(k) for k in range(4)] + [torch.clamp(x, max=k * 0.25) for k in range(4)] + [F.threshold(x, k, 3) for k in range(3)]


@group("regressions")
def sizes_that_values_decide(device):
    return [torch.arange(k, device=device) for k in (3, 7, 3)] + [torch.full((k,), 1.5, device=device) for k in (2, 4)] + \
        [numbers(device, 6).repeat_interleave(torch.tensor([1, 2, k, 0, 1, 0], device=device)) for k in (1, 3)] + [torch.linspace(0, 1, k, device=device) for k in (2, 5)] + \
        [F.interpolate(numbers(device, 1, 1, 4, 4), scale_factor=s) for s in (1.5, 2.0)] + [F.one_hot(torch.tensor([0, k], device=device)) for k in (1, 3)]


@group("deterministic")
def deterministic_mode(device):
    torch.use_deterministic_algorithms(True)
    try:
        x = numbers(device, 4, 3, 8, 8, grad=True)
        w = numbers(device, 5, 3, 3, 3, seed=1, grad=True)
        F.conv2d(x, w).square().mean().backward()
        y = torch.zeros(5, device=device).index_add(0, torch.tensor([0, 1, 0], device=device), torch.ones(3, device=device))
        return [x.grad, w.grad, y, torch.empty(3, device=device), torch.cumsum(numbers(device, 9), 0)]
    finally:
        torch.use_deterministic_algorithms(False)


def main():
    failed = 0
    torch.set_num_threads(2)
    chosen = GROUPS[sys.argv[1]]
    assert torch.cuda.is_available(), "no device"
    for function in chosen:
        try:
            expected, got = on_host(function("cpu")), on_host(function("cuda"))
            torch.testing.assert_close(got, expected, equal_nan=True)
        except Exception as e:
            failed += 1
            print(f"FAILED {function.__name__}: {type(e).__name__}: {str(e)[:600]}", flush=True)
            if not isinstance(e, AssertionError):
                traceback.print_exc()
        else:
            print(f"ok {function.__name__}", flush=True)
    print(f"{len(chosen) - failed} ok, {failed} failed")
    sys.exit(failed != 0)


if __name__ == "__main__":
    import torch.utils.checkpoint
    with contextlib.suppress(KeyboardInterrupt):
        main()

"""Layers around which training goes wrong elsewhere: recurrent, attention with its backends and fast paths, norms, memory formats, parametrisations."""
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations, parametrize, prune

from suite import case, compare, same
from training import gradients_of, integers, network, numbers, parameters_of, raises


@same("parametrizations: weight_norm, spectral_norm, orthogonal, one's own, cached, removed; the older weight_norm and spectral_norm", rtol=1e-4, atol=1e-5)
def parametrized(device):
    out = []

    class Symmetric(nn.Module):
        def forward(self, x):
            return x.triu() + x.triu(1).transpose(-1, -2)

    def ready(layer):
        with torch.no_grad():
            for k, p in enumerate(layer.parameters()):
                p.copy_(numbers("cpu", *p.shape, seed=k))
        return layer

    torch.manual_seed(0)
    makers = [lambda: parametrizations.weight_norm(ready(nn.Linear(6, 4))), lambda: parametrizations.orthogonal(ready(nn.Linear(6, 4)), orthogonal_map="householder"),
              lambda: parametrizations.orthogonal(ready(nn.Linear(6, 6)), orthogonal_map="cayley"), lambda: parametrizations.orthogonal(ready(nn.Linear(6, 6)), orthogonal_map="matrix_exp"),
              lambda: parametrize.register_parametrization(ready(nn.Linear(6, 6)), "weight", Symmetric()), lambda: parametrizations.spectral_norm(ready(nn.Linear(6, 4)), n_power_iterations=3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        makers += [lambda: nn.utils.weight_norm(ready(nn.Linear(6, 4))), lambda: nn.utils.spectral_norm(ready(nn.Linear(6, 4)))]
        for make in makers:
            torch.manual_seed(1)
            layer = make().to(device)
            optimizer = torch.optim.SGD(layer.parameters(), 0.05)
            for step in range(2):
                optimizer.zero_grad()
                layer(numbers(device, 5, 6, seed=step)).square().mean().backward()
                optimizer.step()
            with parametrize.cached():
                out.append([layer.weight, gradients_of(layer), layer(numbers(device, 2, 6))])
            if parametrize.is_parametrized(layer):
                parametrize.remove_parametrizations(layer, "weight")
                out.append(layer(numbers(device, 2, 6)))
    return out


@same("pruning: by magnitude, structured, global, custom masks, made permanent")
def pruning(device):
    net = network(device)
    prune.l1_unstructured(net[0], "weight", 0.3)
    prune.ln_structured(net[3], "weight", 0.5, n=2, dim=1)
    prune.custom_from_mask(net[0], "bias", torch.arange(12, device=device) % 2)
    prune.global_unstructured([(net[0], "weight"), (net[3], "weight")], prune.L1Unstructured, amount=0.2)
    net(numbers(device, 4, 6)).sum().backward()
    out = [net[0].weight, net[0].weight_mask, net[3].weight, net[0].weight_orig.grad, net[0].bias]
    prune.remove(net[0], "weight")
    return out + [net[0].weight, list(net.state_dict().values())]


@same("MultiheadAttention: masks, weights, kdim, bias_kv, in training and in the inference fast path", rtol=1e-4, atol=1e-5)
def multihead_attention(device):
    out = []
    x, memory = numbers(device, 3, 5, 16, grad=True), numbers(device, 3, 7, 8, seed=1)
    padding = torch.tensor([[False] * 5, [False] * 4 + [True], [False] * 3 + [True] * 2], device=device)
    causal = nn.Transformer.generate_square_subsequent_mask(5, device=device)
    for options in (dict(), dict(add_bias_kv=True, add_zero_attn=True), dict(bias=False)):
        torch.manual_seed(1)
        m = nn.MultiheadAttention(16, 4, batch_first=True, **options).to(device)
        y, w = m(x, x, x, key_padding_mask=padding)
        z, none = m(x, x, x, attn_mask=causal, is_causal=True, need_weights=False)
        assert none is None
        (y.square().mean() + z.square().mean()).backward()
        m.eval()
        with torch.no_grad():
            out += [y, w, z, m(x, x, x)[0], m(x, x, x, average_attn_weights=False)[1], gradients_of(m)]
    torch.manual_seed(2)
    cross = nn.MultiheadAttention(16, 2, kdim=8, vdim=8, batch_first=True).to(device)
    return out + [cross(x, memory, memory)[0], x.grad]


@same("Transformer encoder and decoder: training, the fast path with nested tensors, norm first, masks, in bfloat16", rtol=1e-4, atol=1e-5)
def transformers(device):
    out = []
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2], device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for options in (dict(), dict(norm_first=True, activation="gelu")):
            torch.manual_seed(1)
            encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, **options), 2, enable_nested_tensor=True).to(device)
            x = numbers(device, 2, 5, 16, grad=True)
            encoder(x, src_key_padding_mask=padding).masked_fill(padding[..., None], 0).square().mean().backward()
            out += [x.grad, gradients_of(encoder)]
            encoder.eval()
            with torch.inference_mode():
                out += [encoder(x, src_key_padding_mask=padding).masked_fill(padding[..., None], 0), encoder(x)]
        torch.manual_seed(1)
        whole = nn.Transformer(16, 2, 1, 1, 32, dropout=0.0, batch_first=True).to(device)
        source, target = numbers(device, 2, 6, 16), numbers(device, 2, 4, 16, seed=1)
        y = whole(source, target, tgt_mask=nn.Transformer.generate_square_subsequent_mask(4, device=device), tgt_is_causal=True)
        y.square().mean().backward()
    return out + [y, gradients_of(whole)]


@same("LSTM, GRU and RNN: layers, directions, projections, packed sequences, states, cells, double backward of cells", rtol=1e-4, atol=1e-5)
def recurrent(device):
    out = []
    for kind, options in ((nn.LSTM, {}), (nn.LSTM, dict(proj_size=3)), (nn.GRU, {}), (nn.RNN, dict(nonlinearity="relu")), (nn.LSTM, dict(bias=False, batch_first=True))):
        for both in (False, True):
            torch.manual_seed(1)
            net = kind(5, 7, num_layers=2, bidirectional=both, **options).to(device)
            x = numbers(device, 4, 3, 5, grad=True)
            y, state = net(x)
            y.square().mean().backward()
            packed = nn.utils.rnn.pack_padded_sequence(numbers(device, 4, 3, 5, seed=2), torch.tensor([4, 2, 1] if not options.get("batch_first") else [3, 3, 2, 1]), batch_first=options.get("batch_first", False))
            z, last = net(packed)
            with torch.no_grad():
                again, _ = net(x, state)
            out += [y, state, x.grad, gradients_of(net), z.data, last, again]
    for kind in (nn.LSTMCell, nn.GRUCell, nn.RNNCell):
        torch.manual_seed(1)
        cell, x = kind(5, 7).to(device), numbers(device, 3, 5, grad=True)
        h = cell(x)
        h = h[0] if isinstance(h, tuple) else h
        g, = torch.autograd.grad(h.sum(), x)
        out += [h, g]
    return out


@case("dropout between recurrent layers: off in evaluation, repeatable by seed, the backward sees the forward's masks")
def recurrent_dropout():
    torch.manual_seed(1)
    net = nn.LSTM(4, 8, num_layers=3, dropout=0.5).cuda()
    x = numbers("cuda", 5, 3, 4, grad=True)

    def run(seed):
        torch.manual_seed(seed)
        x.grad = None
        y = net(x)[0]
        y.square().sum().backward()
        return y.detach(), x.grad.clone()

    first, again, other = run(5), run(5), run(6)
    compare(again, first, 0, 0)
    assert not torch.equal(other[0], first[0])
    net.eval()
    compare(net(x.detach())[0], nn.LSTM.forward(net.cpu(), x.detach().cpu())[0], 1e-4, 1e-5)


@same("norms that train: batch (momentum None, no statistics, evaluation), instance, group, local response; running statistics over steps", rtol=1e-4, atol=1e-5)
def norms(device):
    out = []
    for make in (lambda: nn.BatchNorm2d(4), lambda: nn.BatchNorm2d(4, momentum=None), lambda: nn.BatchNorm2d(4, track_running_stats=False), lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True), lambda: nn.GroupNorm(2, 4),
                 lambda: nn.LocalResponseNorm(2), lambda: nn.RMSNorm(6), lambda: nn.LayerNorm((6, 6), bias=False)):
        layer = make().to(device)
        for step in range(3):
            x = numbers(device, 3, 4, 6, 6, seed=step, grad=True)
            layer(x).pow(3).mean().backward()
        out += [x.grad, gradients_of(layer), list(layer.state_dict().values())]
        out.append(layer.eval()(x.detach()))
    return out


@case("SyncBatchNorm: conversion, and training in one process is batch norm's")
def sync_batch_norm():
    def run(convert):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        net = (nn.SyncBatchNorm.convert_sync_batchnorm(net) if convert else net).cuda()
        net(numbers("cuda", 3, 2, 6, 6)).square().mean().backward()
        return [gradients_of(net), list(net.state_dict().values())]

    compare(run(True), run(False))
    mean, rstd = torch.batch_norm_stats(numbers("cuda", 3, 4, 5), 1e-5)
    x = numbers("cpu", 3, 4, 5)
    compare([mean, rstd], [x.mean((0, 2)), 1 / (x.var((0, 2), unbiased=False) + 1e-5).sqrt()], 1e-5, 1e-6)
    compare(torch.batch_norm_elemt(numbers("cuda", 3, 4, 5), None, None, mean, rstd, 1e-5), (x - x.mean((0, 2), keepdim=True)) / (x.var((0, 2), unbiased=False, keepdim=True) + 1e-5).sqrt(), 1e-4, 1e-5)


@same("channels_last: convolution, batch norm, pooling, residuals and interpolation train, and keep their memory format", rtol=1e-4, atol=1e-5)
def channels_last(device):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1, groups=4), nn.AvgPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear"))
    net = net.to(device, memory_format=torch.channels_last)
    x = numbers("cpu", 2, 3, 8, 8).to(device, memory_format=torch.channels_last).requires_grad_()
    y = net(x)
    assert y.is_contiguous(memory_format=torch.channels_last) and net[0].weight.is_contiguous(memory_format=torch.channels_last)
    (y + y.clone() * 2).square().mean().backward()
    volume = nn.Conv3d(2, 3, 3).to(device, memory_format=torch.channels_last_3d)
    with torch.no_grad():
        volume.weight.copy_(numbers(device, 3, 2, 3, 3, 3)), volume.bias.zero_()
    return [y, x.grad, gradients_of(net), volume(numbers("cpu", 1, 2, 5, 5, 5).to(device, memory_format=torch.channels_last_3d)), torch.cat([y, y], 1), F.pixel_shuffle(y, 2)]


@case("scaled_dot_product_attention with each backend asked for: the same values and gradients, masks and grouped heads; impossible ones refused")
def attention_backends():
    def run(device, backend, dtype, **options):
        q, k, v = (numbers("cpu", 2, 4, 6, 16, seed=s).to(device, dtype).requires_grad_() for s in range(3))
        if "attn_mask" in options:
            options = options | dict(attn_mask=options["attn_mask"].to(device))
        with sdpa_kernel(backend):
            y = F.scaled_dot_product_attention(q, k, v, **options)
        y.float().square().sum().backward()
        return [y.float(), q.grad.float(), k.grad.float(), v.grad.float()]

    mask = torch.rand(6, 6, generator=torch.Generator().manual_seed(0)) > 0.3
    mask |= torch.eye(6, dtype=torch.bool)
    seen = {}
    for dtype, backends in ((torch.float32, (SDPBackend.MATH, SDPBackend.EFFICIENT_ATTENTION)), (torch.float16, (SDPBackend.MATH, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION)),
                            (torch.bfloat16, (SDPBackend.MATH, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION))):
        for options in (dict(), dict(is_causal=True), dict(scale=0.3), dict(attn_mask=mask)):
            expected = run("cpu", SDPBackend.MATH, torch.float32, **options)
            for backend in backends:
                if "attn_mask" in options and backend == SDPBackend.FLASH_ATTENTION:
                    continue
                try:
                    got = run("cuda", backend, dtype, **options)
                except RuntimeError as e:
                    assert "No available kernel" in str(e) and backend == SDPBackend.CUDNN_ATTENTION, (backend, dtype, options, e)
                    seen[backend.name] = "refused by PyTorch"
                    continue
                tolerance = dict(rtol=1e-4, atol=1e-4) if dtype == torch.float32 else dict(rtol=5e-2, atol=5e-2)
                compare(got, expected, **tolerance, where=f"{backend.name} {dtype} {list(options)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raises(RuntimeError, "No available kernel", lambda: run("cuda", SDPBackend.FLASH_ATTENTION, torch.float32))
    q, k = numbers("cuda", 1, 8, 4, 16), numbers("cuda", 1, 2, 4, 16, seed=1)
    compare(F.scaled_dot_product_attention(q, k, k, enable_gqa=True), F.scaled_dot_product_attention(q.cpu(), k.cpu(), k.cpu(), enable_gqa=True), 1e-4, 1e-5)
    return ", ".join(f"{k} {v}" for k, v in seen.items())


@case("attention with dropout: repeatable by seed, and the backward sees the forward's mask")
def attention_dropout():
    for backend in (SDPBackend.MATH, SDPBackend.EFFICIENT_ATTENTION):
        q, k = numbers("cuda", 2, 2, 32, 16, grad=True), numbers("cuda", 2, 2, 32, 16, seed=1)
        v = torch.eye(32, device="cuda").expand(2, 2, 32, 32).clone().requires_grad_()  # the output is the dropped-out matrix itself

        def run(seed):
            torch.manual_seed(seed)
            v.grad = None
            with sdpa_kernel(backend):
                y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.5)
            y.sum().backward()
            return y.detach(), v.grad.clone()

        (y, g), again, other = run(3), run(3), run(4)
        compare(again, (y, g), 0, 0)
        assert not torch.equal(other[0], y) and 0.35 < (y == 0).float().mean().item() < 0.65, backend
        # dL/dv = P^T 1, where P is the very matrix of the forward
        compare(g, y.sum(-2)[..., None].expand_as(g), 1e-4, 1e-4, where=f"{backend.name}: the backward's mask")


@same("flex_attention, eager: scores and masks of one's own, block masks, gradients", rtol=1e-4, atol=1e-5)
def flexible_attention(device):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        q, k, v = (numbers(device, 1, 2, 16, 16, seed=s, grad=device == "cuda" or s < 0) for s in range(3))
        mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, 16, 16, device=device, BLOCK_SIZE=16)
        with torch.no_grad():
            y = flex_attention(q, k, v, score_mod=lambda s, b, h, i, j: s + (i - j).abs() * 0.1)
            z = flex_attention(q, k, v, block_mask=mask)
    compare(z, F.scaled_dot_product_attention(q, k, v, is_causal=True), 1e-4, 1e-5)
    return [y, z, mask.kv_num_blocks]


@same("a network of many kinds of layers trains", rtol=2e-4, atol=2e-5)
def many_layers(device):
    torch.manual_seed(5)
    stages = [nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.PReLU(), nn.MaxPool2d(2), nn.ConvTranspose2d(6, 4, 2, 2), nn.GroupNorm(2, 4), nn.SiLU(), nn.AdaptiveAvgPool2d(4), nn.ReflectionPad2d(1), nn.Softplus(), nn.Flatten(), nn.Linear(4 * 36, 16), nn.Hardswish(),
              nn.Unflatten(1, (4, 4)), nn.Conv1d(4, 4, 3, padding="same", padding_mode="circular"), nn.LeakyReLU(), nn.Flatten(), nn.Bilinear(16, 16, 8), nn.LogSoftmax(1)]
    net = nn.ModuleList(stages).to(device)
    optimizer = torch.optim.RMSprop(net.parameters(), 0.003)
    losses = []
    for step in range(3):
        optimizer.zero_grad()
        x = numbers(device, 4, 3, 8, 8, seed=step)
        for layer in net:
            x = layer(x, x) if isinstance(layer, nn.Bilinear) else layer(x)
        loss = F.nll_loss(x, integers(device, 8, 4, seed=step)) + 0.01 * sum(p.norm() for p in net.parameters())
        loss.backward()
        optimizer.step()
        losses.append(loss)
    return [losses, parameters_of(net)]


@same("losses: every class of torch.nn's, with weights and reductions, and their gradients", rtol=1e-4, atol=1e-5)
def losses(device):
    x, y, labels = numbers(device, 6, 5, grad=True), numbers(device, 6, 5, seed=1), integers(device, 5, 6)
    positive, signs = y.sigmoid(), (y[:, 0] > 0).float() * 2 - 1
    weight = torch.arange(1.0, 6.0, device=device)
    values = []
    for reduction in ("mean", "sum", "none"):
        o = dict(reduction=reduction)
        values += [nn.L1Loss(**o)(x, y), nn.MSELoss(**o)(x, y), nn.CrossEntropyLoss(weight, label_smoothing=0.1, **o)(x, labels), nn.CrossEntropyLoss(**o)(x, y.softmax(1)), nn.NLLLoss(weight, ignore_index=2, **o)(x.log_softmax(1), labels), nn.PoissonNLLLoss(**o)(x, positive),
                   nn.GaussianNLLLoss(**o)(x, y, positive), nn.KLDivLoss(log_target=True, **o)(x.log_softmax(1), y.log_softmax(1)), nn.BCELoss(**o)(x.sigmoid(), positive), nn.BCEWithLogitsLoss(pos_weight=weight, **o)(x, positive), nn.HuberLoss(delta=0.5, **o)(x, y), nn.SmoothL1Loss(**o)(x, y),
                   nn.HingeEmbeddingLoss(**o)(x, signs[:, None].expand(6, 5)), nn.MultiLabelMarginLoss(**o)(x, labels[:, None].expand(6, 5).contiguous()), nn.SoftMarginLoss(**o)(x, signs[:, None].expand(6, 5)), nn.MultiMarginLoss(**o)(x, labels), nn.MultiLabelSoftMarginLoss(**o)(x, positive),
                   nn.CosineEmbeddingLoss(**o)(x, y, signs), nn.MarginRankingLoss(**o)(x[:, 0], y[:, 0], signs), nn.TripletMarginLoss(**o)(x, y, y.flip(0)),
                   nn.CTCLoss(**o)(x[:, None].log_softmax(2), torch.tensor([[1, 2]], device=device), torch.tensor([6]), torch.tensor([2]))]
    sum(v.sum() for v in values).backward()
    return values + [x.grad]

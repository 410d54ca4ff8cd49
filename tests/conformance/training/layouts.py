"""Tensors that are not plain strided real ones: sparse, nested, complex, quantised."""
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F

from suite import case, compare, same
from training import integers, numbers, raises


def sparse_matrix(device, rows=6, columns=5, dtype=torch.float32, seed=0):
    """A COO matrix with about half of its elements; as a leaf it may require gradients."""
    dense = numbers("cpu", rows, columns, seed=seed, dtype=dtype) * (numbers("cpu", rows, columns, seed=seed + 50) > 0)
    return dense.to(device).to_sparse()


@same("sparse COO: construction, coalescing, arithmetic, indexing, reductions, conversions, empty ones")
def sparse_coo(device):
    i, v = torch.tensor([[0, 1, 1, 0], [2, 0, 0, 1]], device=device), numbers(device, 4)
    doubled = torch.sparse_coo_tensor(i, v, (2, 3))
    hybrid = torch.sparse_coo_tensor(i, numbers(device, 4, 2), (2, 3, 2))
    a, b = sparse_matrix(device), sparse_matrix(device, seed=1)
    assert not doubled.is_coalesced() and doubled._nnz() == 4 and doubled.coalesce()._nnz() == 3
    return [doubled.to_dense(), doubled.coalesce().indices(), doubled.coalesce().values(), hybrid.coalesce(), (a + b).to_dense(), (a * b).to_dense(), (a - b * 2).to_dense(), (a / 3).to_dense(), a.neg(), a.abs().sqrt(), a.T.coalesce(), a.sum(),
            torch.sparse.sum(a, 0), a[1].to_dense(), a.index_select(0, torch.tensor([2, 0], device=device)).to_dense(), torch.cat([a, b]).to_dense(), a.clone(), a.double().to_dense(), a.to("cpu").to_dense(), torch.sparse.softmax(a, 1).to_dense(),
            torch.sparse.log_softmax(a, 1).to_dense(), a.sparse_mask(b).to_dense(), numbers(device, 6, 5).sparse_mask(a), torch.zeros(3, 3, device=device).to_sparse(), a.unsqueeze(0).to_dense(), a.is_same_size(b),
            a.mul(numbers(device, 6, 5)).to_dense(), a.narrow_copy(0, 1, 3).to_dense(), torch.sparse_coo_tensor((2, 3), device=device).to_dense()]


@same("sparse COO matrix products and their gradients: mm, addmm, matmul, sparse by sparse, vectors", rtol=1e-5, atol=1e-5)
def sparse_products(device):
    out = []
    for dtype in (torch.float32, torch.float64):
        a, x = sparse_matrix(device, dtype=dtype).requires_grad_(), numbers(device, 5, 3, dtype=dtype, grad=True)
        y = torch.sparse.mm(a, x)
        y.square().sum().backward()
        out += [y, a.grad.to_dense(), x.grad, torch.sparse.mm(a.detach(), sparse_matrix(device, 5, 4, dtype)).to_dense(), torch.sparse.addmm(numbers(device, 6, 3, dtype=dtype), a.detach(), x.detach(), beta=0.5, alpha=2.0),
                a.detach() @ x.detach()[:, 0], torch.mm(numbers(device, 2, 6, dtype=dtype), a.detach().to_dense())]
    p, q = sparse_matrix(device).requires_grad_(), sparse_matrix(device, 5, 4, seed=2).requires_grad_()
    torch.sparse.mm(p, q).to_dense().square().sum().backward()
    r = torch.sparse.sum(p.detach().requires_grad_(), 1).to_dense()
    batched = torch.stack([sparse_matrix(device), sparse_matrix(device, seed=1)])
    return out + [p.grad.to_dense(), q.grad.to_dense(), r, torch.bmm(batched, numbers(device, 2, 5, 3))]


@same("gradients into a dense parameter through to_sparse, values, sparse masks and embeddings", rtol=1e-5, atol=1e-6)
def sparse_gradients(device):
    w = numbers(device, 4, 4, grad=True)
    (w * (w > 0)).to_sparse().coalesce().values().square().sum().backward()
    table = numbers(device, 8, 3, grad=True)
    F.embedding(integers(device, 8, 10), table, sparse=True).square().sum().backward()
    first = table.grad
    assert first.is_sparse
    F.embedding(integers(device, 8, 4, seed=1), table, sparse=True).sum().backward()
    values = numbers(device, 3, grad=True)
    torch.sparse_coo_tensor(torch.tensor([[0, 1, 1]], device=device), values, (3,)).to_dense().square().sum().backward()
    return [w.grad, table.grad.to_dense(), values.grad]


@same("compressed sparse: CSR, CSC, BSR, BSC, conversions, products, gradients, arithmetic", rtol=1e-5, atol=1e-5)
def sparse_compressed(device):
    dense = sparse_matrix("cpu", 6, 4).to_dense().to(device)
    csr, csc = dense.to_sparse_csr(), dense.to_sparse_csc()
    bsr, bsc = dense.to_sparse_bsr((2, 2)), dense.to_sparse_bsc((3, 2))
    x = numbers(device, 4, 3)
    own = torch.sparse_csr_tensor([0, 1, 3], [1, 0, 2], [1.0, 2.0, 3.0], (2, 3), device=device)
    out = [t.to_dense() for t in (csr, csc, bsr, bsc, own)] + [csr.crow_indices(), csr.col_indices(), csr.values(), csc.ccol_indices(), bsr.values(), csr.to_sparse().coalesce(), csr @ x, csr.mv(x[:, 0]), torch.addmm(numbers(device, 6, 3), csr, x),
                                                            (csr * 2).to_dense(), (csr + csr).to_dense(), csr.sin().to_dense(), csr.sum(), torch.sparse.sum(csr.to_sparse(), 0).to_dense(), csr.to("cpu").to_dense(), csr.abs().values(), csr.transpose(0, 1).to_dense()]
    g, h = csr.detach().clone().requires_grad_(), x.clone().requires_grad_()
    torch.sparse.mm(g, h).square().sum().backward()
    return out + [g.grad.to_dense(), h.grad, torch.sparse.sampled_addmm(csr, numbers(device, 6, 2), numbers(device, 2, 4)).to_dense(), dense.to_sparse_csr().to_sparse_csc().to_dense()]


@same("a graph convolution trains on sparse adjacency", rtol=1e-4, atol=1e-5)
def graph_network(device):
    adjacency = sparse_matrix(device, 8, 8)
    out = []
    for a in (adjacency, adjacency.to_dense().to_sparse_csr()):
        torch.manual_seed(1)
        one, two = nn.Linear(4, 6).to(device), nn.Linear(6, 3).to(device)
        optimizer = torch.optim.Adam([*one.parameters(), *two.parameters()], 0.01)
        x, y = numbers(device, 8, 4), integers(device, 3, 8)
        for _ in range(3):
            optimizer.zero_grad()
            loss = F.cross_entropy(torch.sparse.mm(a, two(F.relu(torch.sparse.mm(a, one(x))))), y)
            loss.backward()
            optimizer.step()
            out.append(loss)
    return out


@case("semi-structured 2:4 sparsity: asked for, it is refused by name")
def semi_structured():
    from torch.sparse import to_sparse_semi_structured
    w = torch.tensor([0, 0, 1, 1], device="cuda", dtype=torch.float16).tile(64, 32)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            s = to_sparse_semi_structured(w)
            y = F.linear(numbers("cuda", 64, 128, dtype=torch.float16), s)
            torch.cuda.synchronize()
    except (RuntimeError, NotImplementedError) as e:
        assert "semi_structured" in str(e) or "cusparse" in str(e).lower() or "cslt" in str(e).lower() or "cutlass" in str(e).lower() or "sparse" in str(e).lower(), e
        return f"refused: {str(e).splitlines()[0][:110]}"
    compare(y, (numbers("cpu", 64, 128, dtype=torch.float16) @ w.cpu().T), 1e-2, 1e-2)
    return "computed"


def parts(device, grad=False):
    return [numbers(device, n, 8, seed=n, grad=grad) for n in (3, 5, 2)]


@same("nested tensors, strided: construction, layers, attention, padding, gradients, transposition", rtol=1e-4, atol=1e-5)
def nested_strided(device):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        n = torch.nested.nested_tensor(parts("cpu"), device=device)
        linear, norm = nn.Linear(8, 8).to(device), nn.LayerNorm(8).to(device)
        with torch.no_grad():
            linear.weight.copy_(numbers(device, 8, 8)), linear.bias.zero_()
        leaves = parts(device, grad=True)
        m = torch.nested.as_nested_tensor(leaves)
        torch.nested.to_padded_tensor(linear(m) * 2, 0.0).square().sum().backward()
        q = torch.nested.nested_tensor([t.reshape(-1, 2, 4).transpose(0, 1) for t in parts("cpu")], device=device)
        out = [t for t in (n + n, n * 3, n.relu(), F.gelu(n), norm(n), linear(n), n.softmax(-1), n.clone(), n.to(torch.float64), torch.nested.nested_tensor(parts(device)).to("cpu"))]
        padded = torch.nested.to_padded_tensor(n, -1.0)
        return [[p for p in t.unbind()] for t in out] + [[leaf.grad for leaf in leaves], linear.weight.grad, padded, list(F.scaled_dot_product_attention(q, q, q).unbind()), list(torch.bmm(n, n.transpose(1, 2)).unbind()), n.size(0),
                                                         list(torch.nested.nested_tensor([t.sum(0) for t in parts(device)]).unbind()), n[1], n._nested_tensor_size()]


@same("nested tensors, jagged: construction from lists and offsets, layers, attention, gradients, reductions, narrow", rtol=1e-4, atol=1e-5)
def nested_jagged(device):
    leaves = parts(device, grad=True)
    n = torch.nested.as_nested_tensor(leaves, layout=torch.jagged)
    linear, norm = nn.Linear(8, 8).to(device), nn.LayerNorm(8).to(device)
    with torch.no_grad():
        linear.weight.copy_(numbers(device, 8, 8)), linear.bias.zero_()
    y = norm(F.silu(linear(n)) + n)
    q = y.unflatten(-1, [2, 4]).transpose(1, 2)
    attention = F.scaled_dot_product_attention(q, q, q).transpose(1, 2).flatten(-2)
    attention.values().square().sum().backward()
    values = numbers(device, 10, 8)
    own = torch.nested.nested_tensor_from_jagged(values, torch.tensor([0, 3, 8, 10], device=device))
    out = [own * 2, own.softmax(-1), own.sin() + 1, own.clamp(-1, 1), own.detach()]
    return [list(t.unbind()) for t in out] + [attention.values(), [leaf.grad for leaf in leaves], linear.weight.grad, own.sum(1), own.mean(-1).values(), torch.nested.to_padded_tensor(own, 0.0), own.offsets(),
                                              torch.nested.nested_tensor(parts(device), layout=torch.jagged).to("cpu").values(), own.amax(1)]


@same("complex modules: parameters, convolutions, gradients, views as real, and optimizers on them", rtol=1e-4, atol=1e-5)
def complex_modules(device):
    out = []
    for kind, options in ((torch.optim.SGD, dict(lr=0.1, momentum=0.9)), (torch.optim.Adam, dict(lr=0.01)), (torch.optim.AdamW, dict(lr=0.01, foreach=True)), (torch.optim.RMSprop, dict(lr=0.01))):
        w, b = numbers("cpu", 6, 4, 2), numbers("cpu", 4, 2, seed=1)
        w, b = nn.Parameter(torch.view_as_complex(w).to(device)), nn.Parameter(torch.view_as_complex(b).to(device))
        optimizer, x = kind([w, b], **options), torch.view_as_complex(numbers("cpu", 5, 6, 2)).to(device)
        for _ in range(3):
            optimizer.zero_grad()
            z = torch.tanh(x @ w + b)
            (z.abs().square().mean() + z.angle().sin().mean() + (z * z.conj()).real.sum() * 0.01).backward()
            optimizer.step()
        out += [w, b, w.grad]
    linear = nn.Linear(3, 2, dtype=torch.complex64)
    conv = nn.Conv1d(2, 3, 3, dtype=torch.complex64)
    with torch.no_grad():
        for k, p in enumerate([*linear.parameters(), *conv.parameters()]):
            p.copy_(torch.view_as_complex(numbers("cpu", *p.shape, 2, seed=k)))
    linear, conv = linear.to(device), conv.to(device)
    x = torch.view_as_complex(numbers("cpu", 4, 2, 7, 2)).to(device).requires_grad_()
    conv(x).abs().sum().backward()
    return out + [linear(x.detach()[:, 0, :3]), x.grad, conv.weight.grad, torch.linalg.eigvals(x.detach()[0, :, :2]).abs().sort()[0], x.detach().mH.resolve_conj()]


@same("Fourier transforms in a network, real and complex, with gradients; spectral and short-time", rtol=1e-4, atol=1e-4)
def fourier(device):
    x, k = numbers(device, 2, 3, 16, grad=True), numbers(device, 3, 9, grad=True)
    y = torch.fft.irfft(torch.fft.rfft(x) * torch.complex(k, k), 16)
    z = torch.fft.ifft2(torch.fft.fft2(x, norm="ortho")).real
    window = torch.hann_window(8, device=device)
    s = torch.stft(x[0], 8, 4, window=window, return_complex=True)
    back = torch.istft(s, 8, 4, window=window, length=16)
    (y.square().sum() + z.sum() + s.abs().sum() + back.sum()).backward()
    return [y, z, s, back, x.grad, k.grad, torch.fft.fftshift(x.detach()), torch.fft.fftfreq(5, device=device), torch.fft.hfft(x.detach()), torch.fft.rfftn(x.detach()), torch.fft.fft(numbers(device, 6, dtype=torch.float64))]


# ---- quantised ----


@same("integer and weight-only matrix products: _int_mm, _weight_int8pack_mm, an int8 linear layer by hand", rtol=1e-2, atol=1e-2)
def int8_products(device):
    a, b = integers(device, 255, 32, 64).sub(127).to(torch.int8), integers(device, 255, 64, 16, seed=1).sub(127).to(torch.int8)
    w, scales = integers(device, 255, 16, 64).sub(127).to(torch.int8), numbers(device, 16).abs().to(torch.bfloat16)
    x = numbers(device, 4, 64, dtype=torch.bfloat16)
    product = torch._int_mm(a, b)
    assert product.dtype == torch.int32 and torch.equal(product.cpu(), (a.cpu().int() @ b.cpu().int()))
    out = torch.empty(32, 16, dtype=torch.int32, device=device)
    torch._int_mm(a, b, out=out)
    return [product, out, torch._weight_int8pack_mm(x, w, scales), F.linear(x, w.to(x.dtype)) * scales]


@case("4-bit weights: CUDA's packing of _convert_weight_to_int4pack, and _weight_int4pack_mm against the dequantised product")
def int4_products():
    n, k, group = 16, 128, 32
    q = integers("cpu", 16, n, k).to(torch.int32)
    scales, zeros = numbers("cpu", k // group, n).abs(), numbers("cpu", k // group, n, seed=1)
    both = torch.stack([scales, zeros], 2).to(torch.bfloat16)
    weight = ((q - 8).float().reshape(n, -1, group) * both[..., 0].float().T[..., None] + both[..., 1].float().T[..., None]).to(torch.bfloat16).reshape(n, k)
    x = numbers("cpu", 5, k, dtype=torch.bfloat16)
    for inner in (2, 4, 8):
        packed = torch._convert_weight_to_int4pack((q[:, ::2] << 4 | q[:, 1::2]).to(torch.uint8).cuda(), inner)
        assert packed.dtype == torch.int32 and packed.shape == (n // 8, k // (inner * 16), 32, inner // 2), packed.shape
        # lane t of a warp holds, of row t / 4, the columns that mma.m16n8k16's B fragment gives it, two tiles per word: even columns in the low half
        tile, outer, lane, word = 1, 0, 13, 0
        row, base = tile * 8 + lane // 4, (outer * inner + word * 2) * 16 + lane % 4 * 2
        columns = [base, base + 8, base + 16, base + 24, base + 1, base + 9, base + 17, base + 25]
        wanted = sum(int(q[row, c]) << 4 * s for s, c in enumerate(columns))
        assert int(packed[tile, outer, lane, word]) & 0xFFFFFFFF == wanted
        y = torch._weight_int4pack_mm(x.cuda(), packed, group, both.cuda())
        compare(y, (x.float() @ weight.float().T).to(torch.bfloat16), 2e-2, 2e-2)


@same("fake quantisation, per tensor and channel, learnable, with observers and gradients: quantisation-aware training", rtol=1e-4, atol=1e-5)
def fake_quantisation(device):
    x, s, z = numbers(device, 6, 4, grad=True), torch.tensor([0.1], device=device), torch.tensor([2], dtype=torch.int32, device=device)
    scale = torch.tensor([0.05, 0.1, 0.2, 0.3], device=device, requires_grad=True)
    point = torch.zeros(4, device=device, requires_grad=True)
    out = [torch.fake_quantize_per_tensor_affine(x, 0.1, 2, -128, 127), torch.fake_quantize_per_tensor_affine(x, s, z, 0, 255), torch.fake_quantize_per_channel_affine(x, scale.detach(), torch.zeros(4, dtype=torch.int32, device=device), 1, -128, 127),
           torch._fake_quantize_learnable_per_channel_affine(x, scale, point, 1, -8, 7, 1.0)]
    sum(o.square().sum() for o in out).backward()
    observer = torch.ao.quantization.FusedMovingAvgObsFakeQuantize(observer=torch.ao.quantization.MovingAverageMinMaxObserver, quant_min=0, quant_max=255).to(device)
    seen = [observer(numbers(device, 5, 3, seed=k)) for k in range(3)]
    return [out, x.grad, scale.grad, point.grad, seen, observer.scale, observer.zero_point]


@same("quantised tensors: per tensor and per channel, dequantised, their parts, views, copies, ReLU, pooling, comparison", rtol=1e-5, atol=1e-6)
def quantised_tensors(device):
    x = numbers(device, 4, 6)
    out = []
    for dtype in (torch.qint8, torch.quint8, torch.qint32):
        q = torch.quantize_per_tensor(x, 0.1, 3, dtype)
        out += [q.dequantize(), q.int_repr(), q.q_scale(), q.q_zero_point(), q[1:3].dequantize(), q.clone().dequantize(), q.cpu().dequantize(), torch.quantize_per_tensor(x.cpu(), 0.1, 3, dtype).to(device).dequantize()]
    c = torch.quantize_per_channel(x, numbers("cpu", 6).abs().double().to(device) + 0.1, torch.arange(6, device=device), 1, torch.qint8)
    dynamic = torch.quantize_per_tensor(x, torch.tensor(0.2, device=device), torch.tensor(1, device=device), torch.quint8)
    return out + [c.dequantize(), c.int_repr(), c.q_per_channel_scales(), c.q_per_channel_zero_points(), c.q_per_channel_axis(), dynamic.dequantize(), torch.relu(torch.quantize_per_tensor(x, 0.1, 3, torch.quint8)).dequantize(),
                  torch.quantize_per_tensor(x, 0.1, 3, torch.quint8).reshape(2, 12).dequantize(), torch._make_per_tensor_quantized_tensor(torch.arange(6, dtype=torch.uint8, device=device), 0.5, 1).dequantize()]


@same("8-bit floats: conversions, scaled matrix products", rtol=1e-2, atol=1e-2)
def float8(device):
    x, w = numbers(device, 32, 64), numbers(device, 16, 64, seed=1)
    a, b = x.to(torch.float8_e4m3fn), w.to(torch.float8_e4m3fn)
    one = torch.ones((), device=device)
    return [a.float(), x.to(torch.float8_e5m2).float(), a.to(torch.bfloat16), torch.cat([a.view(torch.uint8), a.view(torch.uint8)]), torch._scaled_mm(a, b.t(), scale_a=one * 0.5, scale_b=one * 2, out_dtype=torch.bfloat16).float()]

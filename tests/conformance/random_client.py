"""Randomness: the numbers that CUDA devices draw, from a Philox of this file's own (numpy) and from what PyTorch's users have published; seeds, states
and offsets; repeatable across processes and whatever threads the server has. See suite.py; docs/randomness.md says what is derived per op."""
import hashlib
import subprocess
import sys

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from suite import case, main

DEVICE = torch.device("cuda", 0)


def philox(counter, key):
    """Philox4x32-10 over arrays: counter 4 × n, key two integers."""
    c, (k0, k1) = [np.asarray(x, np.uint64) for x in counter], key
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        low = np.uint64(0xffffffff)
        c = [(b >> np.uint64(32)) ^ c[1] ^ np.uint64(k0), b & low, (a >> np.uint64(32)) ^ c[3] ^ np.uint64(k1), a & low]
        k0, k1 = (k0 + 0x9E3779B9) & 0xffffffff, (k1 + 0xBB67AE85) & 0xffffffff
    return np.stack(c)


def grid_stride(n, unroll, seed, offset):
    """The words that PyTorch's grid-stride kernels give to elements 0 … n - 1 on this device: four per element, and the element's lane."""
    p = torch.cuda.get_device_properties(0)
    threads = 256 * min(p.multi_processor_count * (p.max_threads_per_multi_processor // 256), -(-n // 256))
    i = np.arange(n, dtype=np.uint64)
    thread, strip = i % np.uint64(threads), i // np.uint64(threads)
    block = strip // np.uint64(unroll) + np.uint64(offset // 4)
    words = philox([block, np.zeros_like(i), thread, np.zeros_like(i)], (seed & 0xffffffff, seed >> 32))
    return words, (strip % np.uint64(unroll)).astype(np.int64), ((n - 1) // (threads * unroll) + 1) * 4


def lane_words(n, seed, offset=0):
    words, lane, _ = grid_stride(n, 4, seed, offset)
    return words[lane, np.arange(n)]


def uniform(words):
    return words.astype(np.float32) * np.float32(2**-32) + np.float32(2**-33)


def seeded(seed):
    torch.cuda.manual_seed(seed)


def equal(tensor, array):
    assert np.array_equal(tensor.cpu().numpy(), array), (tensor.flatten()[:5], array[:5])


def battery():
    """Something of everything, some of it longer than one round of the device's threads."""
    d = dict(device=DEVICE)
    n = 50001
    p = torch.linspace(0, 1, n, **d)
    yield from (torch.rand(n, **d), torch.randn(n, **d), torch.randn(n, dtype=torch.float64, **d), torch.rand(300, 7, dtype=torch.half, **d),
                torch.randint(0, 10, (n,), **d), torch.randint(-2**40, 2**40, (n,), **d), torch.randperm(n, **d), torch.randperm(100, **d),
                torch.bernoulli(p), torch.empty(n, **d).bernoulli_(0.3), F.dropout(torch.ones(n, **d), 0.4), F.dropout(torch.ones(n - 1, **d).half(), 0.4),
                torch.empty(n, **d).exponential_(2), torch.empty(n, **d).log_normal_(), torch.empty(n, **d).cauchy_(), torch.empty(n, **d).geometric_(0.2),
                torch.empty(n, dtype=torch.int32, **d).random_(), torch.normal(p, 2.0), torch.normal(1.0, p), torch.normal(p, p),
                torch.multinomial(p, 2000, replacement=True), torch.multinomial(p, 2000), torch.multinomial(p.repeat(3, 1), 1),
                torch.poisson(p * 5), torch._standard_gamma(p + 1), torch.randn(1000, dtype=torch.complex64, **d), torch.randn(40, 30, **d).t().normal_(),
                F.rrelu(-p, training=True), torch.distributions.Dirichlet(torch.ones(5, **d)).sample((7,)))


def digest():
    seeded(77)
    h = hashlib.sha256()
    for t in battery():
        h.update(t.resolve_conj().cpu().contiguous().numpy().tobytes())
    return h.hexdigest()


@case("torch.rand and torch.randn print what CUDA devices print for seeds 0 and 42")
def published():
    def check(t, printed):
        assert [round(v, 4) for v in t.tolist()] == printed, (t, printed)
    seeded(0)
    check(torch.rand(10, device=DEVICE), [0.3990, 0.5167, 0.0249, 0.9401, 0.9459, 0.7967, 0.4150, 0.8203, 0.2290, 0.9096])
    seeded(0)
    check(torch.randn(9, device=DEVICE), [-0.9247, -0.4253, -2.6438, 0.1452, -0.1209, -0.5797, -0.6229, -0.3284, -1.0745])
    seeded(42)
    check(torch.randn(9, device=DEVICE), [0.1940, 2.1614, -0.1721, 0.8491, -1.9244, 0.6530, -0.6494, -0.8175, 0.5280])


@case("uniform, integers, bernoulli and doubles bit for bit, normal and exponential nearly, by a Philox in numpy; one server thread", server=("--threads", 1))
def streams():
    assert philox([[0x243f6a88], [0x85a308d3], [0x13198a2e], [0x03707344]], (0xa4093822, 0x299f31d0))[:, 0].tolist() == \
        [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
    seed = 0x123456789
    for n in (1, 1000, 100001):
        w = lane_words(n, seed)
        seeded(seed)
        u = uniform(w)
        equal(torch.rand(n, device=DEVICE), np.where(u == 1, np.float32(0), u))
        seeded(seed)
        equal(torch.randint(5, 1000, (n,), device=DEVICE), (w % np.uint64(995)).astype(np.int64) + 5)
        seeded(seed)
        equal(torch.empty(n, device=DEVICE).bernoulli_(0.25), (u < np.float32(0.25)).astype(np.float32))
        seeded(seed)
        words, lane, _ = grid_stride(n, 2, seed, 0)
        x, y = words[lane * 2, np.arange(n)], words[lane * 2 + 1, np.arange(n)]
        equal(torch.rand(n, dtype=torch.float64, device=DEVICE), (x ^ (y << np.uint64(21))).astype(np.float64) * 2**-53 + 2**-54)
        seeded(seed)
        equal(torch.randint(0, 2**40, (n,), device=DEVICE), ((x << np.uint64(32) | y) % np.uint64(2**40)).astype(np.int64))
        seeded(seed)
        a, b = [v.astype(np.float64) for v in normals(n, seed)]
        np.testing.assert_allclose(torch.randn(n, device=DEVICE).cpu().numpy(), np.where(lane_of(n) % 2 == 0, a, b), rtol=2e-6, atol=1e-6)
        seeded(seed)
        np.testing.assert_allclose(torch.empty(n, device=DEVICE).exponential_(1.5).cpu().numpy(),
                                   -np.log(np.minimum(u.astype(np.float64), 1 - 2**-24)) / 1.5, rtol=1e-6)
        seeded(seed)
        p = torch.full((n,), 0.5, device=DEVICE)
        i = np.arange(n, dtype=np.uint64)
        four = philox([np.zeros_like(i), np.zeros_like(i), i // np.uint64(4), np.zeros_like(i)], (seed & 0xffffffff, seed >> 32))
        equal(torch.bernoulli(p), (uniform(four[(i % np.uint64(4)).astype(np.int64), np.arange(n)]) <= 0.5).astype(np.float32))


def lane_of(n):
    return grid_stride(n, 4, 0, 0)[1]


def normals(n, seed):
    words, lane, _ = grid_stride(n, 4, seed, 0)
    first = lane // 2 * 2
    u, y = uniform(words[first, np.arange(n)]).astype(np.float64), words[first + 1, np.arange(n)].astype(np.float32)
    turn = np.float64(np.float32(2**-32) * np.float32(6.2831855))
    angle = (y.astype(np.float64) * turn + turn / 2).astype(np.float32).astype(np.float64)
    radius = np.sqrt(-2 * np.log(u))
    return np.sin(angle) * radius, np.cos(angle) * radius


@case("the same with four server threads", server=("--threads", 4))
def streams_four_threads():
    streams()


@case("another process draws the same of everything")
def another_process():
    there = subprocess.run([sys.executable, __file__, "digest"], capture_output=True, text=True, timeout=120, check=True).stdout.split()[-1]
    assert digest() == there


@case("seeds, generators, states, fork_rng and checkpointing bring the same numbers back")
def states():
    d = dict(device=DEVICE)
    assert digest() == digest()
    x = torch.ones(10000, **d)
    state = torch.cuda.get_rng_state()
    mask = F.dropout(x, 0.5)
    with torch.random.fork_rng():
        other = F.dropout(x, 0.5)
    assert torch.equal(other, F.dropout(x, 0.5)) and not torch.equal(other, mask)
    torch.cuda.set_rng_state(state)
    assert torch.equal(mask, F.dropout(x, 0.5))
    own = torch.Generator(DEVICE).manual_seed(3)
    seeded(3)
    assert torch.equal(torch.rand(9, generator=own, **d), torch.rand(9, **d))
    twin = torch.Generator(DEVICE)
    twin.set_state(own.get_state())
    assert torch.equal(torch.randn(9, generator=own, **d), torch.randn(9, generator=twin, **d)) and own.get_offset() == twin.get_offset()
    w = torch.ones(10000, requires_grad=True, **d)
    y = checkpoint(lambda v: F.dropout(v * 2, 0.5), w, use_reentrant=False)
    y.sum().backward()
    assert torch.equal(w.grad, y.detach())
    before = torch.random.get_rng_state()
    torch.rand(5, **d)
    assert torch.equal(before, torch.random.get_rng_state()), "the host's generator moved"


@case("the generator's offset grows as PyTorch's launches say")
def offsets():
    g = torch.cuda.default_generators[0]
    d = dict(device=DEVICE)

    def grows(by, f):
        seeded(1)
        f()
        assert g.get_offset() == by, (g.get_offset(), by)

    for n in (1, 6144, 100001):
        four, two = grid_stride(n, 4, 0, 0)[2], grid_stride(n, 2, 0, 0)[2]
        grows(four, lambda: torch.rand(n, **d))
        grows(two, lambda: torch.randn(n, dtype=torch.float64, **d))
        grows(four, lambda: F.dropout(torch.ones(n, **d), 0.5))
        grows(four, lambda: torch.multinomial(torch.ones(n, **d), 1))
        grows(12, lambda: torch.bernoulli(torch.ones(n, **d)))
        grows(two + (n + 3) // 4 * 4, lambda: torch.randperm(n, **d))
    grows(0, lambda: F.dropout(torch.ones(5, **d), 0.5, training=False))


@case("every op has its moments")
def moments():
    d = dict(device=DEVICE)
    n = 100000
    seeded(11)
    one = torch.ones(n, **d)
    for name, t, mean, deviation in (
            ("uniform", torch.empty(n, **d).uniform_(-1, 3), 1, 4 / 12**0.5), ("normal", torch.normal(one, 2 * one), 1, 2), ("half", torch.randn(n, dtype=torch.half, **d), 0, 1),
            ("double", torch.randn(n, dtype=torch.float64, **d), 0, 1), ("exponential", torch.empty(n, **d).exponential_(2), 0.5, 0.5),
            ("geometric", torch.empty(n, **d).geometric_(0.25), 4, 12**0.5), ("log_normal", torch.empty(n, **d).log_normal_(0, 0.5), 1.1331, 0.6039),
            ("randint", torch.randint(0, 100, (n,), **d), 49.5, 28.866), ("bernoulli", torch.bernoulli(one * 0.3), 0.3, 0.4583), ("poisson", torch.poisson(one * 4), 4, 2),
            ("gamma", torch._standard_gamma(one * 3), 3, 3**0.5), ("binomial", torch.binomial(one * 10, one * 0.5), 5, 2.5**0.5), ("dropout", F.dropout(one, 0.2), 1, 0.5),
            ("multinomial", torch.multinomial(torch.tensor([1., 3.], **d), n, replacement=True), 0.75, 0.433),
            ("without", torch.multinomial(torch.tensor([1., 3.], **d).repeat(n, 1), 1), 0.75, 0.433), ("permutation", torch.randperm(n, **d), (n - 1) / 2, n / 12**0.5)):
        t = t.double()
        assert abs(t.mean().item() - mean) < 5 * deviation / n**0.5 + 1e-3 and abs(t.std().item() / deviation - 1) < 0.03, (name, t.mean(), t.std())
    median = torch.empty(n, **d).cauchy_(2, 1).median().item()
    assert abs(median - 2) < 0.05, median


if __name__ == "__main__":
    if sys.argv[1:] == ["digest"]:
        print(digest())
    else:
        main()

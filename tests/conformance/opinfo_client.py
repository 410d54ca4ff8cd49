"""One shard of the OpInfo sweep, a client of a server: `opinfo_client.py DTYPE SHARD SHARDS [PATTERN]`. Each entry of torch.testing's op_db whose
dtype both CPU and CUDA support runs with all its samples on the CPU (where Djinn has no part) and on the device, forward, backward, in place and with
out=; outputs and gradients are compared with assert_close's defaults or OpInfo's own overrides, what is drawn by its distribution. One JSON line per entry and direction on stdout:
{entry, dtype, direction, samples, bitwise, status: ok | wrong | error | raised, detail}. The driver is scripts/conformance.
"""
import json
import os
import re
import sys
import warnings
from unittest import mock

os.environ.setdefault("PYTORCH_TESTING_DEVICE_ONLY_FOR", "cuda")
warnings.filterwarnings("ignore")
import torch
from torch.testing._internal.common_device_type import tol
from torch.testing._internal import common_methods_invocations
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils import _pytree as pytree

# Drawn from a generator: compared in shape, dtype and distribution.
DRAWN = re.compile(r"^(bernoulli|cauchy|exponential|geometric|log_normal|multinomial|normal|normal\..*|rand|randint|randn|randperm|uniform|rand_like|randn_like|"
                   r"randint_like|poisson|nn\.functional\.(.*dropout.*|rrelu|fractional_max_pool.*))$")
# What these drop, they drop of a whole channel: so many last dimensions are one draw.
CHANNELWISE = re.compile(r"dropout([123])d$")
# Left as they are, or a decomposition whose signs are free: compared in shape and dtype.
ARBITRARY = re.compile(r"^(empty|new_empty|empty_.*|new_empty_strided|resize_.*|pca_lowrank|svd_lowrank|nn\.functional\.scaled_dot_product_attention_dropout)$")
DRAWS, REPEATS_MAX, SAMPLES_DRAWN = 4000, 60, 4
# Kolmogorov and Smirnov: two samples of n draws of one distribution are further apart than KS * sqrt(2 / n) once in a million seeds, and ours is fixed.
KS = 2.7
# CUDA's norms compute in float32 whatever their tensors' precision, and give statistics in it; the CPU's do not. Their reference in reduced precision
# is the CPU in float32, rounded.
FLOAT32_INSIDE = re.compile(r"(batch|layer|instance|rms)_norm")
REDUCED = (torch.float16, torch.bfloat16)


def is_random(op):
    return bool(DRAWN.match(op.name) or ARBITRARY.match(op.name)) or getattr(op, "non_deterministic", False)


def to(device, value):
    """A copy on the device that requires grad where the original does; a view of a part of its storage is one there too."""
    def one(t):
        if not isinstance(t, torch.Tensor):
            return t
        if t.layout != torch.strided or t.is_conj() or t.is_neg() or t.untyped_storage().nbytes() == t.numel() * t.itemsize:
            return t.detach().to(device).requires_grad_(t.requires_grad)
        whole = torch.empty(0, dtype=t.dtype).set_(t.untyped_storage()).to(device)
        return whole.as_strided(t.shape, t.stride(), t.storage_offset()).requires_grad_(t.requires_grad)
    return pytree.tree_map(one, value)


def tensors(value):
    return [t for t in pytree.tree_leaves(value) if isinstance(t, torch.Tensor)]


def host(t):
    t = t.detach()
    if t.layout not in (torch.strided, torch.jagged):
        t = t.to_dense()
    return t.cpu()


def tolerances(op, dtype):
    """OpInfo's own overrides for its CPU-against-CUDA tests, else assert_close's defaults."""
    rtol = atol = None
    for decorator in getattr(op, "decorators", ()) or ():
        for candidate in (decorator, *getattr(decorator, "decorators", ())):
            overrides = getattr(candidate, "d", None)
            if isinstance(overrides, dict) and isinstance(t := overrides.get(dtype), tol):
                rtol, atol = max(rtol or 0, t.rtol), max(atol or 0, t.atol)
    return dict(rtol=rtol, atol=atol) if rtol is not None else {}


class Entry:
    def __init__(self, op, dtype):
        self.op, self.dtype, self.random = op, dtype, is_random(op)
        self.close = tolerances(op, dtype)
        self.float32_inside = dtype in REDUCED and bool(FLOAT32_INSIDE.search(op.name))
        self.name = op.full_name if hasattr(op, "full_name") else op.name

    def compare(self, expected, got, random):
        """True when bitwise equal; raises when not close."""
        expected, got = tensors(expected), tensors(got)
        assert len(expected) == len(got), f"{len(got)} tensors instead of {len(expected)}"
        same = True
        for e, g in zip(expected, got):
            if self.float32_inside:
                e = e.to(g.dtype)
            assert e.shape == g.shape and e.dtype == g.dtype, f"{tuple(g.shape)} {g.dtype} instead of {tuple(e.shape)} {e.dtype}"
            if random or e.layout == torch.jagged:
                continue
            e, g = host(e), host(g)
            if e.dtype == torch.complex32:  # which the CPU cannot compare
                e, g = e.to(torch.complex64), g.to(torch.complex64)
            torch.testing.assert_close(g, e, equal_nan=True, **self.close)
            same = same and torch.equal(e.nan_to_num() if e.is_floating_point() else e, g.nan_to_num() if g.is_floating_point() else g)
        return same

    def draws(self, run, arguments):
        """What the op draws with these arguments in some calls, sorted. OpInfo's entries seed before each call; not here."""
        values = []
        for _ in range(REPEATS_MAX):
            own = pytree.tree_map(lambda v: v.clone() if isinstance(v, torch.Tensor) else v, arguments)  # some draw into their argument
            values += [host(torch.view_as_real(t.resolve_conj()) if t.is_complex() else t).flatten().double() for t in tensors(run(*own))]
            if sum(v.numel() for v in values) >= DRAWS:
                break
        return torch.cat(values).sort().values

    def compare_distribution(self, run, sample):
        with mock.patch.object(common_methods_invocations, "wrapper_set_seed", lambda op, *a, **k: op(*a, **k)):
            torch.manual_seed(11)
            self.compare_draws(run, sample)

    def compare_draws(self, run, sample):
        expected = self.draws(run, (sample.input, sample.args, sample.kwargs))
        there = to("cuda", (sample.input, sample.args, sample.kwargs))
        there[2].update({k: torch.device("cuda") for k, v in there[2].items() if k == "device"})
        got = self.draws(run, there)
        if not expected.numel():
            return
        everywhere = torch.cat([expected, got])
        share = lambda some: torch.searchsorted(some, everywhere, right=True) / some.numel()
        channels = CHANNELWISE.search(self.op.name)
        one_draw = sample.input.shape[-int(channels[1]):].numel() if channels else 1
        apart, allowed = (share(expected) - share(got)).abs().max().item(), KS * (2 * one_draw / expected.numel()) ** 0.5
        assert apart <= allowed, (f"{expected.numel()} draws are distributed otherwise ({apart:.3f} apart, {allowed:.3f} allowed): mean {got.mean():.4g} instead of "
                                  f"{expected.mean():.4g}, deviation {got.std():.4g} instead of {expected.std():.4g}")

    def drops_out(self, sample):
        """Does this sample draw, although the entry does not as a rule?"""
        attention = self.name == "nn.functional.multi_head_attention_forward"  # dropout_p is its eleventh argument
        return (sample.args[9] if attention else sample.kwargs.get("dropout_p", 0)) > 0

    def both(self, run, sample):
        """Runs on both devices. None when PyTorch's CPU refuses the call: then there is nothing to compare."""
        try:
            torch.manual_seed(3)
            expected = run(*self.wide(sample) if self.float32_inside else to("cpu", (sample.input, sample.args, sample.kwargs)))  # leaves of its own
        except Exception:
            return None
        there = to("cuda", (sample.input, sample.args, sample.kwargs))
        there[2].update({k: torch.device("cuda") for k, v in there[2].items() if k == "device"})
        torch.manual_seed(3)
        got = run(*there)
        torch.cuda.synchronize()  # a copy to the host may be asynchronous
        return expected, got

    def forward(self, x, a, k):
        with torch.no_grad():
            return self.op(x, *a, **k)

    def backward(self, x, a, k):
        leaves = [t for t in tensors((x, a, k)) if t.requires_grad]
        out = [t for t in tensors(self.op(x, *a, **k)) if t.requires_grad]
        if not out or not leaves:
            raise NotImplementedError
        seeds = [torch.ones_like(t) for t in out]
        return [g for g in torch.autograd.grad(out, leaves, seeds, allow_unused=True) if g is not None]

    def inplace(self, x, a, k):
        x = x.detach().clone()
        with torch.no_grad():
            return self.op.inplace_variant(x, *a, **k)

    def out(self, x, a, k):
        with torch.no_grad():
            results = self.op(x, *a, **k)
            if isinstance(results, torch.Tensor):
                given = torch.empty_like(results)
                self.op(x, *a, **k, out=given)
                return given
            given = tuple(torch.empty_like(r) for r in results)
            self.op(x, *a, **k, out=given)
            return given

    def wide(self, sample):
        """The sample in float32, on the CPU."""
        return pytree.tree_map(lambda t: t.detach().float().requires_grad_(t.requires_grad) if isinstance(t, torch.Tensor) and t.dtype == self.dtype else t,
                               (sample.input, sample.args, sample.kwargs))

    def judge(self, run, sample, expected, got):
        """In reduced precision: how far both are from the same in float32. For the reader of the table."""
        if self.dtype not in REDUCED:
            return ""
        try:
            truth = tensors(run(*self.wide(sample)))
            error = lambda some: max(((host(a).float() - host(b).float()).abs().max().item() for a, b in zip(some, truth) if a.numel()), default=0)
            return f"(from float32: CPU {error(tensors(expected)):.2g}, device {error(tensors(got)):.2g}) "
        except Exception:
            return ""

    def directions(self):
        yield "forward", self.forward, False
        both = set(self.op.supported_backward_dtypes("cpu")) & set(self.op.supported_backward_dtypes("cuda"))
        if self.op.supports_autograd and self.dtype in both:
            yield "backward", self.backward, True
        if self.dtype == torch.float32:
            if self.op.inplace_variant:
                yield "inplace", self.inplace, False
            if self.op.supports_out:
                yield "out", self.out, False

    def sweep(self):
        for direction, run, grad in self.directions():
            row = dict(entry=self.name, dtype=str(self.dtype).split(".")[1], direction=direction, samples=0, bitwise=0, status="ok", detail="")
            try:
                torch.manual_seed(0)
                samples = list(self.op.sample_inputs("cpu", self.dtype, requires_grad=grad))
            except Exception as e:
                row.update(status="raised", detail=f"sample_inputs: {e}"[:200])
                samples = []
            for number, sample in enumerate(samples):
                if direction == "inplace" and not isinstance(sample.input, torch.Tensor):
                    continue
                try:
                    result = self.both(run, sample)
                    if result is None:
                        continue
                    row["samples"] += 1
                    row["bitwise"] += self.compare(*result, self.random or self.drops_out(sample))
                    if DRAWN.match(self.op.name) and direction == "forward" and row["samples"] <= SAMPLES_DRAWN:
                        self.compare_distribution(run, sample)
                except AssertionError as e:
                    row.update(status="wrong", detail=f"sample {number}: {self.judge(run, sample, *result)}{' '.join(str(e).split())}"[:500])
                    break
                except Exception as e:
                    row.update(status="error", detail=f"sample {number}: {type(e).__name__}: {' '.join(str(e).split())}"[:400])
                    break
            yield row


def main():
    dtype, shard, shards = getattr(torch, sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    pattern = re.compile(sys.argv[4] if len(sys.argv) > 4 else "")
    torch.set_num_threads(1)
    assert torch.cuda.is_available(), "no device"
    for i, op in enumerate(op_db):
        if i % shards != shard or not pattern.search(op.name) or "jiterator" in op.name:
            continue
        if dtype not in op.supported_dtypes("cpu") or dtype not in op.dtypesIfCUDA:
            continue
        entry = Entry(op, dtype)
        print(json.dumps(dict(begin=entry.name)), flush=True)
        for row in entry.sweep():
            print(json.dumps(row), flush=True)
    print(json.dumps(dict(end=True)), flush=True)


if __name__ == "__main__":
    main()

"""What the training programs share: numbers from fixed seeds, made on the host so that both devices get the same, and small networks."""
import torch
import torch.nn as nn
import torch.nn.functional as F

OPTIMISER_STEPS = 3


def numbers(device, *shape, seed=0, dtype=torch.float32, grad=False):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype).to(device).requires_grad_(grad)


def integers(device, high, *shape, seed=0):
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed)).to(device)


def network(device, dtype=torch.float32):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 12), nn.LayerNorm(12), nn.GELU(), nn.Linear(12, 3)).to(device, dtype)


def batch(device, step=0, dtype=torch.float32):
    return numbers(device, 8, 6, seed=step, dtype=dtype), integers(device, 3, 8, seed=step)


def loss_of(model, device, step=0, dtype=torch.float32):
    x, y = batch(device, step, dtype)
    return F.cross_entropy(model(x), y)


def parameters_of(model):
    return [p.detach().clone() for p in model.parameters()]


def gradients_of(model):
    return [p.grad for p in model.parameters()]


def raises(kind, words, function):
    """The text of the exception, which is of this kind and says these words."""
    try:
        function()
    except kind as e:
        assert words in str(e), f"{type(e).__name__} without {words!r}: {e}"
        return str(e)
    raise AssertionError(f"no {kind.__name__} that says {words!r}")

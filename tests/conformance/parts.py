"""What programs about models share: libraries that may be missing, seeds, batches."""
import torch

from suite import Skip

VOCABULARY = 120


def library(name):
    try:
        return __import__(name)
    except ImportError:
        raise Skip(f"{name} is not installed (scripts/setup --tests)")


def seeded(build, *arguments):
    torch.manual_seed(0)
    return build(*arguments)


def moved(batch, device):
    if isinstance(batch, torch.Tensor):
        return batch.to(device)
    if isinstance(batch, dict):
        return {k: moved(v, device) for k, v in batch.items()}
    return [moved(v, device) for v in batch] if isinstance(batch, (list, tuple)) else batch


def tokens(*shape, seed=1):
    return torch.randint(3, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))

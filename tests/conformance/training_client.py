"""Training machinery: what programs use around their model, compared with the same program on the host; see suite.py. The cases are in training/, one
file per subject."""
import torch

from suite import main
from training import autograd, compiled, data, functional, layouts, modules, optimizers, precision  # noqa: F401

if __name__ == "__main__":
    torch.set_num_threads(2)
    main()

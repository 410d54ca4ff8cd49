"""OpInfo's samples through the executor alone: every op that they dispatch, forward and backward, against the same PyTorch in this process."""
import os
import pathlib
import sys
import unittest
import warnings

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
os.environ.setdefault("PYTORCH_TESTING_DEVICE_ONLY_FOR", "cpu")
warnings.filterwarnings("ignore")
from harness import BUILD, TORCH_MINOR

import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils import _pytree as pytree
from executor_client import Executor, Shadow

SAMPLES_MAX = 4  # per OpInfo entry: more find nothing new and cost minutes
# Their outputs are not wholly written: what the kernel leaves alone differs from run to run.
UNWRITTEN = ["aten::_ctc_loss", "aten::_ctc_loss.Tensor"]
# R8: in reduced precision the executor computes them in float32, as CUDA does; this process's CPU kernels do not.
NORMS = ["aten::native_batch_norm_backward", "aten::batch_norm_backward", "aten::native_layer_norm_backward", "aten::native_group_norm_backward"]


class OpInfo(unittest.TestCase):
    def sweep(self, dtype, backward, tolerance, compared_min):
        shadow = Shadow(self.executor(), tolerance, UNWRITTEN + (NORMS if dtype in (torch.bfloat16, torch.float16) else []))
        for op in op_db:
            if dtype not in op.supported_dtypes("cpu") or dtype not in op.dtypesIfCUDA or "jiterator" in op.name:
                continue
            grad = backward and op.supports_autograd
            torch.manual_seed(0)
            for sample in list(op.sample_inputs("cpu", dtype, requires_grad=grad))[:SAMPLES_MAX]:
                try:
                    with shadow:
                        self.step(op, sample, grad)
                except Exception:  # PyTorch's own (no derivative, no kernel): ours are in shadow.wrong
                    shadow.counts["PyTorch raises"] += 1
        self.assertFalse(shadow.wrong, "\n".join(f"{op}: {len(what)} times, first: {what[0]}" for op, what in sorted(shadow.wrong.items())))
        self.assertGreater(shadow.counts["compared"], compared_min, shadow.counts)
        print(dtype, dict(shadow.counts))

    @classmethod
    def executor(cls):
        if not hasattr(OpInfo, "shared"):
            OpInfo.shared = Executor(BUILD / f"libdjinn_aten-{TORCH_MINOR}.so")
        return OpInfo.shared

    @staticmethod
    def step(op, sample, grad):
        outputs = [t for t in pytree.tree_leaves(op(sample.input, *sample.args, **sample.kwargs)) if isinstance(t, torch.Tensor)]
        outputs = [t for t in outputs if t.requires_grad]
        if grad and outputs:
            torch.autograd.backward([t.abs().sum() if t.is_complex() else t.sum() for t in outputs])

    def test_float32(self):
        self.sweep(torch.float32, True, 1e-5, 15000)

    def test_bfloat16(self):
        self.sweep(torch.bfloat16, True, 2e-2, 10000)

    def test_float16(self):
        self.sweep(torch.float16, True, 2e-2, 10000)

    def test_int64(self):
        self.sweep(torch.int64, False, 0, 1500)

    def test_complex64(self):
        self.sweep(torch.complex64, True, 1e-5, 1800)


if __name__ == "__main__":
    unittest.main(verbosity=2)

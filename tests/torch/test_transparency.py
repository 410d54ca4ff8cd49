"""Djinn loaded or not, the process's own PyTorch is the same: backend flags read unchanged and CPU results (fused attention included) are
bit-equal, also after CUDA was used through Djinn."""
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import Case, Server, run

PROGRAM = """
import hashlib, os, torch, torch.nn.functional as F
if os.environ.get('LD_PRELOAD'):
    assert torch.cuda.is_available()
    x = torch.randn(2, 4, 16, 8).cuda()
    F.scaled_dot_product_attention(x, x, x).sum().item()
b = torch.backends
print({k: v() for k, v in dict(flash=b.cuda.flash_sdp_enabled, efficient=b.cuda.mem_efficient_sdp_enabled, math=b.cuda.math_sdp_enabled,
    cudnn_sdp=b.cuda.cudnn_sdp_enabled).items()})
print(b.cudnn.enabled, b.cudnn.benchmark, b.cudnn.deterministic, b.cudnn.allow_tf32, b.cuda.matmul.allow_tf32, b.mkldnn.is_available(), b.mkl.is_available(),
    torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled(), torch.get_default_dtype())
torch.set_num_threads(1)
g = torch.Generator().manual_seed(3)
r = lambda *s: torch.randn(*s, generator=g)
digest = lambda t: hashlib.sha256(t.detach().contiguous().numpy().tobytes()).hexdigest()[:16]
q, k, v = r(2, 4, 64, 32), r(2, 4, 64, 32), r(2, 4, 64, 32)
print('sdpa', digest(F.scaled_dot_product_attention(q, k, v)), digest(F.scaled_dot_product_attention(q, k, v, is_causal=True)))
print('mm', digest(r(65, 33) @ r(33, 17)), 'conv', digest(F.conv2d(r(2, 3, 16, 16), r(4, 3, 3, 3))))
w = r(8, 8).requires_grad_(); F.gelu(r(4, 8) @ w).sum().backward(); print('grad', digest(w.grad))
print('which', str(torch.backends.cuda.preferred_blas_library()), str(torch.backends.cuda.preferred_linalg_library()))
"""


class Transparency(Case):
    def test_flags_and_cpu_results_are_the_same(self):
        plain = run(PROGRAM, preload=False)
        with Server() as server:
            loaded = run(PROGRAM, server)
        # preferred_*_library asks the CUDA context where there is one; compare what both processes can answer
        want = [line for line in plain.out.splitlines() if not line.startswith("which")]
        got = [line for line in loaded.out.splitlines() if not line.startswith("which")]
        self.assertEqual(want, got)


if __name__ == "__main__":
    unittest.main(verbosity=2)

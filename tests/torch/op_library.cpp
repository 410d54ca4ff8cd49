// A program's own operators, as an extension brings them. The server loads this with --op-library and runs the CPU kernel; the client loads it with
// torch.ops.load_library and needs of its kernel the shape alone, so that the one of `twice` launches nothing. At call level the kernel of `thrice`
// is what launches. See test_op_library.py.
#include <ATen/ATen.h>
#include <torch/library.h>

TORCH_LIBRARY(djinn_test, m) {
  m.def("twice(Tensor x) -> Tensor");
  m.def("thrice(Tensor x) -> Tensor");
}
TORCH_LIBRARY_IMPL(djinn_test, CPU, m) {
  m.impl("twice", [](const at::Tensor& x) { return x * 2; });
  m.impl("thrice", [](const at::Tensor& x) { return x * 3; });
}
TORCH_LIBRARY_IMPL(djinn_test, CUDA, m) {
  m.impl("twice", [](const at::Tensor& x) { return at::empty_like(x); });
  m.impl("thrice", [](const at::Tensor& x) { return x * 3; });
}

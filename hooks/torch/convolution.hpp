// The one thing about a convolution that Meta tensors cannot tell: whether CUDA's backend would answer in channels-last. Everything behind it keeps
// the format, and programs ask for it.
#pragma once
#include <ATen/core/ivalue.h>

#include <span>

namespace djinn::hook {

// `output` (on Meta) in the format of the backend that PyTorch would choose for these arguments of aten::convolution.
at::Tensor in_backend_format(const at::Tensor& output, std::span<const c10::IValue> arguments);

}  // namespace djinn::hook

// See convolution.hpp.
#include "hooks/torch/convolution.hpp"

#include <ATen/ATen.h>
#include <ATen/native/ConvUtils.h>

namespace djinn::hook {

// (input, weight, bias, stride, padding, dilation, transposed, output_padding, groups)
at::Tensor in_backend_format(const at::Tensor& output, std::span<const c10::IValue> arguments) {
  if (output.dim() < 4) return output;  // there is no such format of one spatial dimension
  const at::Tensor &input = arguments[0].toTensor(), &weight = arguments[1].toTensor();
  auto bias = arguments[2].isTensor() && arguments[2].toTensor().defined() ? std::optional(arguments[2].toTensor()) : std::nullopt;
  auto stride = arguments[3].toDimVector(), padding = arguments[4].toDimVector(), dilation = arguments[5].toDimVector(),
       output_padding = arguments[7].toDimVector();
  auto backend = at::native::select_conv_backend(input, weight, bias, c10::fromIntArrayRefSlow(stride), c10::fromIntArrayRefSlow(padding),
                                                 c10::fromIntArrayRefSlow(dilation), arguments[6].toBool(), c10::fromIntArrayRefSlow(output_padding),
                                                 arguments[8].toInt(), std::nullopt);
  return output.contiguous(at::native::_determine_backend_memory_format(input, weight, backend));
}

}  // namespace djinn::hook

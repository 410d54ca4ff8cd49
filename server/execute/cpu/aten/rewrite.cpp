// The table of rewrites, and the small ones: matrix products with another output dtype, convolutions and samplers that cuDNN has under names of its
// own.
#include "server/execute/cpu/aten/rewrite.hpp"
#include "server/execute/cpu/aten/failure.hpp"

#include <ATen/ATen.h>

#include <map>

namespace djinn::aten {

namespace {

using at::Tensor;

// mm.dtype & co: low precision in, `out_dtype` out: the product is computed in out_dtype.
Tensor product_in(at::ScalarType dtype, Call& c, size_t tensors) {
  auto t = [&](size_t i) { return c.tensor(i).to(dtype); };
  if (tensors == 2) return c.tensor(0).dim() == 2 ? at::mm(t(0), t(1)) : at::bmm(t(0), t(1));
  auto beta = c.stack[4].toScalar(), alpha = c.stack[5].toScalar();
  return c.tensor(1).dim() == 2 ? at::addmm(t(0), t(1), t(2), beta, alpha) : at::baddbmm(t(0), t(1), t(2), beta, alpha);
}
template <size_t kTensors>
void product(Call& c) {
  c.returns({product_in(c.stack[kTensors].toScalarType(), c, kTensors)});
}
template <size_t kTensors>
void product_out(Call& c) {
  Tensor result = product_in(c.stack[kTensors].toScalarType(), c, kTensors), out = c.stack.back().toTensor();
  out.resize_(result.sizes()).copy_(result);
  c.returns({out});
}

// CUDA's forward keeps no buffer, the CPU's backward reads one.
Tensor log_sigmoid_buffer(Call& c) {
  Tensor buffer = c.tensor(2);
  return buffer.numel() ? buffer : std::get<1>(at::log_sigmoid_forward(c.tensor(1)));
}
void log_sigmoid_backward(Call& c) { c.returns({at::log_sigmoid_backward(c.tensor(0), c.tensor(1), log_sigmoid_buffer(c))}); }
void log_sigmoid_backward_out(Call& c) {
  Tensor out = c.tensor(3);
  at::log_sigmoid_backward_out(out, c.tensor(0), c.tensor(1), log_sigmoid_buffer(c));
  c.returns({out});
}

void masked_scale(Call& c) { c.returns({c.tensor(0).mul(c.tensor(1)).mul_(c.stack[2].toDouble())}); }

// (weight, indices, offsets, scale_grad_by_freq, mode, sparse, per_sample_weights, include_last_offset, padding_idx) -> (output, offset2bag,
// bag_size, max_indices). The CPU leaves out what its fast path does not need; CUDA never does.
template <bool kForwardOnly>
void embedding_bag(Call& c) {
  const Tensor &indices = c.tensor(1), &offsets = c.tensor(2);
  bool last = c.stack[7].toBool();
  auto run = kForwardOnly ? at::_embedding_bag_forward_only : at::_embedding_bag;
  auto [output, offset2bag, bag_size, max_indices] =
      run(c.tensor(0), indices, offsets, c.stack[3].toBool(), c.stack[4].toInt(), c.stack[5].toBool(), c.maybe(6), last, c.stack[8].toInt());
  int64_t n = indices.numel(), bags = offsets.numel() - (last ? 1 : 0);
  Tensor starts = offsets.narrow(0, 0, bags).to(at::kLong);
  Tensor ends = last ? offsets.narrow(0, 1, bags).to(at::kLong) : bags ? at::cat({starts.slice(0, 1), at::full({1}, n, starts.options())}) : starts;
  if (offset2bag.numel() != n) offset2bag = at::bucketize(at::arange(n, starts.options()), starts, false, true).sub_(1).to(offset2bag.scalar_type());
  if (bag_size.numel() != bags) bag_size = (ends - starts).to(offsets.scalar_type());
  if (last) bag_size = at::constant_pad_nd(bag_size, {0, 1});  // CUDA counts the last offset as a bag
  c.returns({output, offset2bag, bag_size, max_indices});
}

void cudnn_convolution(Call& c) {
  auto list = [&](size_t i) { return c.stack[i].toIntVector(); };
  std::vector<int64_t> none(list(2).size(), 0);
  c.returns({at::convolution(c.tensor(0), c.tensor(1), {}, list(3), list(2), list(4), false, none, c.stack[5].toInt())});
}
void cudnn_convolution_transpose(Call& c) {
  auto list = [&](size_t i) { return c.stack[i].toIntVector(); };
  c.returns({at::convolution(c.tensor(0), c.tensor(1), {}, list(4), list(2), list(5), true, list(3), c.stack[6].toInt())});
}
Tensor biased_convolution(Call& c, size_t bias) {
  auto list = [&](size_t i) { return c.stack[i].toIntVector(); };
  std::vector<int64_t> none(list(bias + 2).size(), 0);
  return at::convolution(c.tensor(0), c.tensor(1), c.maybe(bias), list(bias + 1), list(bias + 2), list(bias + 3), false, none,
                         c.stack[bias + 4].toInt());
}
void cudnn_convolution_relu(Call& c) { c.returns({biased_convolution(c, 2).relu_()}); }
void cudnn_convolution_add_relu(Call& c) {
  at::Scalar alpha = c.stack[3].isNone() ? at::Scalar(1) : c.stack[3].toScalar();
  c.returns({biased_convolution(c, 4).add_(c.tensor(2), alpha).relu_()});
}
void depthwise_convolution(Call& c) {
  auto list = [&](size_t i) { return c.stack[i].toIntVector(); };
  std::vector<int64_t> none(list(2).size(), 0);
  c.returns({at::convolution(c.tensor(0), c.tensor(1), c.maybe(3), list(4), list(5), list(6), false, none, c.tensor(0).size(1))});
}

// (self[, text])
void assert_async(Call& c) {
  if (!c.tensor(0).is_nonzero())
    throw DeviceAssertion(c.stack.size() > 1 ? c.stack[1].toStringRef() : "Expected Tensor with single nonzero value, but got zero");
  c.returns({});
}

constexpr int64_t kBilinear = 0, kZerosPadding = 0;
void cudnn_grid_sampler(Call& c) { c.returns({at::grid_sampler_2d(c.tensor(0), c.tensor(1), kBilinear, kZerosPadding, true)}); }
void cudnn_grid_sampler_backward(Call& c) {
  auto [image, grid] = at::grid_sampler_2d_backward(c.tensor(2), c.tensor(0), c.tensor(1), kBilinear, kZerosPadding, true, {true, true});
  c.returns({image, grid});
}
std::vector<int64_t> grid_shape(Call& c) { return {c.stack[1].toInt(), c.stack[2].toInt(), c.stack[3].toInt(), c.stack[4].toInt()}; }
void cudnn_affine_grid(Call& c) { c.returns({at::affine_grid_generator(c.tensor(0), grid_shape(c), true)}); }
void cudnn_affine_grid_backward(Call& c) { c.returns({at::affine_grid_generator_backward(c.tensor(0), grid_shape(c), true)}); }

// (losses, gradient of log_probs): cuDNN computes both at once. The CPU's ctc_loss and its backward give the same pair.
void cudnn_ctc_loss(Call& c) {
  const Tensor& log_probs = c.tensor(0);
  auto lengths = [&](size_t i) {
    if (!c.stack[i].isTensor()) return c.stack[i].toIntVector();
    Tensor t = c.tensor(i).to(at::kLong).contiguous();
    return std::vector<int64_t>(t.data_ptr<int64_t>(), t.data_ptr<int64_t>() + t.numel());
  };
  auto inputs = lengths(2), targets = lengths(3);
  int64_t blank = c.stack[4].toInt();
  bool zero_infinity = c.stack[6].toBool();
  Tensor labels = c.tensor(1).to(at::kLong);
  auto [loss, alpha] = at::_ctc_loss(log_probs, labels, inputs, targets, blank, zero_infinity);
  Tensor gradient = at::_ctc_loss_backward(at::ones_like(loss), log_probs, labels, inputs, targets, loss, alpha, blank, zero_infinity);
  if (zero_infinity) loss = at::where(loss == std::numeric_limits<double>::infinity(), at::zeros({}, loss.options()), loss);
  c.returns({loss, gradient});
}

constexpr RewriteRule kSmall[] = {
    {"aten::mm.dtype", product<2>},
    {"aten::mm.dtype_out", product_out<2>},
    {"aten::bmm.dtype", product<2>},
    {"aten::bmm.dtype_out", product_out<2>},
    {"aten::addmm.dtype", product<3>},
    {"aten::addmm.dtype_out", product_out<3>},
    {"aten::baddbmm.dtype", product<3>},
    {"aten::baddbmm.dtype_out", product_out<3>},
    {"aten::log_sigmoid_backward", log_sigmoid_backward},
    {"aten::log_sigmoid_backward.grad_input", log_sigmoid_backward_out},
    {"aten::_masked_scale", masked_scale},
    {"aten::_assert_async", assert_async},
    {"aten::_assert_async.msg", assert_async},
    {"aten::_embedding_bag", embedding_bag<false>},
    {"aten::_embedding_bag_forward_only", embedding_bag<true>},
    {"aten::cudnn_convolution", cudnn_convolution},
    {"aten::cudnn_convolution_transpose", cudnn_convolution_transpose},
    {"aten::cudnn_convolution_relu", cudnn_convolution_relu},
    {"aten::cudnn_convolution_add_relu", cudnn_convolution_add_relu},
    {"aten::_conv_depthwise2d", depthwise_convolution},
    {"aten::conv_depthwise3d", depthwise_convolution},
    {"aten::cudnn_grid_sampler", cudnn_grid_sampler},
    {"aten::cudnn_grid_sampler_backward", cudnn_grid_sampler_backward},
    {"aten::cudnn_affine_grid_generator", cudnn_affine_grid},
    {"aten::cudnn_affine_grid_generator_backward", cudnn_affine_grid_backward},
    {"aten::_cudnn_ctc_loss", cudnn_ctc_loss},
    {"aten::_cudnn_ctc_loss.Tensor", cudnn_ctc_loss},
};

}  // namespace

Rewrite find_rewrite(std::string_view name) {
  static const auto* table = [] {
    auto* t = new std::map<std::string_view, Rewrite>;
    for (auto rules : {std::span<const RewriteRule>(kSmall), attention_rules(), int4_rules(), norm_rules(), random_rules(), recurrent_rules()})
      for (const auto& r : rules) t->emplace(r.name, r.rewrite);
    return t;
  }();
  auto it = table->find(name);
  return it == table->end() ? nullptr : it->second;
}

}  // namespace djinn::aten

// See cost.hpp.
#include "semantic/graph/cost.hpp"

#include <algorithm>

namespace djinn::graph {

namespace {

struct Row {
  std::string_view op;
  Cost cost;
};

// Sorted by name. What is not here is one operation an element; an in-place form ("add_") has the cost of its name without the underscore.
constexpr Row kRows[] = {
    {"aten::_addmm_activation", Cost::product_after_bias},
    {"aten::_conv_depthwise2d", Cost::convolution},
    {"aten::_convolution", Cost::convolution_flagged},
    {"aten::_copy_from", Cost::nothing},
    {"aten::_cudnn_attention_backward", Cost::attention_backward},
    {"aten::_cudnn_attention_forward", Cost::attention},
    {"aten::_efficient_attention_backward", Cost::attention_backward_heads_last},
    {"aten::_efficient_attention_forward", Cost::attention_heads_last},
    {"aten::_flash_attention_backward", Cost::attention_backward_heads_last},
    {"aten::_flash_attention_forward", Cost::attention_heads_last},
    {"aten::_foreach_copy", Cost::nothing},
    {"aten::_foreach_zero", Cost::nothing},
    {"aten::_grouped_mm", Cost::product},
    {"aten::_index_put_impl", Cost::scatter},
    {"aten::_int_mm", Cost::product},
    {"aten::_local_scalar_dense", Cost::nothing},
    {"aten::_scaled_dot_product_attention_math", Cost::attention},
    {"aten::_scaled_dot_product_cudnn_attention", Cost::attention},
    {"aten::_scaled_dot_product_cudnn_attention_backward", Cost::attention_backward},
    {"aten::_scaled_dot_product_efficient_attention", Cost::attention},
    {"aten::_scaled_dot_product_efficient_attention_backward", Cost::attention_backward},
    {"aten::_scaled_dot_product_flash_attention", Cost::attention},
    {"aten::_scaled_dot_product_flash_attention_backward", Cost::attention_backward},
    {"aten::_scaled_dot_product_fused_attention_overrideable", Cost::attention},
    {"aten::_scaled_dot_product_fused_attention_overrideable_backward", Cost::attention_backward},
    {"aten::_scaled_mm", Cost::product},
    {"aten::_scaled_mm_v2", Cost::product},
    {"aten::_slow_conv2d_forward", Cost::convolution},
    {"aten::_to_copy", Cost::nothing},
    {"aten::_weight_int4pack_mm", Cost::product},
    {"aten::_weight_int8pack_mm", Cost::product},
    {"aten::addbmm", Cost::product_over_batch},
    {"aten::addmm", Cost::product_after_bias},
    {"aten::addmv", Cost::product_after_bias},
    {"aten::all", Cost::reduction},
    {"aten::amax", Cost::reduction},
    {"aten::amin", Cost::reduction},
    {"aten::any", Cost::reduction},
    {"aten::arange", Cost::nothing},
    {"aten::argmax", Cost::reduction},
    {"aten::argmin", Cost::reduction},
    {"aten::baddbmm", Cost::product_after_bias},
    {"aten::bmm", Cost::product},
    {"aten::cat", Cost::nothing},
    {"aten::clone", Cost::nothing},
    {"aten::constant_pad_nd", Cost::nothing},
    {"aten::conv1d", Cost::convolution},
    {"aten::conv2d", Cost::convolution},
    {"aten::conv3d", Cost::convolution},
    {"aten::conv_depthwise3d", Cost::convolution},
    {"aten::conv_transpose1d", Cost::convolution_transposed},
    {"aten::conv_transpose2d", Cost::convolution_transposed},
    {"aten::conv_transpose3d", Cost::convolution_transposed},
    {"aten::convolution", Cost::convolution_flagged},
    {"aten::convolution_backward", Cost::convolution_backward},
    {"aten::convolution_overrideable", Cost::convolution_flagged},
    {"aten::copy", Cost::nothing},
    {"aten::cudnn_convolution", Cost::convolution},
    {"aten::cudnn_convolution_add_relu", Cost::convolution},
    {"aten::cudnn_convolution_relu", Cost::convolution},
    {"aten::cudnn_convolution_transpose", Cost::convolution_transposed},
    {"aten::dot", Cost::product},
    {"aten::embedding", Cost::gather},
    {"aten::fill", Cost::nothing},
    {"aten::flip", Cost::nothing},
    {"aten::gather", Cost::gather},
    {"aten::index", Cost::gather},
    {"aten::index_add", Cost::scatter},
    {"aten::index_copy", Cost::scatter},
    {"aten::index_put", Cost::scatter},
    {"aten::index_select", Cost::gather},
    {"aten::linalg_vector_norm", Cost::reduction},
    {"aten::linear", Cost::product},
    {"aten::masked_fill", Cost::nothing},
    {"aten::matmul", Cost::product},
    {"aten::max", Cost::reduction},
    {"aten::mean", Cost::reduction},
    {"aten::min", Cost::reduction},
    {"aten::mm", Cost::product},
    {"aten::mv", Cost::product},
    {"aten::nonzero", Cost::reduction},
    {"aten::norm", Cost::reduction},
    {"aten::prod", Cost::reduction},
    {"aten::repeat", Cost::nothing},
    {"aten::roll", Cost::nothing},
    {"aten::scaled_dot_product_attention", Cost::attention},
    {"aten::scatter", Cost::scatter},
    {"aten::scatter_add", Cost::scatter},
    {"aten::scatter_reduce", Cost::scatter},
    {"aten::slow_conv3d_forward", Cost::convolution},
    {"aten::slow_conv_dilated2d", Cost::convolution},
    {"aten::slow_conv_dilated3d", Cost::convolution},
    {"aten::slow_conv_transpose2d", Cost::convolution_transposed},
    {"aten::slow_conv_transpose3d", Cost::convolution_transposed},
    {"aten::std", Cost::reduction},
    {"aten::std_mean", Cost::reduction},
    {"aten::sum", Cost::reduction},
    {"aten::take", Cost::gather},
    {"aten::tril", Cost::nothing},
    {"aten::triu", Cost::nothing},
    {"aten::var", Cost::reduction},
    {"aten::var_mean", Cost::reduction},
    {"aten::vdot", Cost::product},
    {"aten::zero", Cost::nothing},
};
constexpr bool by_name(const Row& a, const Row& b) { return a.op < b.op; }
static_assert(std::is_sorted(std::begin(kRows), std::end(kRows), by_name));

uint64_t times(uint64_t a, uint64_t b) {
  uint64_t r;
  return __builtin_mul_overflow(a, b, &r) || r > kFlopsMax ? kFlopsMax : r;
}
uint64_t plus(uint64_t a, uint64_t b) { return std::min(a + b, kFlopsMax); }  // neither is more than kFlopsMax

const Shape& argument(const Shapes& s, size_t i) {
  static constexpr Shape kMissing;
  return s.arguments[i] ? *s.arguments[i] : kMissing;
}
bool given(const Shapes& s, size_t output) { return output < s.outputs.size() && s.outputs[output]; }

uint64_t output_elements(const Shapes& s) {
  uint64_t n = 0;
  for (const Shape* o : s.outputs)
    if (o) n = plus(n, std::min(o->elements, kFlopsMax));
  return n;
}

uint64_t product(const Shapes& s, const Shape& matrix) { return given(s, 0) ? times(2, times(s.outputs[0]->elements, matrix.last())) : 0; }

// Weights are [out, in / groups, kernel …]; of a transposed convolution [in, out / groups, kernel …].
uint64_t filter_elements(const Shape& weight) { return weight.size(0) ? weight.elements / weight.size(0) : 0; }

uint64_t convolution(const Shapes& s, bool transposed) {
  if (!given(s, 0)) return 0;
  return times(2, times(transposed ? argument(s, 0).elements : s.outputs[0]->elements, filter_elements(argument(s, 1))));
}

uint64_t convolution_backward(const Shapes& s, bool transposed) {
  const Shape &grad = argument(s, 0), &input = argument(s, 1);
  uint64_t one = times(2, times(transposed ? input.elements : grad.elements, filter_elements(argument(s, 2))));
  return times(one, given(s, 0) + given(s, 1));
}

uint64_t attention(const Shapes& s, size_t first, bool heads_last, uint64_t of_queries, uint64_t of_values) {
  const Shape &query = argument(s, first), &key = argument(s, first + 1), &value = argument(s, first + 2);
  size_t heads = heads_last ? 2 : 1, length = heads_last ? 1 : 2;
  uint64_t pairs = times(times(query.size(0), query.size(heads)), times(query.size(length), key.size(length)));
  return times(2, times(pairs, plus(times(of_queries, query.last()), times(of_values, value.last()))));
}

}  // namespace

Cost cost_of(std::string_view op) {
  if (op.size() > 1 && op.back() == '_') op.remove_suffix(1);
  auto row = std::lower_bound(std::begin(kRows), std::end(kRows), Row{op, Cost::nothing}, by_name);
  return row != std::end(kRows) && row->op == op ? row->cost : Cost::elements;
}

uint64_t flops(Cost cost, const Shapes& s) {
  switch (cost) {
    case Cost::nothing:
    case Cost::gather:
    case Cost::scatter: return 0;
    case Cost::elements: return output_elements(s);
    case Cost::reduction: return std::min(argument(s, 0).elements, kFlopsMax);
    case Cost::product: return product(s, argument(s, 0));
    case Cost::product_after_bias: return product(s, argument(s, 1));
    case Cost::product_over_batch: return times(product(s, argument(s, 1)), argument(s, 1).size(0));
    case Cost::convolution: return convolution(s, false);
    case Cost::convolution_flagged: return convolution(s, s.true_arguments >> 6 & 1);
    case Cost::convolution_transposed: return convolution(s, true);
    case Cost::convolution_backward: return convolution_backward(s, s.true_arguments >> 7 & 1);
    case Cost::attention: return attention(s, 0, false, 1, 1);
    case Cost::attention_heads_last: return attention(s, 0, true, 1, 1);
    case Cost::attention_backward: return attention(s, 1, false, 3, 2);
    case Cost::attention_backward_heads_last: return attention(s, 1, true, 3, 2);
  }
  return 0;
}

}  // namespace djinn::graph

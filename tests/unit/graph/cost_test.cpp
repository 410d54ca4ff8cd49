// The cost model against numbers that a hand (or torch.utils.flop_counter, for products, convolutions and attention) has computed.
#include "semantic/graph/cost.hpp"

#include <vector>

#include "tests/unit/catch.hpp"

using namespace djinn::graph;

namespace {

Shape shape(std::initializer_list<uint64_t> sizes) {
  Shape s;
  s.elements = 1;
  for (uint64_t n : sizes) {
    s.push(n);
    s.elements *= n;
  }
  return s;
}

uint64_t cost(std::string_view op, const std::vector<Shape>& arguments, const std::vector<Shape>& outputs, uint64_t true_arguments = 0) {
  Shapes s;
  for (size_t i = 0; i < arguments.size(); i++) s.arguments[i] = &arguments[i];
  std::vector<const Shape*> out;
  for (const Shape& o : outputs) out.push_back(o.rank ? &o : nullptr);
  s.outputs = out;
  s.true_arguments = true_arguments;
  return flops(cost_of(op), s);
}

}  // namespace

TEST_CASE("products cost two operations per element of the output and of the summed axis") {
  CHECK(cost("aten::mm", {shape({3, 5}), shape({5, 7})}, {shape({3, 7})}) == 2 * 3 * 5 * 7);
  CHECK(cost("aten::addmm", {shape({7}), shape({3, 5}), shape({5, 7})}, {shape({3, 7})}) == 2 * 3 * 5 * 7);
  CHECK(cost("aten::addmm_", {shape({3, 7}), shape({3, 5}), shape({5, 7})}, {shape({3, 7})}) == 2 * 3 * 5 * 7);
  CHECK(cost("aten::bmm", {shape({4, 3, 5}), shape({4, 5, 7})}, {shape({4, 3, 7})}) == 2 * 4 * 3 * 5 * 7);
  CHECK(cost("aten::baddbmm", {shape({1}), shape({4, 3, 5}), shape({4, 5, 7})}, {shape({4, 3, 7})}) == 2 * 4 * 3 * 5 * 7);
  CHECK(cost("aten::addbmm", {shape({3, 7}), shape({4, 3, 5}), shape({4, 5, 7})}, {shape({3, 7})}) == 2 * 4 * 3 * 5 * 7);
  CHECK(cost("aten::mv", {shape({3, 5}), shape({5})}, {shape({3})}) == 2 * 3 * 5);
  CHECK(cost("aten::matmul", {shape({1, 2, 1, 2, 1, 3, 5}), shape({5, 7})}, {shape({1, 2, 1, 2, 1, 3, 7})}) == 2 * 4 * 3 * 5 * 7);
  for (const char* op : {"aten::_weight_int4pack_mm", "aten::_scaled_mm_v2", "aten::_grouped_mm", "aten::linear"})
    CHECK(cost(op, {shape({3, 5}), shape({5, 7})}, {shape({3, 7})}) == 2 * 3 * 5 * 7);
  CHECK(cost("aten::dot", {shape({5}), shape({5})}, {shape({1})}) == 2 * 5);
}

TEST_CASE("convolutions cost two operations per element of the output and of one filter, and the backward as much per gradient") {
  Shape x = shape({2, 6, 8, 8}), w = shape({4, 3, 3, 3}), y = shape({2, 4, 6, 6});  // two groups
  CHECK(cost("aten::convolution", {x, w}, {y}) == 2 * (2 * 4 * 6 * 6) * (3 * 3 * 3));
  CHECK(cost("aten::cudnn_convolution", {x, w}, {y}) == 2 * (2 * 4 * 6 * 6) * (3 * 3 * 3));
  for (const char* op : {"aten::conv2d", "aten::_slow_conv2d_forward"}) CHECK(cost(op, {x, w}, {y}) == 2 * (2 * 4 * 6 * 6) * (3 * 3 * 3));
  Shape tx = shape({2, 4, 6, 6}), tw = shape({4, 3, 3, 3}), ty = shape({2, 3, 8, 8});
  CHECK(cost("aten::convolution", {tx, tw}, {ty}, 1 << 6) == 2 * (2 * 4 * 6 * 6) * (3 * 3 * 3));
  CHECK(cost("aten::cudnn_convolution_transpose", {tx, tw}, {ty}) == 2 * (2 * 4 * 6 * 6) * (3 * 3 * 3));
  CHECK(cost("aten::conv_transpose2d", {tx, tw}, {ty}) == 2 * (2 * 4 * 6 * 6) * (3 * 3 * 3));
  CHECK(cost("aten::convolution_backward", {y, x, w}, {x, w, shape({4})}) == 2 * 2 * (2 * 4 * 6 * 6) * (3 * 3 * 3));
  CHECK(cost("aten::convolution_backward", {y, x, w}, {Shape{}, w, shape({4})}) == 2 * (2 * 4 * 6 * 6) * (3 * 3 * 3));
  CHECK(cost("aten::convolution_backward", {ty, tx, tw}, {tx, tw, Shape{}}, 1 << 7) == 2 * 2 * (2 * 4 * 6 * 6) * (3 * 3 * 3));
}

TEST_CASE("attention costs its two products, and its backward five") {
  uint64_t b = 2, h = 3, q = 5, k = 7, d = 8, dv = 4;
  Shape query = shape({b, h, q, d}), key = shape({b, h, k, d}), value = shape({b, h, k, dv}), out = shape({b, h, q, dv});
  uint64_t forward = 2 * b * h * q * k * (d + dv), backward = 2 * b * h * q * k * (3 * d + 2 * dv);
  for (const char* op :
       {"aten::_scaled_dot_product_flash_attention", "aten::_scaled_dot_product_efficient_attention", "aten::_scaled_dot_product_cudnn_attention",
        "aten::_scaled_dot_product_attention_math", "aten::scaled_dot_product_attention"})
    CHECK(cost(op, {query, key, value}, {out}) == forward);
  CHECK(cost("aten::_scaled_dot_product_flash_attention_backward", {out, query, key, value}, {query, key, value}) == backward);
  CHECK(cost("aten::_scaled_dot_product_efficient_attention_backward", {out, query, key, value}, {query, key, value}) == backward);
  Shape query_t = shape({b, q, h, d}), key_t = shape({b, k, h, d}), value_t = shape({b, k, h, dv});
  CHECK(cost("aten::_efficient_attention_forward", {query_t, key_t, value_t}, {out}) == forward);
  CHECK(cost("aten::_flash_attention_backward", {out, query_t, key_t, value_t}, {}) == backward);
}

TEST_CASE("everything else costs an operation per element, and moving data nothing") {
  CHECK(cost("aten::gelu", {shape({3, 4})}, {shape({3, 4})}) == 12);
  CHECK(cost("aten::native_layer_norm", {shape({3, 4})}, {shape({3, 4}), shape({3, 1}), shape({3, 1})}) == 18);
  CHECK(cost("aten::sum", {shape({3, 4})}, {shape({1})}) == 12);
  CHECK(cost("aten::add_", {shape({3, 4})}, {shape({3, 4})}) == 12);
  CHECK(cost("somebody::elses", {shape({9})}, {shape({2})}) == 2);
  for (const char* op : {"aten::copy_", "aten::zero_", "aten::cat", "aten::embedding", "aten::index_put_"})
    CHECK(cost(op, {shape({9})}, {shape({9})}) == 0);
}

TEST_CASE("shapes of strangers never overflow") {
  Shape huge = shape({1ull << 31, 1ull << 31});
  huge.elements = ~0ull;
  for (const char* op : {"aten::mm", "aten::addmm", "aten::addbmm", "aten::gelu", "aten::sum", "aten::convolution", "aten::convolution_backward",
                         "aten::_scaled_dot_product_flash_attention", "aten::_scaled_dot_product_flash_attention_backward"})
    CHECK(cost(op, {huge, huge, huge, huge}, {huge, huge, huge}) <= kFlopsMax);
  for (const char* op : {"aten::mm", "aten::addmm", "aten::convolution", "aten::convolution_backward", "aten::_flash_attention_backward", "", "_"})
    CHECK(cost(op, {}, {}) == 0);
}

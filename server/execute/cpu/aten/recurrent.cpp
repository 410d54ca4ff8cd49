// Recurrent layers. CUDA has fused cells (LSTM, GRU) and, through cuDNN, whole layers; the CPU has neither's forward with saved state. Cells are
// written out. A layer's forward is the CPU's own; its backward runs the forward once more under autograd and differentiates it.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/autograd.h>

#include "server/execute/cpu/aten/failure.hpp"
#include "server/execute/cpu/aten/limits.hpp"
#include "server/execute/cpu/aten/random.hpp"
#include "server/execute/cpu/aten/rewrite.hpp"

namespace djinn::aten {

void RecurrentSeeds::put(const void* output, uint64_t seed) {
  if (seeds_.insert_or_assign(output, seed).second) order_.push_back(output);
  if (order_.size() > kRecurrentSeedsMax) {
    seeds_.erase(order_.front());
    order_.pop_front();
  }
}
void RecurrentSeeds::rename(const void* from, const void* to) {
  auto it = seeds_.find(from);
  if (it == seeds_.end()) return;
  uint64_t seed = it->second;
  put(to, seed);
}
uint64_t RecurrentSeeds::get(const void* output) const {
  auto it = seeds_.find(output);
  if (it == seeds_.end()) throw Unsupported("backward of an RNN with dropout whose forward this server has forgotten");
  return it->second;
}

namespace {

using at::Tensor;

// (input_gates, hidden_gates, cx, input_bias, hidden_bias) -> (hy, cy, workspace): the workspace holds the activated gates
void lstm_cell(Call& c) {
  Tensor gates = c.tensor(0) + c.tensor(1);
  if (c.optional(3).defined()) gates = gates + c.tensor(3) + c.tensor(4);
  auto g = gates.chunk(4, 1);
  Tensor in = g[0].sigmoid(), forget = g[1].sigmoid(), cell = g[2].tanh(), out = g[3].sigmoid();
  Tensor cy = forget * c.tensor(2) + in * cell;
  c.returns({out * cy.tanh(), cy, at::cat({in, forget, cell, out}, 1)});
}
// (grad_hy, grad_cy, cx, cy, workspace, has_bias) -> (gates, cx, bias)
void lstm_cell_backward(Call& c) {
  Tensor gh = c.optional(0), gc = c.optional(1), cx = c.tensor(2), tanh = c.tensor(3).tanh();
  auto w = c.tensor(4).chunk(4, 1);
  const Tensor &in = w[0], &forget = w[1], &cell = w[2], &out = w[3];
  if (!gh.defined()) gh = at::zeros_like(tanh);
  Tensor d = gh * out * (1 - tanh * tanh);
  if (gc.defined()) d = d + gc;
  Tensor gates = at::cat({d * cell * in * (1 - in), d * cx * forget * (1 - forget), d * in * (1 - cell * cell), gh * tanh * out * (1 - out)}, 1);
  c.returns({gates, d * forget, c.stack[5].toBool() ? gates.sum(0) : Tensor()});
}
// (input_gates, hidden_gates, hx, input_bias, hidden_bias) -> (hy, workspace): reset, update, new, hx, hidden part of new
void gru_cell(Call& c) {
  Tensor input = c.tensor(0), hidden = c.tensor(1), hx = c.tensor(2);
  if (c.optional(3).defined()) input = input + c.tensor(3), hidden = hidden + c.tensor(4);
  auto a = input.chunk(3, 1), h = hidden.chunk(3, 1);
  Tensor reset = (a[0] + h[0]).sigmoid(), update = (a[1] + h[1]).sigmoid(), fresh = (a[2] + reset * h[2]).tanh();
  c.returns({fresh + update * (hx - fresh), at::cat({reset, update, fresh, hx, h[2]}, 1)});
}
// (grad_hy, workspace, has_bias) -> (input_gates, hidden_gates, hx, input_bias, hidden_bias)
void gru_cell_backward(Call& c) {
  const Tensor& g = c.tensor(0);
  auto w = c.tensor(1).chunk(5, 1);
  const Tensor &reset = w[0], &update = w[1], &fresh = w[2], &hx = w[3], &hidden = w[4];
  Tensor gn = g * (1 - update) * (1 - fresh * fresh), gu = g * (hx - fresh) * update * (1 - update), gr = gn * hidden * reset * (1 - reset);
  Tensor input = at::cat({gr, gu, gn}, 1), rest = at::cat({gr, gu, gn * reset}, 1);
  bool bias = c.stack[2].toBool();
  c.returns({input, rest, g * update, bias ? input.sum(0) : Tensor(), bias ? rest.sum(0) : Tensor()});
}

enum Mode : int64_t { kRelu = 0, kTanh = 1, kLstm = 2, kGru = 3 };

// Arguments that _cudnn_rnn and its backward share, from `mode` on.
struct Layer {
  Tensor input, hx, cx;
  std::vector<Tensor> weights;
  int64_t weights_per_layer;
  int64_t mode, projection, layers;
  bool batch_first;
  double dropout;
  bool train, bidirectional;
  std::vector<int64_t> batch_sizes;
};

Layer layer_of(Call& c, size_t mode) {
  Layer l{c.tensor(0),
          c.tensor(4),
          c.optional(5),
          c.stack[1].toTensorVector(),
          c.stack[2].toInt(),
          c.stack[mode].toInt(),
          c.stack[mode + 2].toInt(),
          c.stack[mode + 3].toInt(),
          c.stack[mode + 4].toBool(),
          c.stack[mode + 5].toDouble(),
          c.stack[mode + 6].toBool(),
          c.stack[mode + 7].toBool(),
          c.stack[mode + 8].toIntVector()};
  if (l.mode < kRelu || l.mode > kGru) throw Unsupported("_cudnn_rnn: unknown mode " + std::to_string(l.mode));
  return l;
}

struct Run {
  Tensor output, hy, cy;
};

Run run(const Layer& l) {
  bool biases = l.weights_per_layer == (l.projection ? 5 : 4);
  Tensor sizes;
  if (!l.batch_sizes.empty()) sizes = at::tensor(l.batch_sizes, at::kLong);
  if (l.mode == kLstm) {
    std::vector<Tensor> state{l.hx, l.cx};
    auto [o, h, c] = sizes.defined() ? at::lstm(l.input, sizes, state, l.weights, biases, l.layers, l.dropout, l.train, l.bidirectional)
                                     : at::lstm(l.input, state, l.weights, biases, l.layers, l.dropout, l.train, l.bidirectional, l.batch_first);
    return {o, h, c};
  }
  auto plain = [&](auto packed, auto padded) -> Run {
    auto [o, h] = sizes.defined() ? packed(l.input, sizes, l.hx, l.weights, biases, l.layers, l.dropout, l.train, l.bidirectional)
                                  : padded(l.input, l.hx, l.weights, biases, l.layers, l.dropout, l.train, l.bidirectional, l.batch_first);
    return {o, h, Tensor()};
  };
#define DJINN_LAYER(name) plain([](auto&&... a) { return at::name(a...); }, [](auto&&... a) { return at::name(a...); })
  if (l.mode == kGru) return DJINN_LAYER(gru);
  return l.mode == kTanh ? DJINN_LAYER(rnn_tanh) : DJINN_LAYER(rnn_relu);
#undef DJINN_LAYER
}

bool draws(const Layer& l) { return l.train && l.dropout > 0 && l.layers > 1; }

// (input, weight, weight_stride0, weight_buf, hx, cx, mode, hidden_size, proj_size, num_layers, batch_first, dropout, train, bidirectional,
// batch_sizes,
//  dropout_state) -> (output, hy, cy, reserve, weight_buf). The seed is filed under the address that the output will have in the client's memory,
//  where the backward finds it.
void cudnn_rnn(Call& c) {
  Layer l = layer_of(c, 6);
  uint64_t seed = mix(c.generator.seed, c.generator.offset);
  if (draws(l)) seed_generator(seed, 0);
  Run r = run(l);
  Tensor none = at::empty({0}, l.input.options().dtype(at::kByte)), buffer = c.optional(3);
  if (draws(l)) c.recurrent.put(c.result_address ? c.result_address : r.output.const_data_ptr(), seed);
  c.returns({r.output, r.hy, r.cy.defined() ? r.cy : at::empty({0}, l.input.options()), none,
             buffer.defined() ? buffer : at::empty({0}, l.input.options())});
}

// (input, weight, weight_stride0, weight_buf, hx, cx, output, grad_output, grad_hy, grad_cy, mode, …, dropout_state, reserve, output_mask)
//   -> (input, hx, cx, weights)
void cudnn_rnn_backward(Call& c) {
  Layer l = layer_of(c, 10);
  if (draws(l)) seed_generator(c.recurrent.get(c.tensor(6).const_data_ptr()), 0);
  c10::InferenceMode leave(false);
  at::AutoGradMode on(true);
  auto leaf = [](const Tensor& t) { return t.defined() ? t.detach().clone().requires_grad_(true) : t; };
  l.input = leaf(l.input), l.hx = leaf(l.hx), l.cx = leaf(l.cx);
  for (auto& w : l.weights) w = leaf(w);
  l.train = true;
  Run r = run(l);
  std::vector<Tensor> outputs, gradients, inputs{l.input, l.hx};
  auto add = [&](const Tensor& result, const Tensor& gradient) {
    if (gradient.defined() && result.defined()) outputs.push_back(result), gradients.push_back(gradient.clone());
  };
  add(r.output, c.optional(7)), add(r.hy, c.optional(8)), add(r.cy, c.optional(9));
  if (l.cx.defined()) inputs.push_back(l.cx);
  inputs.insert(inputs.end(), l.weights.begin(), l.weights.end());
  auto g = torch::autograd::grad(outputs, inputs, gradients, std::nullopt, false, true);
  size_t first = l.cx.defined() ? 3 : 2;
  c10::List<Tensor> weights;
  for (size_t i = first; i < g.size(); i++) weights.push_back(g[i].defined() ? g[i] : at::zeros_like(inputs[i]));
  auto zeros = [](const Tensor& t, const Tensor& like) { return t.defined() ? t : at::zeros_like(like); };
  c.returns({zeros(g[0], l.input), zeros(g[1], l.hx), l.cx.defined() ? zeros(g[2], l.cx) : Tensor(), weights});
}

// A buffer with all weights, one after another. The CPU's layers read the weights themselves; the buffer is what the caller may look at.
void flatten_weight(Call& c) {
  std::vector<Tensor> flat;
  for (const Tensor& t : c.stack[0].toTensorVector()) flat.push_back(t.reshape(-1));
  c.returns({at::cat(flat)});
}
// The dropout state of cuDNN is opaque; ours is in RecurrentSeeds.
void init_dropout_state(Call& c) { c.returns({at::zeros({0}, at::kByte)}); }

constexpr RewriteRule kRules[] = {
    {"aten::_thnn_fused_lstm_cell", lstm_cell},
    {"aten::_thnn_fused_lstm_cell_backward_impl", lstm_cell_backward},
    {"aten::_thnn_fused_gru_cell", gru_cell},
    {"aten::_thnn_fused_gru_cell_backward", gru_cell_backward},
    {"aten::_cudnn_rnn", cudnn_rnn},
    {"aten::_cudnn_rnn_backward", cudnn_rnn_backward},
    {"aten::_cudnn_rnn_flatten_weight", flatten_weight},
    {"aten::_cudnn_init_dropout_state", init_dropout_state},
};

}  // namespace

std::span<const RewriteRule> recurrent_rules() { return kRules; }

}  // namespace djinn::aten

// Norms that cuDNN or CUDA have under names of their own, on the CPU's native ones. Precision is reduced.cpp's affair.
#include <ATen/ATen.h>

#include "server/execute/cpu/aten/rewrite.hpp"

namespace djinn::aten {

namespace {

using at::Tensor;

// (input, weight, bias, running_mean, running_var, training, momentum, eps) -> (output, save_mean, save_invstd). In evaluation the CPU's statistics
// are empty and CUDA's are not.
bool training(Call& c) { return c.stack[5].toBool(); }
double epsilon(Call& c) { return c.stack[7].toDouble(); }
auto batch_norm(Call& c) {
  return at::native_batch_norm(c.tensor(0), c.maybe(1), c.maybe(2), c.maybe(3), c.maybe(4), training(c), c.stack[6].toDouble(), epsilon(c));
}
void native_batch_norm(Call& c) {
  auto [output, mean, invstd] = batch_norm(c);
  if (!training(c)) mean = c.tensor(3).clone(), invstd = at::rsqrt(c.tensor(4) + epsilon(c));
  c.returns({output, mean, invstd});
}
// (input, weight, bias, running_mean, running_var, training, momentum, eps) -> (output, save_mean, save_var, reserve)
void cudnn_batch_norm(Call& c) {
  auto [output, mean, invstd] = batch_norm(c);
  Tensor none = at::empty({0}, output.options().dtype(at::kByte));
  if (!training(c)) mean = invstd = at::empty({0}, mean.options());
  if (c.op.returns.size() == 3) return c.returns({output, mean, invstd});  // miopen's has no reserve
  c.returns({output, mean, invstd, none});
}
// (input, grad_output, weight, running_mean, running_var, save_mean, save_var, eps, reserve) -> (input, weight, bias)
void cudnn_batch_norm_backward(Call& c) {
  auto [input, weight, bias] = at::native_batch_norm_backward(c.tensor(1), c.tensor(0), c.maybe(2), c.maybe(3), c.maybe(4), c.maybe(5), c.maybe(6),
                                                              true, c.stack[7].toDouble(), {true, true, true});
  c.returns({input, weight, bias});
}

// (grad_out, input, normalized_shape, rstd, weight, output_mask) -> (input, weight)
void rms_norm_backward(Call& c) {
  const Tensor &g = c.tensor(0), &x = c.tensor(1), &rstd = c.tensor(3);
  Tensor weight = c.optional(4);
  int64_t inner = static_cast<int64_t>(c.stack[2].toIntVector().size());
  auto mask = c.stack[5].toBoolList();
  std::vector<int64_t> normalized, batch;
  for (int64_t i = 0; i < x.dim(); i++) (i < x.dim() - inner ? batch : normalized).push_back(i);
  Tensor scaled = x * rstd, gw = weight.defined() ? g * weight : g, dx, dw;
  if (mask.get(0)) dx = rstd * (gw - scaled * (gw * scaled).mean(normalized, true));
  if (mask.get(1) && weight.defined()) dw = batch.empty() ? g * scaled : (g * scaled).sum(batch);
  c.returns({dx, dw});
}

// What SyncBatchNorm is made of. Channels are dimension 1; statistics are float32 (double for double).
std::vector<int64_t> but_channels(const Tensor& t) {
  std::vector<int64_t> dims{0};
  for (int64_t i = 2; i < t.dim(); i++) dims.push_back(i);
  return dims;
}
Tensor per_channel(const Tensor& t, const Tensor& like) {
  std::vector<int64_t> shape(like.dim(), 1);
  shape[1] = -1;
  return t.reshape(shape);
}
Tensor wide(const Tensor& t) { return t.scalar_type() == at::kDouble ? t : t.to(at::kFloat); }

// (input, eps) -> (mean, invstd)
void batch_norm_stats(Call& c) {
  Tensor x = wide(c.tensor(0));
  auto [variance, mean] = at::var_mean(x, but_channels(x), false);
  c.returns({mean, at::rsqrt(variance + c.stack[1].toDouble())});
}
Tensor normalize(Call& c) {
  const Tensor& x = c.tensor(0);
  Tensor y = (wide(x) - per_channel(wide(c.tensor(3)), x)) * per_channel(wide(c.tensor(4)), x);
  if (auto w = c.optional(1); w.defined()) y = y * per_channel(wide(w), x);
  if (auto b = c.optional(2); b.defined()) y = y + per_channel(wide(b), x);
  return y.to(x.scalar_type());
}
// (input, weight, bias, mean, invstd, eps)
void batch_norm_elemt(Call& c) { c.returns({normalize(c)}); }
void batch_norm_elemt_out(Call& c) {
  Tensor out = c.tensor(6), y = normalize(c);
  c.returns({out.resize_(y.sizes()).copy_(y)});
}
// (input, mean, invstd, running_mean, running_var, momentum, eps, counts) -> (mean, invstd); one row of mean and invstd per process
void gather(Call& c, const Tensor& counts) {
  Tensor mean = wide(c.tensor(1)), invstd = wide(c.tensor(2)), n = counts.to(mean.scalar_type()).reshape({-1, 1});
  double momentum = c.stack[5].toDouble(), eps = c.stack[6].toDouble();
  Tensor total = n.sum(), all = (mean * n).sum(0) / total;
  Tensor variance = ((at::reciprocal(invstd * invstd) - eps + (mean - all).square()) * n).sum(0) / total;
  if (auto running = c.optional(3); running.defined()) running.mul_(1 - momentum).add_(all.to(running.scalar_type()), momentum);
  if (auto running = c.optional(4); running.defined())
    running.mul_(1 - momentum).add_((variance * total / (total - 1)).to(running.scalar_type()), momentum);
  c.returns({all, at::rsqrt(variance + eps)});
}
void batch_norm_gather_stats(Call& c) { gather(c, at::full({c.tensor(1).size(0)}, c.stack[7].toInt(), at::kLong)); }
void batch_norm_gather_stats_with_counts(Call& c) { gather(c, c.tensor(7)); }
// (grad_out, input, mean, invstd, weight, input_g, weight_g, bias_g) -> (sum_dy, sum_dy_xmu, weight, bias)
void batch_norm_backward_reduce(Call& c) {
  Tensor g = wide(c.tensor(0)), x = wide(c.tensor(1)), mean = wide(c.tensor(2)), invstd = wide(c.tensor(3)), weight = c.optional(4);
  auto dims = but_channels(x);
  Tensor sum = g.sum(dims), moment = (g * (x - per_channel(mean, x))).sum(dims), dw, db;
  if (c.stack[6].toBool() && weight.defined()) dw = (moment * invstd).to(weight.scalar_type());
  if (c.stack[7].toBool() && weight.defined()) db = sum.to(weight.scalar_type());
  if (!c.stack[5].toBool()) return c.returns({Tensor(), Tensor(), dw, db});
  c.returns({sum, moment, dw, db});
}
// (grad_out, input, mean, invstd, weight, sum_dy, sum_dy_xmu, count) -> input
void batch_norm_backward_elemt(Call& c) {
  Tensor g = wide(c.tensor(0)), x = wide(c.tensor(1)), mean = wide(c.tensor(2)), invstd = wide(c.tensor(3)), weight = c.optional(4);
  Tensor total = c.tensor(7).sum().to(g.scalar_type()), sum = wide(c.tensor(5)) / total, moment = wide(c.tensor(6)) / total;
  Tensor factor = weight.defined() ? invstd * wide(weight) : invstd;
  Tensor dx = (g - per_channel(sum, x) - (x - per_channel(mean, x)) * per_channel(invstd * invstd * moment, x)) * per_channel(factor, x);
  c.returns({dx.to(c.tensor(1).scalar_type())});
}

constexpr RewriteRule kRules[] = {
    {"aten::native_batch_norm", native_batch_norm},
    {"aten::_native_batch_norm_legit", native_batch_norm},
    {"aten::cudnn_batch_norm", cudnn_batch_norm},
    {"aten::cudnn_batch_norm_backward", cudnn_batch_norm_backward},
    {"aten::_fused_rms_norm_backward", rms_norm_backward},
    {"aten::batch_norm_stats", batch_norm_stats},
    {"aten::batch_norm_elemt", batch_norm_elemt},
    {"aten::batch_norm_elemt.out", batch_norm_elemt_out},
    {"aten::batch_norm_gather_stats", batch_norm_gather_stats},
    {"aten::batch_norm_gather_stats_with_counts", batch_norm_gather_stats_with_counts},
    {"aten::batch_norm_backward_reduce", batch_norm_backward_reduce},
    {"aten::batch_norm_backward_elemt", batch_norm_backward_elemt},
};

}  // namespace

std::span<const RewriteRule> norm_rules() { return kRules; }

}  // namespace djinn::aten

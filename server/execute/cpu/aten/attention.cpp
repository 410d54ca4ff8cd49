// The fused attentions of CUDA on the CPU's flash attention. CUDA has three kernels with three signatures; here they become one Attention, computed
// by _scaled_dot_product_flash_attention_for_cpu where that can, and by plain matrix products where it cannot (dropout, gradient of the bias).
#include <ATen/ATen.h>
#include <ATen/ExpandUtils.h>

#include <algorithm>

#include "server/execute/cpu/aten/failure.hpp"
#include "server/execute/cpu/aten/random.hpp"
#include "server/execute/cpu/aten/rewrite.hpp"

namespace djinn::aten {

namespace {

using at::Tensor;

struct Attention {
  Tensor query, key, value;  // [batch, heads, length, width]
  Tensor bias;               // undefined or broadcastable to [batch, heads, query length, key length]
  double dropout = 0;
  bool causal = false;
  std::optional<double> scale;
  uint64_t seed = 0, offset = 0;

  double factor() const { return scale ? *scale : 1.0 / std::sqrt(static_cast<double>(query.size(3))); }
  int64_t groups() const { return query.size(1) / key.size(1); }
};
struct Forward {
  Tensor output, lse;  // lse: [batch, heads, query length], float32
};
struct Gradients {
  Tensor query, key, value, bias;
};

// Grouped queries: each key head serves several query heads.
Tensor expand_heads(const Tensor& t, int64_t groups) { return groups == 1 ? t : t.repeat_interleave(groups, 1); }
Tensor sum_heads(const Tensor& t, int64_t groups) {
  if (groups == 1) return t;
  return t.reshape({t.size(0), t.size(1) / groups, groups, t.size(2), t.size(3)}).sum(2);
}
// The CPU's kernel reads rows with stride 1.
Tensor rows(const Tensor& t) { return t.stride(-1) == 1 ? t : t.contiguous(); }

bool flash_can(const Attention& a, bool bias_gradient) {
  return a.dropout == 0 && !bias_gradient && a.query.numel() && a.key.numel() && a.query.size(3) == a.value.size(3) &&
         !(a.bias.defined() && a.causal);
}
std::optional<Tensor> mask_for_cpu(const Attention& a) {
  if (!a.bias.defined()) return std::nullopt;
  Tensor m = a.bias.dim() == 3 ? a.bias.unsqueeze(0) : a.bias;
  return m.expand({m.dim() == 4 ? m.size(0) : 1, m.dim() == 4 ? m.size(1) : 1, a.query.size(2), a.key.size(2)});
}

Tensor scores(const Attention& a, const Tensor& q, const Tensor& k) {
  Tensor s = at::matmul(q, k.transpose(-2, -1)).mul_(a.factor());
  if (a.bias.defined()) s = s + a.bias;
  if (a.causal) {
    Tensor later = at::ones({s.size(-2), s.size(-1)}, s.options().dtype(at::kBool)).triu_(1);
    s.masked_fill_(later, -std::numeric_limits<double>::infinity());
  }
  return s;
}
// Rows that are masked as a whole attend to nothing. By softmax, not by exp(s - lse), whose error grows with the scores.
Tensor probabilities(const Tensor& s) { return at::softmax(s, -1).nan_to_num_(0.0); }
at::ScalarType wide(const Tensor& t) { return t.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }
// The mask that forward and backward draw alike, scaled by 1 / (1 - dropout).
Tensor dropout_mask(const Attention& a, const Tensor& like) {
  seed_generator(a.seed, a.offset);
  return at::empty_like(like).bernoulli_(1 - a.dropout).div_(a.dropout < 1 ? 1 - a.dropout : 1.0);
}

Forward forward_plain(const Attention& a) {
  auto type = wide(a.query);
  Tensor s = scores(a, a.query.to(type), expand_heads(a.key, a.groups()).to(type));
  Tensor lse = s.logsumexp(-1), p = probabilities(s);
  if (a.dropout > 0) p = p * dropout_mask(a, p);
  return {at::matmul(p, expand_heads(a.value, a.groups()).to(type)).to(a.query.scalar_type()), lse.to(at::kFloat)};
}

Forward forward(const Attention& a) {
  if (!flash_can(a, false)) return forward_plain(a);
  auto [output, lse] = at::_scaled_dot_product_flash_attention_for_cpu(
      rows(a.query), rows(expand_heads(a.key, a.groups())), rows(expand_heads(a.value, a.groups())), 0.0, a.causal, mask_for_cpu(a), a.scale);
  return {output, lse};
}

Gradients backward_plain(const Attention& a, const Tensor& gradient) {
  auto type = wide(a.query);
  Tensor q = a.query.to(type), k = expand_heads(a.key, a.groups()).to(type), v = expand_heads(a.value, a.groups()).to(type), g = gradient.to(type);
  Tensor s = scores(a, q, k);
  Tensor p = probabilities(s);
  Tensor dp = at::matmul(g, v.transpose(-2, -1)), dropped = p;
  if (a.dropout > 0) {
    Tensor mask = dropout_mask(a, p);
    dropped = p * mask;
    dp = dp * mask;
  }
  Tensor dv = at::matmul(dropped.transpose(-2, -1), g);
  Tensor ds = p * (dp - (dp * p).sum(-1, true));
  Tensor dq = at::matmul(ds, k) * a.factor(), dk = at::matmul(ds.transpose(-2, -1), q) * a.factor();
  auto back = [&](const Tensor& t) { return t.to(a.query.scalar_type()); };
  Tensor bias = a.bias.defined() ? at::sum_to(ds, a.bias.sizes()).to(a.bias.scalar_type()) : Tensor();
  return {back(dq), back(sum_heads(dk, a.groups())), back(sum_heads(dv, a.groups())), bias};
}

Gradients backward(const Attention& a, const Tensor& gradient, const Tensor& output, const Tensor& lse, bool bias_gradient) {
  if (!flash_can(a, bias_gradient)) return backward_plain(a, gradient);
  auto [q, k, v] = at::_scaled_dot_product_flash_attention_for_cpu_backward(rows(gradient), rows(a.query), rows(expand_heads(a.key, a.groups())),
                                                                            rows(expand_heads(a.value, a.groups())), rows(output), lse, 0.0, a.causal,
                                                                            mask_for_cpu(a), a.scale);
  return {q, sum_heads(k, a.groups()), sum_heads(v, a.groups()), Tensor()};
}

// The seed and offset as CUDA hands them from forward to backward: 64-bit, the dtype is the kernel's affair.
Tensor word_tensor(uint64_t v, at::ScalarType dtype = at::kLong) {
  Tensor t = at::empty({}, at::TensorOptions().dtype(dtype));
  std::memcpy(t.data_ptr(), &v, sizeof v);
  return t;
}
Tensor pair_tensor(uint64_t a, uint64_t b) {
  Tensor t = at::empty({2}, at::TensorOptions().dtype(at::kUInt64));
  auto* p = static_cast<uint64_t*>(t.data_ptr());
  p[0] = a, p[1] = b;
  return t;
}
uint64_t word_of(const Tensor& t, int64_t index = 0) {
  if (!t.defined() || t.numel() <= index || t.element_size() != 8) throw Unsupported("attention with dropout: the backward lacks the forward's seed");
  return static_cast<const uint64_t*>(t.const_data_ptr())[index];
}

// efficient attention pads lse's rows to a multiple of 32.
constexpr int64_t kLsePadding = 32;
Tensor padded(const Tensor& lse, bool wanted) {
  if (!wanted) return at::empty({lse.size(0), lse.size(1), 0}, lse.options());
  int64_t rows = (lse.size(2) + kLsePadding - 1) / kLsePadding * kLsePadding;
  if (rows == lse.size(2)) return lse;
  Tensor t = at::full({lse.size(0), lse.size(1), rows}, std::numeric_limits<double>::infinity(), lse.options());
  t.narrow(2, 0, lse.size(2)).copy_(lse);
  return t;
}
Tensor unpadded(const Tensor& lse, int64_t rows) { return lse.size(-1) == rows ? lse : lse.narrow(-1, 0, rows); }

// Sequences of different lengths: a nested tensor [sequences, heads, length, width], or one behind the other in a batch of one, with the bounds
// between them. Each is an attention by itself.
class Sequences {
 public:
  // None: a batch of sequences of one length.
  static std::optional<Sequences> of(const Attention& all, const Tensor& query_bounds = {}, const Tensor& key_bounds = {}) {
    bool nested = all.query.is_nested(), bounded = query_bounds.defined() && query_bounds.numel();
    if (!nested && !bounded) return std::nullopt;
    if (all.bias.defined()) throw Unsupported("attention of sequences of different lengths with a bias");
    Sequences s;
    if (!nested) {
      TORCH_CHECK(all.query.size(0) == 1 && all.key.size(0) == 1 && key_bounds.defined(), "attention: bounds of sequences do not fit");
      s.query_ = bounds(query_bounds, all.query.size(2)), s.key_ = bounds(key_bounds, all.key.size(2));
    }
    auto q = s.queries(all.query), k = s.keys(all.key), v = s.keys(all.value);
    TORCH_CHECK(q.size() == k.size() && k.size() == v.size(), "attention: queries, keys and values of different numbers of sequences");
    for (size_t i = 0; i < q.size(); i++) {
      Attention a = all;
      a.query = q[i], a.key = k[i], a.value = v[i], a.offset += i;  // each draws a mask of its own
      s.longest_query_ = std::max(s.longest_query_, a.query.size(2)), s.longest_key_ = std::max(s.longest_key_, a.key.size(2));
      s.each_.push_back(std::move(a));
    }
    return s;
  }
  int64_t longest_query() const { return longest_query_; }
  int64_t longest_key() const { return longest_key_; }

  // lse: of each [1, heads, length]
  struct Results {
    Tensor output;
    std::vector<Tensor> lse;
  };
  Results forward(const Tensor& query) const {
    Results r;
    std::vector<Tensor> outputs;
    for (const Attention& a : each_) {
      Forward f = aten::forward(a);
      outputs.push_back(f.output), r.lse.push_back(f.lse);
    }
    r.output = join(outputs, query_, query);
    return r;
  }
  Gradients backward(const Attention& all, const Tensor& gradient, const Tensor& output, const std::vector<Tensor>& lse) const {
    auto g = queries(gradient), o = queries(output);
    TORCH_CHECK(g.size() == each_.size() && o.size() == each_.size() && lse.size() == each_.size(), "attention: another number of sequences");
    std::vector<Tensor> q, k, v;
    for (size_t i = 0; i < each_.size(); i++) {
      Gradients one = aten::backward(each_[i], g[i], o[i], lse[i], false);
      q.push_back(one.query), k.push_back(one.key), v.push_back(one.value);
    }
    return {join(q, query_, all.query), join(k, key_, all.key), join(v, key_, all.value), {}};
  }
  // CUDA's flash attention has lse as [heads, length of all], the efficient one as [sequences, heads, length of the longest].
  static Tensor behind_one_another(const std::vector<Tensor>& lse) { return at::cat(lse, 2).squeeze(0); }
  std::vector<Tensor> from_one_another(const Tensor& lse) const {
    std::vector<Tensor> parts;
    int64_t begin = 0;
    for (const Attention& a : each_) {
      parts.push_back(lse.narrow(1, begin, a.query.size(2)).unsqueeze(0));
      begin += a.query.size(2);
    }
    return parts;
  }
  Tensor below_one_another(std::vector<Tensor> lse) const {
    for (Tensor& t : lse) t = at::constant_pad_nd(t, {0, longest_query_ - t.size(2)}, std::numeric_limits<double>::infinity());
    return at::cat(lse);
  }
  std::vector<Tensor> from_below(const Tensor& lse) const {
    std::vector<Tensor> parts;
    for (size_t i = 0; i < each_.size(); i++) parts.push_back(lse.narrow(0, static_cast<int64_t>(i), 1).narrow(2, 0, each_[i].query.size(2)));
    return parts;
  }
  Tensor query_bounds() const {
    std::vector<int64_t> b{0};
    for (const Attention& a : each_) b.push_back(b.back() + a.query.size(2));
    return at::tensor(b, at::kInt);
  }
  Tensor key_bounds() const {
    std::vector<int64_t> b{0};
    for (const Attention& a : each_) b.push_back(b.back() + a.key.size(2));
    return at::tensor(b, at::kInt);
  }

 private:
  static std::vector<int64_t> bounds(const Tensor& t, int64_t length) {
    Tensor host = t.to(at::kLong).contiguous();
    std::vector<int64_t> b(host.const_data_ptr<int64_t>(), host.const_data_ptr<int64_t>() + host.numel());
    TORCH_CHECK(host.dim() == 1 && b.size() >= 2 && b.front() == 0 && b.back() == length && std::is_sorted(b.begin(), b.end()),
                "attention: bounds that do not divide their tensor");
    return b;
  }
  static std::vector<Tensor> split(const Tensor& t, const std::vector<int64_t>& bounds) {
    std::vector<Tensor> parts;
    if (bounds.empty())
      for (const Tensor& part : t.unbind()) parts.push_back(part.unsqueeze(0));
    for (size_t i = 0; i + 1 < bounds.size(); i++) parts.push_back(t.slice(2, bounds[i], bounds[i + 1]));
    return parts;
  }
  std::vector<Tensor> queries(const Tensor& t) const { return split(t, query_); }
  std::vector<Tensor> keys(const Tensor& t) const { return split(t, key_); }
  static Tensor join(std::vector<Tensor> parts, const std::vector<int64_t>& bounds, const Tensor& like) {
    if (!bounds.empty()) return at::cat(parts, 2);
    for (Tensor& t : parts) t = t.squeeze(0);
    return at::_nested_tensor_from_tensor_list(parts, like.scalar_type());
  }

  std::vector<int64_t> query_, key_;  // empty: nested
  std::vector<Attention> each_;
  int64_t longest_query_ = 0, longest_key_ = 0;
};

// (query, key, value, dropout_p, is_causal, return_debug_mask, *, scale)
//   -> (output, logsumexp, cum_seq_q, cum_seq_k, max_q, max_k, rng_state, unused, debug_attn_mask)
void flash_forward(Call& c) {
  Attention a{c.tensor(0), c.tensor(1), c.tensor(2), {}, c.stack[3].toDouble(), c.stack[4].toBool(), c.real(6), c.generator.seed, c.generator.offset};
  if (auto s = Sequences::of(a)) {
    auto r = s->forward(a.query);
    return c.returns({r.output, Sequences::behind_one_another(r.lse), s->query_bounds(), s->key_bounds(), s->longest_query(), s->longest_key(),
                      pair_tensor(a.seed, a.offset), word_tensor(0, at::kUInt64), at::empty({0})});
  }
  auto f = forward(a);
  c.returns({f.output, f.lse, Tensor(), Tensor(), a.query.size(2), a.key.size(2), pair_tensor(a.seed, a.offset), word_tensor(0, at::kUInt64),
             at::empty({0})});
}
// (grad_out, query, key, value, out, logsumexp, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p, is_causal, philox_seed, philox_offset, *, scale)
void flash_backward(Call& c) {
  Attention a{c.tensor(1), c.tensor(2), c.tensor(3), {}, c.stack[10].toDouble(), c.stack[11].toBool(), c.real(14)};
  if (a.dropout > 0) a.seed = word_of(c.tensor(12)), a.offset = word_of(c.tensor(12), 1);
  auto s = Sequences::of(a);
  auto g = s ? s->backward(a, c.tensor(0), c.tensor(4), s->from_one_another(c.tensor(5))) : backward(a, c.tensor(0), c.tensor(4), c.tensor(5), false);
  c.returns({g.query, g.key, g.value});
}

// (query, key, value, attn_bias, compute_log_sumexp, dropout_p, is_causal, *, scale) -> (output, log_sumexp, philox_seed, philox_offset)
void efficient_forward(Call& c) {
  Attention a{c.tensor(0),         c.tensor(1), c.tensor(2),      c.optional(3),     c.stack[5].toDouble(),
              c.stack[6].toBool(), c.real(7),   c.generator.seed, c.generator.offset};
  if (auto s = Sequences::of(a)) {
    auto r = s->forward(a.query);
    return c.returns({r.output, padded(s->below_one_another(r.lse), c.stack[4].toBool()), word_tensor(a.seed), word_tensor(a.offset)});
  }
  auto f = forward(a);
  c.returns({f.output, padded(f.lse, c.stack[4].toBool()), word_tensor(a.seed), word_tensor(a.offset)});
}
// (grad_out_, query, key, value, attn_bias, out, logsumexp, philox_seed, philox_offset, dropout_p, grad_input_mask, is_causal, *, scale)
void efficient_backward(Call& c) {
  Attention a{c.tensor(1), c.tensor(2), c.tensor(3), c.optional(4), c.stack[9].toDouble(), c.stack[11].toBool(), c.real(12)};
  if (a.dropout > 0) a.seed = word_of(c.tensor(7)), a.offset = word_of(c.tensor(8));
  bool bias_gradient = c.stack[10].toBoolList().get(3) && a.bias.defined();
  auto g = backward(a, c.tensor(0), c.tensor(5), unpadded(c.tensor(6), a.query.size(2)), bias_gradient);
  c.returns({g.query, g.key, g.value, g.bias});
}

// (query, key, value, attn_bias, compute_log_sumexp, dropout_p, is_causal, return_debug_mask, *, scale)
//   -> (output, logsumexp, cum_seq_q, cum_seq_k, max_q, max_k, philox_seed, philox_offset, debug_attn_mask); cuDNN's lse has a last dimension of 1
void cudnn_forward(Call& c) {
  Attention a{c.tensor(0),         c.tensor(1), c.tensor(2),      c.optional(3),     c.stack[5].toDouble(),
              c.stack[6].toBool(), c.real(8),   c.generator.seed, c.generator.offset};
  auto f = forward(a);
  c.returns({f.output, c.stack[4].toBool() ? f.lse.unsqueeze(-1) : Tensor(), Tensor(), Tensor(), a.query.size(2), a.key.size(2), word_tensor(a.seed),
             word_tensor(a.offset), Tensor()});
}
// (grad_out, query, key, value, out, logsumexp, philox_seed, philox_offset, attn_bias, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p, is_causal, *,
// scale)
void cudnn_backward(Call& c) {
  Attention a{c.tensor(1), c.tensor(2), c.tensor(3), c.optional(8), c.stack[13].toDouble(), c.stack[14].toBool(), c.real(15)};
  if (a.dropout > 0) a.seed = word_of(c.tensor(6)), a.offset = word_of(c.tensor(7));
  Tensor lse = c.tensor(5).dim() == 4 ? c.tensor(5).squeeze(-1) : c.tensor(5);
  auto g = backward(a, c.tensor(0), c.tensor(4), lse, false);
  c.returns({g.query, g.key, g.value});
}

// The inner ops, called by nested tensors and by some libraries: [batch, length, heads, width], or sequences behind one another.
void refuse_given(Call& c, std::initializer_list<size_t> arguments) {
  for (size_t i : arguments)
    if (!c.stack[i].isNone() && !(c.stack[i].isTensor() && !c.stack[i].toTensor().defined()))
      throw Unsupported(c.op.base + ": " + c.op.handle.schema().arguments()[i].name() + " is not supported on the CPU device");
}
Tensor heads_first(const Tensor& t) { return (t.dim() == 3 ? t.unsqueeze(0) : t).transpose(1, 2); }
Tensor heads_last(const Tensor& t) { return t.defined() ? t.transpose(1, 2) : t; }
Tensor heads_last(const Tensor& t, const Tensor& like) { return like.dim() == 3 ? heads_last(t).squeeze(0) : heads_last(t); }

// (query, key, value, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p, is_causal, return_debug_mask, *, scale, window_size_left, window_size_right,
//  seqused_k, alibi_slopes, block_table, num_splits) -> (output, softmax_logsumexp, rng_state, unused, debug_attn_mask)
void inner_flash_forward(Call& c) {
  refuse_given(c, {11, 12, 13, 14, 15});
  Attention a{
      heads_first(c.tensor(0)), heads_first(c.tensor(1)), heads_first(c.tensor(2)), {}, c.stack[7].toDouble(), c.stack[8].toBool(), c.real(10),
      c.generator.seed,         c.generator.offset};
  if (auto s = Sequences::of(a, c.optional(3), c.optional(4))) {
    auto r = s->forward(a.query);
    return c.returns({heads_last(r.output, c.tensor(0)), Sequences::behind_one_another(r.lse), pair_tensor(a.seed, a.offset),
                      word_tensor(0, at::kUInt64), at::empty({0}, a.query.options())});
  }
  auto f = forward(a);
  c.returns({heads_last(f.output), f.lse, pair_tensor(a.seed, a.offset), word_tensor(0, at::kUInt64), at::empty({0})});
}
// (grad_out, query, key, value, out, logsumexp, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p, is_causal, rng_state, unused, *, scale, windows)
void inner_flash_backward(Call& c) {
  refuse_given(c, {15, 16});
  Attention a{
      heads_first(c.tensor(1)), heads_first(c.tensor(2)), heads_first(c.tensor(3)), {}, c.stack[10].toDouble(), c.stack[11].toBool(), c.real(14)};
  if (a.dropout > 0) a.seed = word_of(c.tensor(12)), a.offset = word_of(c.tensor(12), 1);
  Tensor gradient = heads_first(c.tensor(0)), output = heads_first(c.tensor(4));
  if (auto s = Sequences::of(a, c.optional(6), c.optional(7))) {
    auto g = s->backward(a, gradient, output, s->from_one_another(c.tensor(5)));
    return c.returns({heads_last(g.query, c.tensor(1)), heads_last(g.key, c.tensor(1)), heads_last(g.value, c.tensor(1))});
  }
  auto g = backward(a, gradient, output, c.tensor(5), false);
  c.returns({heads_last(g.query), heads_last(g.key), heads_last(g.value)});
}

enum MaskType : int64_t { kNoMask = 0, kCausalTopLeft = 1 };
bool causal_of(Call& c, int64_t type) {
  if (type != kNoMask && type != kCausalTopLeft) throw Unsupported(c.op.base + ": a lower-right causal mask is not supported on the CPU device");
  return type == kCausalTopLeft;
}
// (query, key, value, bias, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p, custom_mask_type, compute_log_sumexp, *, scale,
//  seqlen_k, window_size) -> (output, logsumexp, philox_seed, philox_offset, max_seqlen_batch_q, max_seqlen_batch_k)
void inner_efficient_forward(Call& c) {
  refuse_given(c, {12, 13});
  Attention a{heads_first(c.tensor(0)),
              heads_first(c.tensor(1)),
              heads_first(c.tensor(2)),
              c.optional(3),
              c.stack[8].toDouble(),
              causal_of(c, c.stack[9].toInt()),
              c.real(11),
              c.generator.seed,
              c.generator.offset};
  if (auto s = Sequences::of(a, c.optional(4), c.optional(5))) {
    auto r = s->forward(a.query);
    return c.returns({heads_last(r.output), padded(s->below_one_another(r.lse), c.stack[10].toBool()), word_tensor(a.seed), word_tensor(a.offset),
                      s->longest_query(), s->longest_key()});
  }
  auto f = forward(a);
  c.returns({heads_last(f.output), padded(f.lse, c.stack[10].toBool()), word_tensor(a.seed), word_tensor(a.offset), a.query.size(2), a.key.size(2)});
}
// (grad_out_, query, key, value, bias, out, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, logsumexp, dropout_p, philox_seed, philox_offset,
//  custom_mask_type, bias_requires_grad, *, scale, num_splits_key, window_size, shared_storage_dqdkdv)
void inner_efficient_backward(Call& c) {
  refuse_given(c, {18});
  Attention a{heads_first(c.tensor(1)),
              heads_first(c.tensor(2)),
              heads_first(c.tensor(3)),
              c.optional(4),
              c.stack[11].toDouble(),
              causal_of(c, c.stack[14].toInt()),
              c.real(16)};
  if (a.dropout > 0) a.seed = word_of(c.tensor(12)), a.offset = word_of(c.tensor(13));
  if (auto s = Sequences::of(a, c.optional(6), c.optional(7))) {
    auto g = s->backward(a, heads_first(c.tensor(0)), heads_first(c.tensor(5)), s->from_below(c.tensor(10)));
    return c.returns({heads_last(g.query), heads_last(g.key), heads_last(g.value), Tensor()});
  }
  auto g = backward(a, heads_first(c.tensor(0)), heads_first(c.tensor(5)), unpadded(c.tensor(10), a.query.size(2)), c.stack[15].toBool());
  c.returns({heads_last(g.query), heads_last(g.key), heads_last(g.value), g.bias});
}

constexpr RewriteRule kRules[] = {
    {"aten::_scaled_dot_product_flash_attention", flash_forward},
    {"aten::_scaled_dot_product_flash_attention_backward", flash_backward},
    {"aten::_scaled_dot_product_efficient_attention", efficient_forward},
    {"aten::_scaled_dot_product_efficient_attention_backward", efficient_backward},
    {"aten::_scaled_dot_product_cudnn_attention", cudnn_forward},
    {"aten::_scaled_dot_product_cudnn_attention_backward", cudnn_backward},
    {"aten::_flash_attention_forward", inner_flash_forward},
    {"aten::_flash_attention_backward", inner_flash_backward},
    {"aten::_efficient_attention_forward", inner_efficient_forward},
    {"aten::_efficient_attention_backward", inner_efficient_backward},
};

}  // namespace

std::span<const RewriteRule> attention_rules() { return kRules; }

}  // namespace djinn::aten

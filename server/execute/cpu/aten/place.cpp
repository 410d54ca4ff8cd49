#include "server/execute/cpu/aten/place.hpp"

#include <ATen/ATen.h>

#include <cstring>

namespace djinn::aten {

uint64_t span_bytes(const at::Tensor& t) {
  if (!t.numel()) return 0;
  int64_t last = 0;
  for (int64_t i = 0; i < t.dim(); i++) last += (t.size(i) - 1) * t.stride(i);
  return (static_cast<uint64_t>(last) + 1) * t.element_size();
}

void copy_span(void* to, const at::Tensor& source) {
  if (uint64_t bytes = span_bytes(source)) std::memcpy(to, source.const_data_ptr(), bytes);
}

namespace {

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.is_conj() == b.is_conj() && a.is_neg() == b.is_neg();
}

// Strides of 0 stand for one element: writing it once is enough, and copy_ refuses to write it more often.
at::Tensor without_expansion(at::Tensor t, const at::Tensor& like) {
  for (int64_t i = 0; i < like.dim(); i++)
    if (like.stride(i) == 0 && like.size(i) > 1) t = t.narrow(i, 0, 1);
  return t;
}

}  // namespace

bool in_place(const Interned& target, const at::Tensor& source) {
  const at::Tensor& t = target.tensor;
  return source.const_data_ptr() == t.const_data_ptr() && same_bits(source, t) && source.sizes() == t.sizes() &&
         (source.strides() == t.strides() || (target.numel == 1));
}

void place(const Interned& target, const at::Tensor& source, const char* op) {
  const at::Tensor& t = target.tensor;
  if (target.numel == 0 || (target.flags & wire::op::kZeroTensor)) {
    return;  // the client wants nothing of it
  }
  TORCH_CHECK(source.sizes() == t.sizes(), op, ": the client allocated ", t.sizes(), ", the server computed ", source.sizes());
  if (in_place(target, source)) return;
  if (same_bits(source, t) && source.strides() == t.strides() && target.dense()) return copy_span(t.mutable_data_ptr(), source);
  auto to = without_expansion(t, t), from = without_expansion(source, t);
  to.copy_(from);
}

}  // namespace djinn::aten

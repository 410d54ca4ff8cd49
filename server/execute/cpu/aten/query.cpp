// Server-first ops (R2): the op runs, its shapes go back, its results wait in a stash until the client has allocated and takes them.
#include <ATen/ATen.h>
#include <ATen/NestedTensorImpl.h>
#include <ATen/SparseCsrTensorUtils.h>
#include <ATen/native/SparseTensorUtils.h>
#include <ATen/quantized/QTensorImpl.h>

#include <algorithm>

#include "server/execute/cpu/aten/executor.hpp"
#include "server/execute/cpu/aten/place.hpp"

namespace djinn::aten {

using namespace wire::op;

namespace {

uint8_t flags_of(const at::Tensor& t) {
  return (t.unsafeGetTensorImpl()->is_wrapped_number() ? kWrappedNumber : 0) | (t.is_conj() ? kConjugate : 0) | (t.is_neg() ? kNegative : 0) |
         (c10::isQIntType(t.scalar_type()) ? kQuantized : 0);
}
uint16_t dtype_word(const at::Tensor& t) { return static_cast<uint16_t>(static_cast<uint8_t>(t.scalar_type()) | flags_of(t) << 8); }

}  // namespace

void Executor::put_tensor(const at::Tensor& t, Stash& stash) {
  wire::Writer out(reply_);
  if (!t.defined()) return out.put(word(Tag::undefined));
  if (t.is_nested()) {
    auto* n = at::native::get_nested_tensor_impl(t);
    out.put(word(Tag::nested_tensor, 0, dtype_word(t)));
    put_tensor(n->get_unsafe_storage_as_tensor(), stash);
    put_host(n->get_nested_sizes()), put_host(n->get_nested_strides()), put_host(n->get_storage_offsets());
    return;
  }
  auto shape = [&] {
    for (int64_t s : t.sizes()) out.put(s);
  };
  if (t.is_sparse()) {
    out.put(word(Tag::sparse_tensor, t.is_coalesced(), dtype_word(t), static_cast<uint32_t>(t.dim())));
    shape();
    put_tensor(t._indices(), stash), put_tensor(t._values(), stash);
    return;
  }
  if (at::sparse_csr::is_sparse_compressed(t)) {
    auto* c = at::sparse_csr::get_sparse_csr_impl(t);
    out.put(word(Tag::compressed_tensor, static_cast<uint8_t>(t.layout()), dtype_word(t), static_cast<uint32_t>(t.dim())));
    shape();
    put_tensor(c->compressed_indices(), stash), put_tensor(c->plain_indices(), stash), put_tensor(c->values(), stash);
    return;
  }
  if (t.layout() != at::kStrided) throw Unsupported("a result of an opaque layout");
  bool quantizer = t.is_quantized();
  bool channels = quantizer && t.qscheme() != at::kPerTensorAffine;
  if (quantizer) out.put(word(Tag::quantized_tensor, channels, dtype_word(t)));
  out.put(word(Tag::tensor, static_cast<uint8_t>(t.dim()), dtype_word(t), static_cast<uint32_t>(stash.tensors.size())));
  shape();
  for (int64_t s : t.strides()) out.put(s);
  stash.bytes += span_bytes(t);
  if (stash_bytes_ + stash.bytes > kStashBytesMax) throw std::bad_alloc();
  // What lives in the session's memory may change before it is taken.
  auto address = t.has_storage() ? reinterpret_cast<uint64_t>(t.const_data_ptr()) : 0;
  bool arena = address >= host_.range_address && address < host_.range_address + host_.range_size;
  at::Tensor kept = t;
  if (arena) {
    kept = at::empty({static_cast<int64_t>(span_bytes(t))}, at::kByte);
    copy_span(kept.mutable_data_ptr(), t);
  }
  stash.tensors.push_back(kept);
  if (!quantizer) return;
  if (!channels) {
    out.put(word(Tag::real)), out.put(t.q_scale());
    out.put(word(Tag::integer)), out.put<int64_t>(t.q_zero_point());
    return;
  }
  put_tensor(t.q_per_channel_scales(), stash), put_tensor(t.q_per_channel_zero_points(), stash);
  out.put(word(Tag::integer)), out.put<int64_t>(t.q_per_channel_axis());
}

void Executor::put_host(const at::Tensor& tensor) {
  wire::Writer out(reply_);
  at::Tensor t = tensor.contiguous();
  out.put(word(Tag::host_tensor, static_cast<uint8_t>(t.dim()), dtype_word(t)));
  out.put<uint64_t>(t.nbytes());
  for (int64_t s : t.sizes()) out.put(s);
  if (t.nbytes()) std::memcpy(out.grow(wire::align8(t.nbytes())), t.const_data_ptr(), t.nbytes());
}

void Executor::put_value(const c10::IValue& v, Stash& stash) {
  wire::Writer out(reply_);
  auto list = [&](ListKind kind, size_t n) { out.put(word(Tag::list, static_cast<uint8_t>(kind), 0, static_cast<uint32_t>(n))); };
  if (v.isTensor()) return put_tensor(v.toTensor(), stash);
  if (v.isNone()) return out.put(word(Tag::none));
  if (v.isBool()) return out.put(word(Tag::boolean, v.toBool()));
  if (v.isInt()) return out.put(word(Tag::integer)), out.put(v.toInt());
  if (v.isDouble()) return out.put(word(Tag::real)), out.put(v.toDouble());
  if (v.isComplexDouble()) {
    auto z = v.toComplexDouble();
    out.put(word(Tag::complex)), out.put(z.real()), out.put(z.imag());
    return;
  }
  if (v.isTensorList()) {
    auto tensors = v.toTensorVector();
    list(ListKind::tensors, tensors.size());
    for (const auto& t : tensors) put_tensor(t, stash);
    return;
  }
  if (v.isIntList()) {
    auto numbers = v.toIntVector();
    list(ListKind::integers, numbers.size());
    for (int64_t n : numbers) out.put(n);
    return;
  }
  throw Unsupported("a result of a type that cannot travel: " + v.tagKind());
}

// The argument that this return is, when it is a strided device tensor which the op wrote in place; else -1.
int Executor::written_argument(const Op& op, size_t index) const {
  int argument = op.returns[index].alias;
  if (argument < 0 || !op.arguments[static_cast<size_t>(argument)].written) return -1;  // a view (op_call) is a result like any other
  for (const Touched& t : now_.touched)
    if (t.argument == argument && !t.in_list && now_.stack[index].isTensor() && now_.stack[index].toTensor().layout() == at::kStrided &&
        !now_.stack[index].toTensor().is_nested() && !now_.stack[index].toTensor().is_quantized())
      return argument;
  return -1;
}

void Executor::reply(const Op& op, std::span<const uint16_t> place) {
  reply_.clear();
  if (stashes_.size() >= kStashesMax) throw Unsupported("too many results wait to be taken");
  wire::Writer out(reply_);
  out.put<uint64_t>(stash_next_);
  out.put<uint64_t>(now_.stack.size());
  Stash stash;
  for (size_t i = 0; i < now_.stack.size(); i++) {
    int argument = written_argument(op, i);
    if (argument >= 0 && !place.empty()) argument = static_cast<int>(std::find(place.begin(), place.end(), argument) - place.begin());
    if (argument >= 0) out.put(word(Tag::alias, 0, 0, static_cast<uint32_t>(argument)));
    else put_value(now_.stack[i], stash);
  }
  if (stash.tensors.empty()) {
    std::memset(reply_.data(), 0, sizeof(uint64_t));
    return;
  }
  stash_bytes_ += stash.bytes;
  stashes_.emplace(stash_next_++, std::move(stash));
}

Failure Executor::take(std::span<const std::byte> payload) {
  wire::Reader in(payload);
  auto t = in.get<OpTake>();
  if (!in.finished()) return malformed("op_take is malformed");
  auto stash = stashes_.find(t.stash);
  if (stash == stashes_.end() || t.index >= stash->second.tensors.size()) return malformed("op_take of a result that is not there");
  const at::Tensor& source = stash->second.tensors[t.index];
  uint64_t bytes = span_bytes(source);
  if (t.bytes != bytes) return malformed("op_take of another size than the reply gave");
  if (!bytes) return {};
  if (!tensors_.memory_live(t.address, bytes)) return {kIllegalAddress, wire::ErrorClass::sticky, "op_take", "outside the session's live memory"};
  copy_span(reinterpret_cast<void*>(t.address), source);
  recurrent_.rename(source.const_data_ptr(), reinterpret_cast<const void*>(t.address));
  poison_.written(t.address, t.address + bytes);
  return {};
}

Failure Executor::drop(std::span<const std::byte> payload) {
  wire::Reader in(payload);
  auto h = in.get<wire::Handle>();
  if (!in.finished()) return malformed("op_drop is malformed");
  auto stash = stashes_.find(h.id);
  if (stash == stashes_.end()) return malformed("op_drop of a result that is not there");
  stash_bytes_ -= stash->second.bytes;
  stashes_.erase(stash);
  return {};
}

}  // namespace djinn::aten

// Every word here is foreign. Counts are checked against what is left of the record before anything is reserved, sizes are multiplied with overflow
// checks, and each value must be of the kind that the schema has in its place.
#include "server/execute/cpu/aten/decode.hpp"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/NestedTensorImpl.h>
#include <ATen/quantized/QTensorImpl.h>
#include <ATen/quantized/Quantizer.h>

#include <cstring>

#include "semantic/wire/limits.hpp"
#include "server/execute/cpu/aten/reduced.hpp"

namespace djinn::aten {

using namespace wire::op;

at::Tensor HostScalars::get(c10::ScalarType dtype, uint16_t flags, uint64_t bits) {
  uint64_t key = uint64_t{1} << 32 | uint64_t{flags} << 8 | static_cast<uint8_t>(dtype);
  Entry& e = entries_[(bits * 0x9e3779b97f4a7c15u ^ key * 0xbf58476d1ce4e5b9u) >> 56 & (kScalarCacheSize - 1)];
  if (e.key == key && e.bits == bits && e.tensor.defined()) return e.tensor;
  at::Tensor t = at::detail::empty_cpu({}, dtype);
  std::memcpy(t.mutable_data_ptr(), &bits, c10::elementSize(dtype));
  if (flags & kWrappedNumber) t.unsafeGetTensorImpl()->set_wrapped_number(true);
  e = {key, bits, t};
  return t;
}

at::Tensor Decoder::interned(uint32_t id, bool written, bool in_list) {
  Interned* t = tensors_.find(id);
  if (!t) return fail("op names a tensor that is not defined"), at::Tensor();
  if (!tensors_.live(*t, epoch_)) {
    illegal_ = true;
    return fail("a tensor outside the session's live memory"), at::Tensor();
  }
  // Outside of a quantized value such a tensor has no quantizer, and kernels would look for one.
  if ((t->flags & kQuantized) && !quantized_) return fail("quantized data outside a quantized tensor"), at::Tensor();
  note_place();
  out_->touched.push_back({id, index_, in_list});
  out_->reduced |= reduced_bit(t->dtype);
  out_->special |= (t->flags & (kConjugate | kNegative | kQuantized)) != 0;
  // Tensors without elements are often described alike; PyTorch forbids to write to what is read, and means the object where there is no memory.
  if (!t->has_elements() && !t->flags && !written) return t->tensor.alias();
  return t->tensor;
}

std::span<const int64_t> Decoder::sizes(uint32_t rank) {
  if (rank > wire::kRankMax) return fail("tensor rank beyond kRankMax"), std::span<const int64_t>{};
  if (!room(rank)) return {};
  std::span s(reinterpret_cast<const int64_t*>(cur_), rank);
  cur_ += rank;
  return s;
}

at::Tensor Decoder::host_tensor(uint64_t w, bool written) {
  unsigned dtype = b_of(w) & 0xff, flags = b_of(w) >> 8;
  if (!known_dtype(dtype) || c10::isQIntType(static_cast<c10::ScalarType>(dtype))) return fail("host tensor of an unknown dtype"), at::Tensor();
  if (flags & ~unsigned{kWrappedNumber | kConjugate | kNegative}) return fail("host tensor with unknown flags"), at::Tensor();
  auto type = static_cast<c10::ScalarType>(dtype);
  if ((flags & kConjugate) && !c10::isComplexType(type)) return fail("conjugate bit on a dtype that is not complex"), at::Tensor();
  uint64_t bytes = word();
  auto shape = sizes(a_of(w));
  int64_t numel = 1;
  for (int64_t s : shape)
    if (s < 0 || __builtin_mul_overflow(numel, s, &numel)) return fail("host tensor with a negative or overflowing shape"), at::Tensor();
  if (numel > kHostElementsMax || bytes != static_cast<uint64_t>(numel) * c10::elementSize(type) || !room((bytes + 7) / 8))
    return fail("host tensor whose bytes do not fit its shape"), at::Tensor();
  const uint64_t* data = cur_;
  cur_ += (bytes + 7) / 8;
  out_->reduced |= reduced_bit(type);
  if (shape.empty() && !written && bytes <= 8 && !(flags & ~unsigned{kWrappedNumber})) {
    uint64_t bits = 0;
    std::memcpy(&bits, data, bytes);
    return scalars_.get(type, flags, bits);
  }
  at::Tensor t = at::detail::empty_cpu({shape.data(), shape.size()}, type);
  if (bytes) std::memcpy(t.mutable_data_ptr(), data, bytes);
  if (flags & kWrappedNumber) t.unsafeGetTensorImpl()->set_wrapped_number(true);
  if (flags & kConjugate) t._set_conj(true);
  if (flags & kNegative) t._set_neg(true);
  out_->special |= (flags & (kConjugate | kNegative)) != 0;
  return t;
}

at::Tensor Decoder::sparse(uint64_t w, bool written) {
  auto shape = sizes(id_of(w));
  auto indices = tensor(word(), written, false), values = tensor(word(), written, false);
  if (!indices.defined() || !values.defined()) return fail("sparse tensor without members"), at::Tensor();
  out_->special = true;
  // The checking constructor: the members come from a stranger.
  auto t = at::sparse_coo_tensor(indices, values, {shape.data(), shape.size()}, values.options().layout(at::kSparse), false);
  return a_of(w) ? t._coalesced_(true) : t;
}

at::Tensor Decoder::compressed(uint64_t w, bool written) {
  auto shape = sizes(id_of(w));
  auto outer = tensor(word(), written, false), inner = tensor(word(), written, false), values = tensor(word(), written, false);
  if (!outer.defined() || !inner.defined() || !values.defined()) return fail("compressed tensor without members"), at::Tensor();
  auto layout = static_cast<c10::Layout>(a_of(w));
  if (layout != at::kSparseCsr && layout != at::kSparseCsc && layout != at::kSparseBsr && layout != at::kSparseBsc)
    return fail("compressed tensor of an unknown layout"), at::Tensor();
  out_->special = true;
  at::_validate_sparse_compressed_tensor_args(outer, inner, values, {shape.data(), shape.size()}, layout);
  return at::_sparse_compressed_tensor_unsafe(outer, inner, values, {shape.data(), shape.size()}, values.options().layout(layout));
}

at::Tensor Decoder::nested(bool written) {
  at::Tensor m[4];
  for (auto& t : m) t = tensor(word(), written, false);
  if (problem_) return {};
  if (!m[0].defined() || m[0].dim() != 1 || !m[1].defined() || !m[2].defined() || !m[3].defined())
    return fail("nested tensor without members"), at::Tensor();
  if (m[1].scalar_type() != at::kLong || m[2].scalar_type() != at::kLong || m[3].scalar_type() != at::kLong || m[1].sizes() != m[2].sizes() ||
      m[1].dim() != 2 || m[3].dim() != 1 || m[3].size(0) != m[1].size(0))
    return fail("nested tensor whose shapes do not fit"), at::Tensor();
  for (int64_t i = 0; i < m[1].size(0); i++) {
    uint64_t bytes;
    int64_t numel, width = m[1].size(1), offset = m[3].const_data_ptr<int64_t>()[i];
    std::span size(m[1].const_data_ptr<int64_t>() + i * width, width), stride(m[2].const_data_ptr<int64_t>() + i * width, width);
    if (!span_of(size, stride, 1, bytes, numel) || offset < 0 || bytes > static_cast<uint64_t>(m[0].numel()) ||
        static_cast<uint64_t>(offset) > m[0].numel() - bytes)
      return fail("nested tensor that reaches beyond its buffer"), at::Tensor();
  }
  out_->special = true;
  return at::detail::make_tensor<at::native::NestedTensorImpl>(m[0], m[1], m[2], m[3]);
}

at::Tensor Decoder::quantized(uint64_t w, bool written) {
  quantized_ = true;
  auto data = tensor(word(), written, false);
  quantized_ = false;
  if (!data.defined() || !c10::isQIntType(data.scalar_type())) return fail("quantized tensor without quantized data"), at::Tensor();
  at::QuantizerPtr quantizer;
  if (a_of(w) == 0) {
    c10::IValue scale, zero;
    if (!number(word(), scale) || !number(word(), zero) || !scale.isDouble() || !zero.isInt())
      return fail("quantized tensor without scale"), at::Tensor();
    quantizer = at::make_per_tensor_affine_quantizer(scale.toDouble(), zero.toInt(), data.scalar_type());
  } else {
    auto scales = tensor(word(), false, false), zeros = tensor(word(), false, false);
    c10::IValue axis;
    if (!number(word(), axis) || !axis.isInt() || !scales.defined() || !zeros.defined() || axis.toInt() < 0 || axis.toInt() >= data.dim() ||
        scales.numel() != data.size(axis.toInt()) || zeros.numel() != scales.numel())
      return fail("quantized tensor without axis"), at::Tensor();
    quantizer = at::make_per_channel_affine_quantizer(scales, zeros, axis.toInt(), data.scalar_type());
  }
  out_->special = true;
  auto t = at::detail::make_tensor<at::QTensorImpl>(c10::Storage(data.storage()), c10::DispatchKeySet(c10::DispatchKey::QuantizedCPU), data.dtype(),
                                                    quantizer);
  t.unsafeGetTensorImpl()->set_sizes_and_strides(data.sizes(), data.strides(), data.storage_offset());
  return t;
}

at::Tensor Decoder::tensor(uint64_t w, bool written, bool in_list) {
  if (problem_) return {};
  switch (tag_of(w)) {
    case Tag::tensor: return interned(id_of(w), written, in_list);
    case Tag::undefined:
    case Tag::none: return {};
    case Tag::host_tensor: return host_tensor(w, written);
    case Tag::sparse_tensor: return sparse(w, written);
    case Tag::compressed_tensor: return compressed(w, written);
    case Tag::nested_tensor: return nested(written);
    case Tag::quantized_tensor: return quantized(w, written);
    case Tag::integer:
    case Tag::real:
    case Tag::boolean:
    case Tag::complex:
    case Tag::string:
    case Tag::device:
    case Tag::list:
    case Tag::generator:
    case Tag::alias:
    case Tag::symbol: break;
  }
  return fail("a word that is not a tensor where the schema has one"), at::Tensor();
}

bool Decoder::number(uint64_t w, c10::IValue& v) {
  switch (tag_of(w)) {
    case Tag::integer: return v = static_cast<int64_t>(word()), true;
    case Tag::real: return v = real(), true;
    case Tag::boolean: return v = a_of(w) != 0, true;
    case Tag::complex: {
      double re = real(), im = real();
      return v = c10::complex<double>(re, im), true;
    }
    case Tag::none:
    case Tag::undefined:
    case Tag::tensor:
    case Tag::host_tensor:
    case Tag::string:
    case Tag::device:
    case Tag::list:
    case Tag::generator:
    case Tag::nested_tensor:
    case Tag::sparse_tensor:
    case Tag::compressed_tensor:
    case Tag::quantized_tensor:
    case Tag::alias:
    case Tag::symbol: break;
  }
  return false;
}

std::string Decoder::text(uint32_t bytes) {
  if (bytes > wire::kNameBytesMax || !room((bytes + 7) / 8)) return fail("string beyond kNameBytesMax or its record"), std::string();
  std::string s(reinterpret_cast<const char*>(cur_), bytes);
  cur_ += (bytes + 7) / 8;
  return s;
}

void Decoder::list(const Argument& a, uint64_t w) {
  uint32_t n = id_of(w);
  auto kind = static_cast<ListKind>(a_of(w));
  if (n > wire::kListMax || !room(n)) return fail("list beyond kListMax or its record");
  auto expect = [&](ListKind k) { return n == 0 || kind == k ? true : (fail("a list of another kind than the schema has"), false); };
  auto& stack = out_->stack;
  switch (a.kind) {
    case Kind::integers: {
      if (!expect(ListKind::integers)) return;
      std::vector<int64_t> v(n);
      if (n) std::memcpy(v.data(), cur_, n * 8);
      cur_ += n;
      stack.emplace_back(std::move(v));
      return;
    }
    case Kind::reals: {
      if (!expect(ListKind::reals)) return;
      std::vector<double> v(n);
      if (n) std::memcpy(v.data(), cur_, n * 8);
      cur_ += n;
      stack.emplace_back(std::move(v));
      return;
    }
    case Kind::booleans: {
      if (!expect(ListKind::booleans)) return;
      c10::List<bool> l;
      l.reserve(n);
      while (n--) l.push_back(word() != 0);
      stack.emplace_back(std::move(l));
      return;
    }
    case Kind::tensors: {
      if (!expect(ListKind::tensors)) return;
      c10::List<at::Tensor> l;
      l.reserve(n);
      while (n-- && !problem_) l.push_back(tensor(word(), a.written, true));
      stack.emplace_back(std::move(l));
      return;
    }
    case Kind::optional_tensors: {
      if (!expect(ListKind::optional_tensors) && !expect(ListKind::tensors)) return;
      c10::List<std::optional<at::Tensor>> l;
      l.reserve(n);
      while (n-- && !problem_) {
        at::Tensor t = tensor(word(), a.written, true);
        l.push_back(t.defined() ? std::optional(std::move(t)) : std::nullopt);
      }
      stack.emplace_back(std::move(l));
      return;
    }
    case Kind::numbers: {
      if (!expect(ListKind::numbers)) return;
      c10::impl::GenericList l(c10::NumberType::get());
      l.reserve(n);
      while (n-- && !problem_) {
        c10::IValue v;
        if (!number(word(), v)) return fail("a list element that is not a number");
        l.push_back(std::move(v));
      }
      stack.emplace_back(std::move(l));
      return;
    }
    case Kind::strings: {
      if (!expect(ListKind::strings)) return;
      c10::List<std::string> l;
      while (n-- && !problem_) {
        uint64_t e = word();
        if (tag_of(e) != Tag::string) return fail("a list element that is not a string");
        l.push_back(text(id_of(e)));
      }
      stack.emplace_back(std::move(l));
      return;
    }
    case Kind::tensor:
    case Kind::integer:
    case Kind::real:
    case Kind::boolean:
    case Kind::complex:
    case Kind::number:
    case Kind::string:
    case Kind::device:
    case Kind::generator: break;
  }
  fail("a list where the schema has none");
}

void Decoder::argument(const Argument& a) {
  uint64_t w = word();
  if (problem_) return;
  Tag tag = tag_of(w);
  auto& stack = out_->stack;
  if (tag == Tag::none) {
    if (!a.optional) return fail("None where the schema has a value");
    stack.emplace_back();
    return;
  }
  if (tag == Tag::list) return list(a, w);
  switch (a.kind) {
    case Kind::tensor: {
      at::Tensor t = tensor(w, a.written, false);
      if (a.optional && !t.defined()) return static_cast<void>(stack.emplace_back());
      stack.emplace_back(std::move(t));
      return;
    }
    case Kind::integer:
      if (tag == Tag::boolean) return static_cast<void>(stack.emplace_back(static_cast<int64_t>(a_of(w) != 0)));
      if (tag != Tag::integer) break;
      stack.emplace_back(static_cast<int64_t>(word()));
      return;
    case Kind::real:
      if (tag == Tag::integer) return static_cast<void>(stack.emplace_back(static_cast<double>(static_cast<int64_t>(word()))));
      if (tag != Tag::real) break;
      stack.emplace_back(real());
      return;
    case Kind::boolean:
      if (tag != Tag::boolean) break;
      stack.emplace_back(a_of(w) != 0);
      return;
    case Kind::complex:
    case Kind::number: {
      c10::IValue v;
      if (!number(w, v)) break;
      stack.push_back(std::move(v));
      return;
    }
    case Kind::string:
      if (tag != Tag::string) break;
      stack.emplace_back(text(id_of(w)));
      return;
    case Kind::device:  // the session's device is this CPU, and so is the host's
      if (tag != Tag::device || a_of(w) > 1) break;
      stack.emplace_back(c10::Device(c10::kCPU));
      return;
    case Kind::generator:
      if (tag != Tag::generator) break;
      stack.emplace_back(at::detail::getDefaultCPUGenerator());
      return;
    case Kind::tensors:
    case Kind::optional_tensors:
    case Kind::integers:
    case Kind::reals:
    case Kind::booleans:
    case Kind::numbers:
    case Kind::strings: break;
  }
  fail("a value of another kind than the schema has");
}

bool Decoder::output_tensor(uint64_t w, uint16_t index, bool in_list, uint32_t element) {
  switch (tag_of(w)) {
    case Tag::none:
    case Tag::undefined:
    case Tag::alias: return true;
    case Tag::tensor: {
      Interned* t = tensors_.find(id_of(w));
      if (!t) return fail("op names an output that is not defined"), false;
      if (!tensors_.live(*t, epoch_)) {
        illegal_ = true;
        return fail("an output outside the session's live memory"), false;
      }
      note_place();
      out_->outputs.push_back({index, in_list, element, id_of(w)});
      return true;
    }
    case Tag::host_tensor:
    case Tag::integer:
    case Tag::real:
    case Tag::boolean:
    case Tag::complex:
    case Tag::string:
    case Tag::device:
    case Tag::list:
    case Tag::generator:
    case Tag::nested_tensor:
    case Tag::sparse_tensor:
    case Tag::compressed_tensor:
    case Tag::quantized_tensor:
    case Tag::symbol: break;
  }
  return fail("an output word that names no tensor"), false;
}

void Decoder::output(const Op& op, uint16_t index) {
  uint64_t w = word();
  if (problem_ || tag_of(w) != Tag::list) return static_cast<void>(output_tensor(w, index, false, 0));
  uint32_t n = id_of(w);
  if (op.returns[index].kind != Kind::tensors || n > wire::kListMax || !room(n)) return fail("an output list where the schema has none");
  for (uint32_t i = 0; i < n && !problem_; i++) output_tensor(word(), index, true, i);
}

// In a graph: seed and offset are read when the op runs.
void Decoder::generator_in_memory() {
  uint64_t seed = word(), offset = word(), intragraph = word(), after = word(), value = 0;
  if (problem_) return;
  for (uint64_t address : {seed, offset})
    if (address % 8 || !tensors_.memory_live(address, 8)) {
      illegal_ = true;
      return fail("a generator state outside the session's live memory");
    }
  auto read = [&](uint64_t address) { return std::memcpy(&value, reinterpret_cast<const void*>(address), sizeof value), value; };
  out_->generator = {read(seed), read(offset) + intragraph, read(offset) + after};
}

void Decoder::sections(uint32_t flags) {
  if (flags & kGeneratorInMemory) {
    if (!(flags & kHasGenerator)) return fail("a generator in memory without a generator");
    generator_in_memory();
  } else if (flags & kHasGenerator) {
    out_->generator.seed = word();
    out_->generator.offset = word();
    out_->generator.offset_after = word();
  }
  if (flags & kContextGiven) word();  // read by server/session/meaning
}

void Decoder::begin(std::span<const std::byte> body, Decoded& out) {
  begin_ = cur_ = reinterpret_cast<const uint64_t*>(body.data());
  end_ = cur_ + body.size() / 8;
  out_ = &out;
  problem_ = nullptr;
  illegal_ = quantized_ = false;
  out.clear();
  epoch_ = tensors_.epoch();
}

bool Decoder::decode(const Op& op, const OpHead& head, std::span<const std::byte> body, Decoded& out, std::vector<uint32_t>* places) {
  places_ = places;
  begin(body, out);
  out.flags = head.flags;
  constexpr uint32_t kKnown = kHasGenerator | kDeterministic | kFillUninitialised | kAllowTf32 | kGeneratorInMemory | kContextGiven;
  if (head.flags & ~kKnown) return fail("op record with unknown flags"), false;
  if (head.arguments != op.arguments.size() || head.outputs != op.returns.size()) return fail("op record whose counts do not fit the schema"), false;
  for (index_ = 0; index_ < head.arguments && !problem_; index_++) argument(op.arguments[index_]);
  for (uint16_t i = 0; i < head.outputs && !problem_; i++) output(op, i);
  if (!problem_) sections(head.flags);
  if (!problem_ && cur_ != end_) fail("op record with bytes left over");
  return !problem_;
}

// ---- op_call ----

namespace {

std::optional<Kind> list_of(uint8_t kind) {
  switch (static_cast<ListKind>(kind)) {
    case ListKind::integers: return Kind::integers;
    case ListKind::reals: return Kind::reals;
    case ListKind::booleans: return Kind::booleans;
    case ListKind::tensors: return Kind::tensors;
    case ListKind::optional_tensors: return Kind::optional_tensors;
    case ListKind::numbers: return Kind::numbers;
    case ListKind::strings: return Kind::strings;
  }
  return std::nullopt;
}

}  // namespace

// A value of whatever kind it says that it is.
c10::IValue Decoder::value() {
  uint64_t w = word();
  c10::IValue v;
  switch (tag_of(w)) {
    case Tag::none: return v;
    case Tag::undefined:
    case Tag::tensor:
    case Tag::host_tensor:
    case Tag::sparse_tensor:
    case Tag::compressed_tensor:
    case Tag::nested_tensor:
    case Tag::quantized_tensor: return tensor(w, false, false);
    case Tag::integer:
    case Tag::real:
    case Tag::boolean:
    case Tag::complex: return number(w, v), v;
    case Tag::string: return text(id_of(w));
    case Tag::device:
      if (a_of(w) > 1) break;
      return c10::Device(c10::kCPU);
    case Tag::list: {
      auto kind = list_of(a_of(w));
      if (!kind) break;
      list({*kind, false, false, false}, w);
      if (problem_) return v;
      v = std::move(out_->stack.back());
      out_->stack.pop_back();
      return v;
    }
    case Tag::generator:
    case Tag::alias:
    case Tag::symbol: break;
  }
  return fail("a value of a kind that cannot be given to an op by name"), v;
}

bool Decoder::decode_call(std::span<const std::byte> payload, Given& given, Decoded& out) {
  places_ = nullptr;
  begin(payload, out);
  auto name = [&] {
    uint64_t bytes = word();
    if (bytes > wire::kNameBytesMax) return fail("a name beyond kNameBytesMax"), std::string();
    return text(static_cast<uint32_t>(bytes));
  };
  auto head = std::bit_cast<OpCall>(word());
  given.name = name();
  if (head.arguments > wire::kCallValuesMax || head.keywords > wire::kCallValuesMax - head.arguments) fail("more values than kCallValuesMax");
  index_ = 0;
  for (; index_ < head.arguments && !problem_; index_++) given.positional.push_back(value());
  for (; index_ < head.arguments + head.keywords && !problem_; index_++) {
    std::string keyword = name();
    given.keywords.emplace_back(std::move(keyword), value());
  }
  if (!problem_ && cur_ != end_) fail("op_call with bytes left over");
  return !problem_;
}

}  // namespace djinn::aten

// See reply.hpp.
#include "hooks/torch/reply.hpp"

#include <ATen/EmptyTensor.h>
#include <ATen/NestedTensorImpl.h>
#include <ATen/SparseCsrTensorUtils.h>
#include <ATen/native/Resize.h>
#include <ATen/native/SparseTensorUtils.h>
#include <ATen/quantized/QTensorImpl.h>
#include <ATen/quantized/Quantizer.h>
#include <c10/core/DeviceGuard.h>

#include <cstring>

#include "hooks/torch/host.hpp"
#include "semantic/wire/limits.hpp"

namespace djinn::hook {

using wire::op::ListKind;
using wire::op::Tag;

void raise(const std::string& text) {
  // "aten::op: IndexError: …": the class is looked for after the operation
  auto has = [&](const char* name) { return text.find(name) != std::string::npos; };
  if (has("IndexError: ")) TORCH_CHECK_INDEX(false, text);
  if (has("ValueError: ")) TORCH_CHECK_VALUE(false, text);
  if (has("TypeError: ")) TORCH_CHECK_TYPE(false, text);
  if (has("NotImplementedError: ")) TORCH_CHECK_NOT_IMPLEMENTED(false, text);
  if (has("LinAlgError: ")) TORCH_CHECK_LINALG(false, text);
  if (has("OutOfMemoryError: ")) TORCH_CHECK_WITH(OutOfMemoryError, false, text);
  TORCH_CHECK(false, text);
}

namespace {

// Reads the values of a reply. Bytes from the server are as hostile as any: a malformed reply is an exception.
class ReplyReader {
 public:
  ReplyReader(const djinn_reply& reply, const std::vector<c10::IValue>& arguments, c10::Device device)
      : reader_({static_cast<const std::byte*>(reply.data), reply.size}), arguments_(arguments), device_(device) {
    stash_ = reader_.get<uint64_t>();
    count_ = reader_.get<uint64_t>();
    if (!reader_.ok() || count_ > wire::kListMax) malformed();
  }
  uint64_t count() const { return count_; }
  uint64_t stash() const { return stash_; }

  c10::IValue value() {
    uint64_t w = word();
    switch (wire::op::tag_of(w)) {
      case Tag::none: return {};
      case Tag::undefined: return at::Tensor();
      case Tag::integer: return static_cast<int64_t>(word());
      case Tag::real: return real();
      case Tag::boolean: return wire::op::a_of(w) != 0;
      case Tag::complex: {
        double a = real(), b = real();
        return c10::complex<double>(a, b);
      }
      case Tag::string: return string(wire::op::id_of(w));
      case Tag::alias: return argument(wire::op::id_of(w));
      case Tag::tensor: return tensor(w);
      case Tag::host_tensor: return host_tensor(w);
      case Tag::sparse_tensor: return sparse(w);
      case Tag::compressed_tensor: return compressed(w);
      case Tag::nested_tensor: return nested(w);
      case Tag::quantized_tensor: return quantized(w);
      case Tag::list: return list(w);
      case Tag::device:
      case Tag::generator:
      case Tag::symbol: break;
    }
    malformed();
  }

 private:
  [[noreturn]] static void malformed() { TORCH_CHECK(false, "Djinn: the server sent a malformed reply"); }
  uint64_t word() {
    uint64_t w = reader_.get<uint64_t>();
    if (!reader_.ok()) malformed();
    return w;
  }
  double real() {
    uint64_t bits = word();
    double d;
    std::memcpy(&d, &bits, sizeof d);
    return d;
  }
  const std::byte* take(uint64_t bytes) {
    const std::byte* p = bytes <= wire::kFrameBytesMax ? reader_.take(wire::align8(bytes)) : nullptr;
    if (!p) malformed();
    return p;
  }
  std::string string(uint32_t bytes) { return {reinterpret_cast<const char*>(take(bytes)), bytes}; }
  c10::IValue argument(uint32_t i) {
    if (i >= arguments_.size()) malformed();
    return arguments_[i];
  }
  std::vector<int64_t> dimensions(uint32_t rank) {
    if (rank > wire::kRankMax) malformed();
    std::vector<int64_t> n(rank);
    for (auto& v : n) {
      v = static_cast<int64_t>(word());
      if (v < 0 || v > (int64_t{1} << 48)) malformed();
    }
    return n;
  }
  static c10::ScalarType dtype(uint16_t b) {
    if ((b & 0xff) >= static_cast<uint16_t>(c10::ScalarType::NumOptions)) malformed();
    return static_cast<c10::ScalarType>(b & 0xff);
  }
  // A result that waits in the stash: allocated as it lies there, then taken.
  at::Tensor tensor(uint64_t w) {
    auto sizes = dimensions(wire::op::a_of(w)), strides = dimensions(wire::op::a_of(w));
    auto type = dtype(wire::op::b_of(w));
    c10::DeviceGuard guard(device_);
    // not at::empty_strided: there is none for the integers of a quantized tensor
    at::Tensor t =
        at::detail::empty_strided_generic(sizes, strides, c10::GetAllocator(c10::kCUDA), c10::DispatchKeySet(c10::DispatchKey::CUDA), type);
    if (t.numel()) {
      wire::op::OpTake take{stash_, wire::op::id_of(w), reinterpret_cast<uint64_t>(t.storage().data()), t.storage().nbytes()};
      post(wire::Opcode::op_take, &take, sizeof take);
    }
    uint16_t flags = wire::op::b_of(w) >> 8;
    if (flags & wire::op::kConjugate) t._set_conj(true);
    if (flags & wire::op::kNegative) t._set_neg(true);
    return t;
  }
  at::Tensor host_tensor(uint64_t w) {
    auto type = dtype(wire::op::b_of(w));
    uint64_t bytes = word();
    at::Tensor t = at::empty(dimensions(wire::op::a_of(w)), type);
    if (bytes != t.nbytes()) malformed();
    const std::byte* p = take(bytes);
    if (bytes) std::memcpy(t.mutable_data_ptr(), p, bytes);
    return t;
  }
  at::Tensor member() {
    c10::IValue v = value();
    if (!v.isTensor()) malformed();
    return v.toTensor();
  }
  at::Tensor sparse(uint64_t w) {
    auto sizes = dimensions(wire::op::id_of(w));
    at::Tensor indices = member(), values = member();
    return at::_sparse_coo_tensor_unsafe(indices, values, sizes, std::nullopt, std::nullopt, std::nullopt, std::nullopt, wire::op::a_of(w) != 0);
  }
  at::Tensor compressed(uint64_t w) {
    auto sizes = dimensions(wire::op::id_of(w));
    at::Tensor compressed = member(), plain = member(), values = member();
    auto options = values.options().layout(static_cast<c10::Layout>(wire::op::a_of(w)));
    return at::_sparse_compressed_tensor_unsafe(compressed, plain, values, sizes, options);
  }
  at::Tensor nested(uint64_t) {
    at::Tensor buffer = member(), sizes = member(), strides = member(), offsets = member();
    return at::detail::make_tensor<at::native::NestedTensorImpl>(buffer, sizes, strides, offsets);
  }
  // The integers arrive as a tensor of their type; the quantizer makes them numbers.
  at::Tensor quantized(uint64_t w) {
    at::Tensor data = member();
    if (!data.is_cuda() || !c10::isQIntType(data.scalar_type())) malformed();
    auto impl = at::detail::make_tensor<at::QTensorImpl>(c10::Storage(data.storage()), c10::DispatchKeySet(c10::DispatchKey::QuantizedCUDA),
                                                         data.dtype(), wire::op::a_of(w) ? channel_quantizer(data) : tensor_quantizer(data));
    impl.unsafeGetTensorImpl()->set_sizes_and_strides(data.sizes(), data.strides(), data.storage_offset());
    return impl;
  }
  at::QuantizerPtr tensor_quantizer(const at::Tensor& data) {
    c10::IValue scale = value(), zero_point = value();
    if (!scale.isDouble() || !zero_point.isInt()) malformed();
    return at::make_per_tensor_affine_quantizer(scale.toDouble(), zero_point.toInt(), data.scalar_type());
  }
  at::QuantizerPtr channel_quantizer(const at::Tensor& data) {
    at::Tensor scales = member(), zero_points = member();
    c10::IValue axis = value();
    if (!axis.isInt() || axis.toInt() < 0 || axis.toInt() >= data.dim() || scales.numel() != data.size(axis.toInt()) ||
        zero_points.numel() != scales.numel())
      malformed();
    return at::make_per_channel_affine_quantizer(scales, zero_points, axis.toInt(), data.scalar_type());
  }
  c10::IValue list(uint64_t w) {
    uint32_t n = wire::op::id_of(w);
    if (n > wire::kListMax) malformed();
    switch (static_cast<ListKind>(wire::op::a_of(w))) {
      case ListKind::tensors: {
        c10::List<at::Tensor> l;
        while (n--) l.push_back(member());
        return l;
      }
      case ListKind::integers: {
        c10::List<int64_t> l;
        while (n--) l.push_back(static_cast<int64_t>(word()));
        return l;
      }
      case ListKind::reals: {
        c10::List<double> l;
        while (n--) l.push_back(real());
        return l;
      }
      case ListKind::booleans: {
        c10::List<bool> l;
        while (n--) l.push_back(word() != 0);
        return l;
      }
      case ListKind::optional_tensors:
      case ListKind::numbers:
      case ListKind::strings: break;
    }
    malformed();
  }

  wire::Reader reader_;
  const std::vector<c10::IValue>& arguments_;
  c10::Device device_;
  uint64_t stash_ = 0, count_ = 0;
};

// A sparse argument written in place (or out=) takes over the members of the result.
void adopt(const at::Tensor& d, const at::Tensor& s) {
  if (d.is_sparse()) {
    auto* p = at::sparse::get_sparse_impl(d);
    p->raw_resize_(s.sparse_dim(), s.dense_dim(), s.sizes());
    at::sparse::alias_into_sparse(d, s._indices(), s._values());
    p->set_coalesced(s.is_coalesced());
  } else if (at::sparse_csr::is_sparse_compressed(d)) {
    auto* i = at::sparse_csr::get_sparse_csr_impl(s);
    at::sparse_csr::get_sparse_csr_impl(d)->set_member_tensors(i->compressed_indices(), i->plain_indices(), i->values(), s.sizes());
  } else {
    TORCH_CHECK_NOT_IMPLEMENTED(false, "Djinn: an in-place result of layout ", d.layout(), " is not supported yet");
  }
}

void store(const at::Tensor& d, const at::Tensor& s) {
  if (!d.defined() || !s.defined() || d.is_same(s)) return;
  if (d.layout() != c10::kStrided) return adopt(d, s);
  at::native::resize_output(d, s.sizes());
  d.copy_(s);
}

}  // namespace

std::vector<c10::IValue> query(const Op& op, const Encoder& encoder, const std::vector<c10::IValue>& arguments, c10::Device device) {
  djinn_reply reply{};
  struct Release {
    djinn_reply& r;
    ~Release() { host->release(&r); }
  } release{reply};
  if (host->call(static_cast<uint32_t>(wire::Opcode::op_query), wire::kFlagCall, encoder.data(), encoder.bytes(), &reply)) raise(reply.error);
  ReplyReader reader(reply, arguments, device);
  TORCH_CHECK(reader.count() == op.returns, "Djinn: the server sent ", reader.count(), " results of ", op.full_name(), " instead of ", op.returns);
  std::vector<c10::IValue> results;
  for (size_t i = 0; i < op.returns; i++) {
    c10::IValue v = reader.value();
    int alias = op.alias[i];
    if (alias >= 0 && v.isTensor() && arguments[static_cast<size_t>(alias)].isTensor()) {
      store(arguments[static_cast<size_t>(alias)].toTensor(), v.toTensor());
      v = arguments[static_cast<size_t>(alias)];
    } else if (alias >= 0) {
      v = arguments[static_cast<size_t>(alias)];
    }
    results.push_back(std::move(v));
  }
  if (reader.stash()) {
    wire::Handle drop{reader.stash()};
    post(wire::Opcode::op_drop, &drop, sizeof drop);
  }
  return results;
}

}  // namespace djinn::hook

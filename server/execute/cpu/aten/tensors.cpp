// Builds TensorImpls around the session's memory and checks every description: a size, stride or offset that overflows is refused when it is
// defined, an extent outside live memory when it is used.
#include "server/execute/cpu/aten/tensors.hpp"

#include <c10/core/CPUAllocator.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/TensorImpl.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "semantic/wire/codec.hpp"
#include "semantic/wire/limits.hpp"

namespace djinn::aten {

bool known_dtype(unsigned dtype) {
  switch (static_cast<c10::ScalarType>(dtype)) {
    case c10::ScalarType::Byte:
    case c10::ScalarType::Char:
    case c10::ScalarType::Short:
    case c10::ScalarType::Int:
    case c10::ScalarType::Long:
    case c10::ScalarType::Half:
    case c10::ScalarType::Float:
    case c10::ScalarType::Double:
    case c10::ScalarType::ComplexHalf:
    case c10::ScalarType::ComplexFloat:
    case c10::ScalarType::ComplexDouble:
    case c10::ScalarType::Bool:
    case c10::ScalarType::QInt8:
    case c10::ScalarType::QUInt8:
    case c10::ScalarType::QInt32:
    case c10::ScalarType::BFloat16:
    case c10::ScalarType::Float8_e5m2:
    case c10::ScalarType::Float8_e4m3fn:
    case c10::ScalarType::Float8_e5m2fnuz:
    case c10::ScalarType::Float8_e4m3fnuz:
    case c10::ScalarType::Float8_e8m0fnu:
    case c10::ScalarType::UInt16:
    case c10::ScalarType::UInt32:
    case c10::ScalarType::UInt64: return true;
    default:  // c10's enumeration, not ours: sub-byte and placeholder types have no CPU kernels
      return false;
  }
}

bool span_of(std::span<const int64_t> sizes, std::span<const int64_t> strides, size_t item, uint64_t& bytes, int64_t& numel) {
  numel = 1;
  int64_t last = 0;  // index of the last element
  bool empty = false;
  for (size_t i = 0; i < sizes.size(); i++) {
    if (sizes[i] < 0 || strides[i] < 0) return false;
    empty |= sizes[i] == 0;
  }
  bytes = 0;
  if (empty) return numel = 0, true;
  for (size_t i = 0; i < sizes.size(); i++) {
    int64_t step;
    if (__builtin_mul_overflow(numel, sizes[i], &numel) || __builtin_mul_overflow(sizes[i] - 1, strides[i], &step) ||
        __builtin_add_overflow(last, step, &last))
      return false;
  }
  uint64_t elements = static_cast<uint64_t>(last) + 1;
  return !__builtin_mul_overflow(elements, item, &bytes);
}

namespace {

// A zero tensor has a shape and no memory. Here it gets one real zero with strides of 0: no kernel can then trip over a null pointer.
at::Tensor zeros_of(const Interned& t) {
  auto one =
      at::detail::make_tensor<c10::TensorImpl>(c10::Storage(c10::Storage::use_byte_size_t(), c10::elementSize(t.dtype), c10::GetCPUAllocator(), true),
                                               c10::DispatchKeySet(c10::DispatchKey::CPU), c10::scalarTypeToTypeMeta(t.dtype));
  std::memset(one.unsafeGetTensorImpl()->unsafe_storage().mutable_data(), 0, c10::elementSize(t.dtype));
  c10::SmallVector<int64_t, 4> strides(t.sizes.size(), 0);
  one.unsafeGetTensorImpl()->set_sizes_and_strides(t.sizes, strides);
  return one;
}

}  // namespace

void TensorTable::rebuild(Interned& t) {
  c10::InferenceMode no_autograd;
  if (t.flags & wire::op::kZeroTensor) {
    t.tensor = zeros_of(t);
    return;
  }
  // R5: resizable with the CPU's allocator: a kernel that insists on another shape gets fresh memory instead of an exception, and placing decides.
  auto data = c10::DataPtr(reinterpret_cast<void*>(t.address), c10::Device(c10::kCPU));
  auto storage = c10::Storage(c10::Storage::use_byte_size_t(), t.storage_bytes, std::move(data), c10::GetCPUAllocator(), true);
  t.tensor =
      at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU), c10::scalarTypeToTypeMeta(t.dtype));
  auto* impl = t.tensor.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(t.sizes, t.strides, t.offset);
  if (t.flags & wire::op::kWrappedNumber) impl->set_wrapped_number(true);
  if (t.flags & wire::op::kConjugate) t.tensor._set_conj(true);
  if (t.flags & wire::op::kNegative) t.tensor._set_neg(true);
}

bool TensorTable::moved(const Interned& t) const {
  const auto* impl = t.tensor.unsafeGetTensorImpl();
  if (t.flags & wire::op::kZeroTensor) return false;
  return reinterpret_cast<uint64_t>(impl->unsafe_storage().data()) != t.address || impl->sizes() != c10::IntArrayRef(t.sizes) ||
         impl->strides() != c10::IntArrayRef(t.strides) || impl->storage_offset() != t.offset;
}

bool TensorTable::check(Interned& t, uint64_t epoch) {
  if (t.storage_bytes && !memory_live(t.address, t.storage_bytes)) return false;
  t.checked = epoch + 1;
  return true;
}

const char* TensorTable::define(std::span<const std::byte> payload) {
  using namespace wire::op;
  wire::Reader in(payload);
  auto d = in.get<TensorDefine>();
  if (!in.ok()) return "tensor_define is too short";
  if (d.id >= wire::kTensorIdsMax) return "tensor id beyond kTensorIdsMax";
  if (d.rank > wire::kRankMax) return "tensor rank beyond kRankMax";
  if (!known_dtype(d.dtype)) return "tensor of a dtype that the CPU has not";
  constexpr uint16_t kKnown = kWrappedNumber | kConjugate | kNegative | kZeroTensor | kQuantized;
  if (d.flags & ~kKnown) return "tensor with unknown flags";
  if (in.left() != size_t{d.rank} * 16) return "tensor_define's size does not fit its rank";
  Interned t;
  t.dtype = static_cast<c10::ScalarType>(d.dtype);
  if (c10::isQIntType(t.dtype) != bool(d.flags & kQuantized)) return "quantized dtype and flag do not agree";
  if ((d.flags & kConjugate) && !c10::isComplexType(t.dtype)) return "conjugate bit on a dtype that is not complex";
  t.flags = d.flags;
  t.address = d.flags & kZeroTensor ? 0 : d.address;
  t.storage_bytes = d.flags & kZeroTensor ? 0 : d.storage_bytes;
  t.offset = d.offset;
  t.sizes.resize(d.rank);
  t.strides.resize(d.rank);
  for (auto& s : t.sizes) s = in.get<int64_t>();
  for (auto& s : t.strides) s = in.get<int64_t>();
  uint64_t span, start, item = c10::elementSize(t.dtype);
  if (!span_of({t.sizes.data(), t.sizes.size()}, {t.strides.data(), t.strides.size()}, item, span, t.numel) || d.offset < 0 ||
      __builtin_mul_overflow(static_cast<uint64_t>(d.offset), item, &start))
    return "tensor with a negative or overflowing shape";
  uint64_t end, storage_end;
  if (__builtin_add_overflow(t.address, t.storage_bytes, &storage_end)) return "tensor whose storage wraps around";
  if (!(d.flags & kZeroTensor) && span) {
    if (__builtin_add_overflow(start, span, &end) || end > t.storage_bytes) return "tensor that reaches beyond its storage";
    if (t.address % std::min<uint64_t>(item, 8)) return "tensor at an address that does not fit its dtype";
    t.low = t.address + start;
    t.high = t.low + span;
  }
  rebuild(t);
  if (slots_.size() <= d.id) slots_.resize(std::min<size_t>(std::bit_ceil(size_t{d.id} + 1024), wire::kTensorIdsMax));
  slots_[d.id] = std::move(t);
  return nullptr;
}

const char* TensorTable::forget(std::span<const std::byte> payload) {
  wire::Reader in(payload);
  auto bytes = in.get_bytes(uint64_t{wire::kTensorIdsMax} * 4);
  if (!in.finished() || bytes.size() % 4) return "tensor_forget is malformed";
  for (size_t i = 0; i < bytes.size(); i += 4) {
    uint32_t id;
    std::memcpy(&id, bytes.data() + i, 4);
    if (id >= slots_.size() || !slots_[id].tensor.defined()) return "tensor_forget of a tensor that is not defined";
    slots_[id].tensor = at::Tensor();
  }
  return nullptr;
}

}  // namespace djinn::aten

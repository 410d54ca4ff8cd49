// See tensors.hpp.
#include "semantic/graph/tensors.hpp"

#include <algorithm>
#include <bit>

#include "semantic/wire/codec.hpp"
#include "semantic/wire/limits.hpp"
#include "semantic/wire/op.hpp"

namespace djinn::graph {

namespace {

constexpr size_t kStorageSlotsAtFirst = 1 << 10;

// c10::ScalarType, whose numbers are stable. 0: none that a tensor on a device has; sub-byte types count as a byte.
uint32_t item_bytes(uint8_t dtype) {
  static constexpr uint8_t kBytes[] = {1, 1, 2, 4, 8, 2, 4, 8, 4, 8, 16, 1, 1, 1, 4, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 2, 4, 8};
  return dtype < std::size(kBytes) ? kBytes[dtype] : 1;  // the newer ones: one byte and less
}

}  // namespace

// A tensor without elements may have any other sizes.
bool read_shape(wire::Reader& in, uint32_t rank, Shape& shape) {
  bool fits = true, empty = false;
  shape.elements = 1;
  for (; rank; rank--) {
    auto size = in.get<int64_t>();
    if (size < 0) return false;
    shape.push(static_cast<uint64_t>(size));
    empty |= !size;
    fits &= !__builtin_mul_overflow(shape.elements, static_cast<uint64_t>(size), &shape.elements);
  }
  if (empty) shape.elements = 0;
  return fits || empty;
}

bool Tensors::define(std::span<const std::byte> payload) {
  wire::Reader in(payload);
  auto d = in.get<wire::op::TensorDefine>();
  if (!in.ok() || d.id >= wire::kTensorIdsMax || d.rank > wire::kRankMax || in.left() != size_t{d.rank} * 16) return false;
  if (d.id < tensors_.size()) tensors_[d.id].defined = false;  // whatever comes now, it is not what it was
  Tensor t;
  t.item_bytes = item_bytes(d.dtype);
  bool fits = read_shape(in, d.rank, t.shape) && !__builtin_mul_overflow(t.shape.elements, uint64_t{t.item_bytes}, &t.bytes);
  if (!fits) return false;
  t.bytes = std::min(t.bytes, d.storage_bytes);  // less than its elements when it is expanded
  t.address = d.flags & wire::op::kZeroTensor ? 0 : d.address;
  t.defined = true;
  if (tensors_.size() <= d.id) tensors_.resize(std::min<size_t>(std::bit_ceil(size_t{d.id} + 1024), wire::kTensorIdsMax));
  tensors_[d.id] = t;
  return true;
}

bool Tensors::forget(std::span<const std::byte> payload) {
  wire::Reader in(payload);
  auto bytes = in.get_bytes(uint64_t{wire::kTensorIdsMax} * 4);
  if (!in.finished() || bytes.size() % 4) return false;
  for (size_t i = 0; i < bytes.size(); i += 4) {
    uint32_t id;
    std::memcpy(&id, bytes.data() + i, 4);
    if (id < tensors_.size()) tensors_[id].defined = false;
  }
  return true;
}

Storages::Storages() : slots_(kStorageSlotsAtFirst) {}

Storage& Storages::slot(uint64_t address) {
  size_t i = address * 0x9e3779b97f4a7c15u >> (64 - std::countr_zero(slots_.size()));
  while (slots_[i].address && slots_[i].address != address) i = (i + 1) & (slots_.size() - 1);
  return slots_[i];
}

Storage& Storages::at(uint64_t address) {
  Storage* s = &slot(address);
  if (s->address) return *s;
  if (2 * (used_ + 1) > slots_.size()) {
    make_room();
    s = &slot(address);
  }
  ++used_;
  s->address = address;
  return *s;
}

// Twice as many; at the limit what the program has named is kept, and of the rest (or of all, if it has named too much) nothing.
void Storages::make_room() {
  std::vector<Storage> old(std::min(2 * slots_.size(), kStorageSlotsMax));
  old.swap(slots_);
  bool grown = old.size() < slots_.size();
  size_t named = static_cast<size_t>(std::count_if(old.begin(), old.end(), [](const Storage& s) { return s.address && s.named; }));
  used_ = 0;
  for (const Storage& s : old) {
    if (!s.address || (!grown && !(s.named && named <= slots_.size() / 4))) continue;
    slot(s.address) = s;
    ++used_;
  }
}

}  // namespace djinn::graph

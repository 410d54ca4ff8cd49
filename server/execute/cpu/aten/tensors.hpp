// Interned tensors: the client describes a tensor once (tensor_define) and names it by id afterwards; here the built TensorImpl waits under that id.
// Mirrors hooks/torch/encode's interning table. Memory is checked at use, not at definition: a definition may outlive its memory, and the check is
// cached until the session's memory epoch changes.
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/util/SmallVector.h>

#include <cstdint>
#include <span>
#include <vector>

#include "semantic/abi/executor.h"
#include "semantic/wire/op.hpp"

namespace djinn::aten {

struct Interned {
  at::Tensor tensor;  // undefined: this id is free
  uint64_t address = 0, storage_bytes = 0;
  uint64_t low = 0, high = 0;  // bytes that its elements span; equal when it has none
  uint64_t checked = 0;        // memory epoch + 1 of the last successful check
  c10::ScalarType dtype = c10::ScalarType::Undefined;
  uint16_t flags = 0;
  int64_t offset = 0;
  c10::SmallVector<int64_t, 4> sizes, strides;

  bool has_elements() const { return high > low; }
  // Elements that lie side by side without holes or overlap, in whatever order.
  bool dense() const { return high - low == static_cast<uint64_t>(numel) * c10::elementSize(dtype); }
  int64_t numel = 0;
  bool same(const Interned& o) const {
    return address == o.address && storage_bytes == o.storage_bytes && dtype == o.dtype && flags == o.flags && offset == o.offset &&
           sizes == o.sizes && strides == o.strides;
  }
};

class TensorTable {
 public:
  using Slots = std::vector<Interned>;
  explicit TensorTable(const djinn_executor_host& host) : host_(host) {}

  // Payload of tensor_define and tensor_forget. Null, or what is wrong with it.
  const char* define(std::span<const std::byte> payload);
  const char* forget(std::span<const std::byte> payload);

  // Null when no such tensor is defined.
  Interned* find(uint32_t id) { return id < slots_.size() && slots_[id].tensor.defined() ? &slots_[id] : nullptr; }
  // Is its whole storage inside live memory of the session?
  bool live(Interned& t, uint64_t epoch) { return t.checked == epoch + 1 || check(t, epoch); }
  // Did a kernel give the tensor other storage or another shape (an in-place or out= argument that it resized)?
  bool moved(const Interned& t) const;
  // Builds the TensorImpl anew from the description.
  static void rebuild(Interned& t);
  bool memory_live(uint64_t address, uint64_t bytes) const { return host_.memory_live(host_.session, address, bytes); }
  uint64_t epoch() const { return host_.memory_epoch(host_.session); }
  void clear() { slots_.clear(); }
  void swap(Slots& other) { slots_.swap(other); }

 private:
  bool check(Interned& t, uint64_t epoch);

  const djinn_executor_host& host_;
  Slots slots_;
};

// Is this a dtype that may travel (not a placeholder of libtorch's enumeration)?
bool known_dtype(unsigned dtype);
// Bytes that the elements of such a tensor span, 0 without elements; false when it overflows or a size or stride is negative.
bool span_of(std::span<const int64_t> sizes, std::span<const int64_t> strides, size_t item, uint64_t& bytes, int64_t& numel);

}  // namespace djinn::aten

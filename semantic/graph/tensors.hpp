// What the graph knows of memory: the tensors that the wire describes by id, and, by the address of its first byte, who wrote a storage last and
// whose it is. Both are bounded; both find their entry without allocating.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "semantic/graph/cost.hpp"
#include "semantic/graph/vocabulary.hpp"
#include "semantic/wire/codec.hpp"

namespace djinn::graph {

// Slots for storages, half of which are used (10 MiB): a program has as many storages as its allocator has blocks, some ten thousand.
constexpr size_t kStorageSlotsMax = 1 << 18;

// An op of a module: a node of the graph without its phase. 0 = none.
using Site = uint64_t;

// When and as what an op ran. A forward step's phase is known when it is over.
struct Moment {
  uint32_t step = 0;
  ExecutionPhase phase = ExecutionPhase::other;
};

struct Tensor {
  Shape shape;
  uint64_t address = 0;  // of its storage
  uint64_t bytes = 0;    // that its elements take; no more than the storage has
  uint32_t item_bytes = 1;
  bool defined = false;
};

// `rank` sizes, as tensor_define and the answer of a query have them. False: negative, or more elements than numbers.
bool read_shape(wire::Reader& in, uint32_t rank, Shape& shape);

class Tensors {
 public:
  // Payloads of tensor_define and tensor_forget; false when malformed, and then nothing has changed, but that an id whose new description is not
  // understood has none.
  bool define(std::span<const std::byte> payload);
  bool forget(std::span<const std::byte> payload);
  // Null: there is none.
  const Tensor* find(uint32_t id) const { return id < tensors_.size() && tensors_[id].defined ? &tensors_[id] : nullptr; }

 private:
  std::vector<Tensor> tensors_;
};

struct Storage {
  uint64_t address = 0;  // 0: a free slot
  uint64_t written_at = 0;
  Site writer = 0;
  Moment when;
  DataResidency residency = DataResidency::other;
  bool named = false;  // the program said whose it is, and nothing else shows it
};

class Storages {
 public:
  Storages();
  // The storage at an address other than 0; one that nothing is known of comes to life.
  Storage& at(uint64_t address);
  size_t size() const { return used_; }

 private:
  Storage& slot(uint64_t address);
  void make_room();
  std::vector<Storage> slots_;  // open addressing; a power of two, at most half of them used
  size_t used_ = 0;
};

}  // namespace djinn::graph

// See library.hpp. Objects live in a table of chunks that only grows, so that finding one is two loads and takes no lock; a lock is taken to create
// and destroy. Using a handle in one thread while another destroys it is as undefined as with NVIDIA's libraries.
#include "interpose/entry/library.hpp"

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>

namespace djinn::library {

namespace {

// 2^20 objects alive at once (PyTorch has some ten), and 2^10 generations of each slot: together 30 bits, a positive int.
constexpr uint32_t kIndexBits = 20, kGenerationBits = 10, kChunkBits = 10;
constexpr uint32_t kChunks = 1u << (kIndexBits - kChunkBits), kChunkSlots = 1u << kChunkBits;

struct Slot {
  std::atomic<Object*> object{nullptr};
  std::atomic<uint32_t> generation{0};
};

class Table {
 public:
  uint64_t insert(std::unique_ptr<Object> object) {
    std::lock_guard hold(lock_);
    uint32_t index;
    if (!free_.empty()) {
      index = free_.back();
      free_.pop_back();
    } else {
      index = next_;
      if (index >> kIndexBits) return 0;
      ++next_;
      std::atomic<Slot*>& chunk = chunks_[index >> kChunkBits];
      if (!chunk.load(std::memory_order_relaxed)) chunk.store(new Slot[kChunkSlots], std::memory_order_release);
    }
    Slot& slot = chunks_[index >> kChunkBits].load(std::memory_order_relaxed)[index & (kChunkSlots - 1)];
    uint32_t generation = (slot.generation.load(std::memory_order_relaxed) + 1) & ((1u << kGenerationBits) - 1);
    slot.generation.store(generation, std::memory_order_relaxed);
    slot.object.store(object.release(), std::memory_order_release);
    return static_cast<uint64_t>(generation) << kIndexBits | index;
  }
  Object* find(uint64_t id, uint32_t kind) {
    Slot* slot = slot_of(id);
    Object* object = slot ? slot->object.load(std::memory_order_acquire) : nullptr;
    return object && slot->generation.load(std::memory_order_relaxed) == id >> kIndexBits && object->kind == kind ? object : nullptr;
  }
  bool erase(uint64_t id, uint32_t kind) {
    std::lock_guard hold(lock_);
    std::unique_ptr<Object> object(find(id, kind));
    if (!object) return false;
    slot_of(id)->object.store(nullptr, std::memory_order_release);
    free_.push_back(static_cast<uint32_t>(id) & ((1u << kIndexBits) - 1));
    return true;
  }

 private:
  Slot* slot_of(uint64_t id) {
    if (id >> (kIndexBits + kGenerationBits)) return nullptr;
    uint32_t index = static_cast<uint32_t>(id) & ((1u << kIndexBits) - 1);
    Slot* chunk = chunks_[index >> kChunkBits].load(std::memory_order_acquire);
    return chunk ? &chunk[index & (kChunkSlots - 1)] : nullptr;
  }
  std::mutex lock_;
  std::atomic<Slot*> chunks_[kChunks]{};
  std::vector<uint32_t> free_;
  uint32_t next_ = 1;  // no handle is null
};

// Never destroyed: libraries call us from their own destructors at exit.
Table& table() {
  static Table* t = new Table;
  return *t;
}

}  // namespace

uint64_t insert(Object* object) { return table().insert(std::unique_ptr<Object>(object)); }
Object* find(uint64_t id, uint32_t kind) { return table().find(id, kind); }
bool erase(uint64_t id, uint32_t kind) { return table().erase(id, kind); }

const Function* find_function(std::string_view name) {
  auto all = functions();
  auto at = std::lower_bound(all.begin(), all.end(), name, [](const Function& f, std::string_view n) { return f.name < n; });
  return at != all.end() && at->name == name ? &*at : nullptr;
}

bool dropped(const char* name) {
  Work work = begin_work(name);
  return work == Work::drop || work == Work::scoped;
}

uint64_t stream_id(const void* stream) {
  uint64_t id = reinterpret_cast<uint64_t>(stream);
  return stream == cudaStreamLegacy || stream == cudaStreamPerThread ? 0 : id;
}

}  // namespace djinn::library

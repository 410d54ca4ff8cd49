// See host_memory.hpp.
#include "interpose/shadow/host_memory.hpp"

#include <sys/mman.h>

#include <map>
#include <shared_mutex>

#include "interpose/batch/session.hpp"
#include "interpose/shadow/device.hpp"

namespace djinn {

namespace {
constexpr size_t kPage = 4096;
struct Block {
  size_t bytes;
  bool ours;  // allocated, not registered
  int device;
};
struct Blocks {
  std::shared_mutex mutex;
  std::map<uintptr_t, Block> map;
  std::atomic<Ticket> last_use{0};
};
Blocks& blocks() {
  static Blocks* b = new Blocks;
  return *b;
}

cudaError_t drop(void* p, bool ours, cudaError_t unknown) {
  Blocks& b = blocks();
  auto* s = session();
  if (s) s->log.wait_executed(b.last_use);
  std::unique_lock lock(b.mutex);
  auto i = b.map.find(reinterpret_cast<uintptr_t>(p));
  if (i == b.map.end() || i->second.ours != ours) return unknown;
  // of a lost session the link may still read what was sent by reference: such memory is not given back
  if (ours && !(s && s->log.lost())) munmap(p, i->second.bytes);
  b.map.erase(i);
  return cudaSuccess;
}
}  // namespace

cudaError_t allocate_pinned(void** p, size_t bytes) {
  *p = nullptr;
  if (!bytes) return cudaSuccess;
  size_t n = (bytes + kPage - 1) / kPage * kPage;
  void* at = n < bytes ? MAP_FAILED : mmap(nullptr, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return cudaErrorMemoryAllocation;
  std::unique_lock lock(blocks().mutex);
  blocks().map[reinterpret_cast<uintptr_t>(at)] = {n, true, current_device()};
  *p = at;
  return cudaSuccess;
}

cudaError_t free_pinned(void* p) { return p ? drop(p, true, cudaErrorInvalidValue) : cudaSuccess; }

cudaError_t register_pinned(void* p, size_t bytes) {
  if (!p || !bytes) return cudaErrorInvalidValue;
  if (is_pinned(p, 1)) return cudaErrorHostMemoryAlreadyRegistered;
  std::unique_lock lock(blocks().mutex);
  blocks().map[reinterpret_cast<uintptr_t>(p)] = {bytes, false, current_device()};
  return cudaSuccess;
}

cudaError_t unregister_pinned(void* p) { return drop(p, false, cudaErrorHostMemoryNotRegistered); }

// The block that holds [p, p + bytes).
static std::optional<Block> find(const void* p, size_t bytes) {
  std::shared_lock lock(blocks().mutex);
  auto next = blocks().map.upper_bound(reinterpret_cast<uintptr_t>(p));
  if (next == blocks().map.begin()) return std::nullopt;
  auto& [begin, block] = *std::prev(next);
  size_t offset = reinterpret_cast<uintptr_t>(p) - begin;
  return offset < block.bytes && bytes <= block.bytes - offset ? std::optional(block) : std::nullopt;
}

bool is_pinned(const void* p, size_t bytes) { return find(p, bytes).has_value(); }

std::optional<int> pinned_device(const void* p) {
  auto block = find(p, 1);
  return block ? std::optional(block->device) : std::nullopt;
}

void pinned_in_use(Ticket t) {
  Ticket seen = blocks().last_use;
  while (seen < t && !blocks().last_use.compare_exchange_weak(seen, t)) {}
}

}  // namespace djinn

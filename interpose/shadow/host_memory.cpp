// See host_memory.hpp.
#include "interpose/shadow/host_memory.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <map>
#include <shared_mutex>

#include "interpose/batch/session.hpp"
#include "interpose/shadow/device.hpp"
#include "interpose/shadow/recorder.hpp"

namespace djinn {

namespace {
constexpr size_t kPage = 4096;
struct Block {
  size_t bytes;
  bool ours;  // allocated, not registered
  int device;
  Ticket written = 0;  // of the last download into it
};
struct Blocks {
  std::shared_mutex mutex;
  std::map<uintptr_t, Block> map;
  std::atomic<Ticket> last_use{0}, last_written{0};

  // The block that holds [p, p + bytes).
  Block* find(const void* p, size_t bytes) {
    auto next = map.upper_bound(reinterpret_cast<uintptr_t>(p));
    if (next == map.begin()) return nullptr;
    auto& [begin, block] = *std::prev(next);
    size_t offset = reinterpret_cast<uintptr_t>(p) - begin;
    return offset < block.bytes && bytes <= block.bytes - offset ? &block : nullptr;
  }
};
Blocks& blocks() {
  static Blocks* b = new Blocks;
  return *b;
}

cudaError_t drop(void* p, bool ours, cudaError_t unknown) {
  Blocks& b = blocks();
  auto* s = session();
  recorder::Entry entry(ours ? "cudaFreeHost" : "cudaHostUnregister");
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

bool is_pinned(const void* p, size_t bytes) {
  std::shared_lock lock(blocks().mutex);
  return blocks().find(p, bytes) != nullptr;
}

std::optional<int> pinned_device(const void* p) {
  std::shared_lock lock(blocks().mutex);
  Block* b = blocks().find(p, 1);
  return b ? std::optional(b->device) : std::nullopt;
}

static void raise_to(std::atomic<Ticket>& latest, Ticket t) {
  Ticket seen = latest;
  while (seen < t && !latest.compare_exchange_weak(seen, t)) {}
}

void pinned_in_use(Ticket t) { raise_to(blocks().last_use, t); }

void pinned_written(const void* p, Ticket t) {
  pinned_in_use(t);
  raise_to(blocks().last_written, t);
  std::unique_lock lock(blocks().mutex);
  if (Block* b = blocks().find(p, 1)) b->written = std::max(b->written, t);
}

void await_downloads(const void* p) {
  auto* s = session();
  if (!s || s->log.executed(blocks().last_written)) return;
  Ticket t = 0;
  {
    std::shared_lock lock(blocks().mutex);
    if (Block* b = blocks().find(p, 1)) t = b->written;
  }
  s->log.wait_executed(t);
}

}  // namespace djinn

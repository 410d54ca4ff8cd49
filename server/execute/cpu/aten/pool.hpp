// The CPU allocator of the worker's process. Two things that c10's own does not do: *placement*, so that the next allocation of the right size
// during an op returns the address that the client gave its output (no copy afterwards; 286 of 302 outputs of a GPT-2 step), and free lists by size
// class, so that temporaries stop costing page faults.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace djinn::aten {

struct Slot {
  void* address;
  size_t bytes;
  bool used;
};

// Makes ours the process's CPU allocator (once). `low` and `high` bound the session's arena: memory in there is never freed by an allocator.
void install_allocator(uint64_t low, uint64_t high);
// Free lists of this thread; other threads (OpenMP's) allocate plainly.
void adopt_pool();
void release_pool();

// While it lives, allocations of this thread whose size equals a free slot's take that slot.
class Placement {
 public:
  explicit Placement(std::vector<Slot>* slots);
  ~Placement();
  Placement(const Placement&) = delete;
  Placement& operator=(const Placement&) = delete;
};

struct PoolCounters {
  uint64_t placed, reused, fresh;
};
PoolCounters pool_counters();  // of this thread

}  // namespace djinn::aten

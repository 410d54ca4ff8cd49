// The client's own counters: what a step costs in messages, bytes and round trips. Read by the final line, by benches and by tests through the
// exported `djinn_client_counters` (tests/counters.py mirrors the layout). Relaxed: each is exact, together they are a snapshot.
#pragma once
#include <atomic>
#include <cstdint>

namespace djinn {

struct CountersBlock {  // what djinn_client_counters fills; `size` is the caller's sizeof and must match
  uint64_t size, ops, cache_hits, aborted, server_first, calls, posted, frames, bytes, round_trips, stalls, stall_nanoseconds, dropped,
      entry_launches;
};

struct Counters {
  std::atomic<uint64_t> ops{0}, cache_hits{0}, aborted{0}, server_first{0};
  std::atomic<uint64_t> calls{0};                         // library calls and launches sent
  std::atomic<uint64_t> posted{0};                        // records
  std::atomic<uint64_t> frames{0}, bytes{0};              // data messages sent, with their bulk parts
  std::atomic<uint64_t> round_trips{0};                   // waits for the server that the program asked for
  std::atomic<uint64_t> stalls{0}, stall_nanoseconds{0};  // blocked on the credit window
  std::atomic<uint64_t> dropped{0};                       // device work dropped in op scopes
  std::atomic<uint64_t> entry_launches{0};                // launches seen at the entry points, whatever became of them
};
Counters& counters();

inline void count(std::atomic<uint64_t>& c, uint64_t n = 1) { c.fetch_add(n, std::memory_order_relaxed); }

}  // namespace djinn

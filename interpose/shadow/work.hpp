// What the commands of the log give the device to do, in words, and when the server did it: for those who watch, a profiler (activity.hpp) and a
// recording (recorder.hpp). While nobody does, one relaxed load is all that a command pays. The server's times are by its own clock; how far that is
// ahead of ours is measured when somebody begins to watch, to within half a round trip.
#pragma once
#include <atomic>

#include "interpose/client.hpp"

namespace djinn::work {

enum Watcher : uint32_t { kProfiler = 1, kRecorder = 2 };
extern std::atomic<uint32_t> watchers;  // those who watch now
inline uint32_t watched() { return watchers.load(std::memory_order_relaxed); }
inline bool watches(Watcher who) { return watched() & who; }

enum class What : uint8_t { kernel, upload, download, copy, fill };
struct Work {
  What what = What::kernel;
  const char* name = "";  // of a kernel; kept for ever
  uint64_t bytes = 0;     // of the others
  uint64_t address = 0;   // in device memory, of the others
  uint32_t value = 0;     // of a fill
};
// False: the command gives the device nothing to do.
bool describe(uint32_t opcode, std::span<const std::byte> payload, Work& w);
// The next library call or kernel of this thread.
void name_work(const char* name);
// "aten::add", of an id that an op_define has named.
const char* op_name(uint64_t id);
// By the log, in the order of tickets: names that commands bring, whoever watches.
bool names(uint32_t opcode);
void take_name(uint32_t opcode, std::span<const std::byte> payload);

struct ServerClock {
  int64_t ahead = 0;  // nanoseconds
  uint64_t round_trip = 0;
};
// The server shall report times for this watcher, or need no longer. Who begins is told of the clock, and watches from watch() on; who ends has
// ended.
bool ask_times(Watcher who, bool on, ServerClock& clock);
inline void watch(Watcher who) { watchers.fetch_or(who); }
inline void unwatch(Watcher who) { watchers.fetch_and(~uint32_t{who}); }

uint64_t monotonic();  // nanoseconds

}  // namespace djinn::work

// What a profiler asks for (CUPTI's activity records): which calls this process made, what each gave the device to do, and when the server did it.
// Calls are stamped here; work is stamped by the server in its own clock (work.hpp) and brought onto the profiler's, and no work is said to have
// begun before it was posted. Everything is shown in one stream (7, CUDA's default one), because the device executes in one order.
#pragma once
#include <cupti.h>

#include "interpose/shadow/recorder.hpp"

namespace djinn::activity {

inline bool profiling() { return work::watches(work::kProfiler); }

// ---- what happened ----
// A traced call, from construction to the end: the commands posted meanwhile by this thread are its work, and a recording's waits ask in its name.
// `host_pinned`: of a copy.
class Call {
 public:
  explicit Call(const char* name, bool host_pinned = false) {
    if (work::watched()) begin(name, host_pinned);
  }
  ~Call() {
    if (mine_) end();
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

 private:
  void begin(const char* name, bool host_pinned);
  void end();
  std::optional<recorder::Entry> entry_;
  bool mine_ = false;
};
// By the log, in the order of tickets, while profiling.
void posted(uint32_t opcode, Ticket t, std::span<const std::byte> payload);
void timed(std::span<const wire::Timing> timings);

// ---- the profiler's side (entry/cupti.cpp) ----
void set_buffers(CUpti_BuffersCallbackRequestFunc request, CUpti_BuffersCallbackCompleteFunc complete);
void set_clock(CUpti_TimestampCallbackFunc clock);
uint64_t now();
CUptiResult enable(CUpti_ActivityKind kind, bool on);
CUptiResult enable_call(uint32_t cbid, bool on);
// Hands over what is complete; `all`: after waiting for the rest.
CUptiResult flush(bool all);
size_t take_dropped();
void push_external(CUpti_ExternalCorrelationKind kind, uint64_t id);
bool pop_external(CUpti_ExternalCorrelationKind kind, uint64_t* id);
// "cudaMemcpyAsync_v3020"; null: not a call that is traced.
const char* name_of_call(uint32_t cbid);

}  // namespace djinn::activity

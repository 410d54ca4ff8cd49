// What this process does, written to the file that DJINN_RECORD names (record.hpp): for `djinn trace` and `djinn doctor`, which read the same file.
// In the name, %p is the process's number. Events are kept in a buffer and written by whoever fills it, or twice a second; a file that cannot be
// written is one sentence, and the program goes on unrecorded. A forked child records nothing.
#pragma once
#include <optional>

#include "interpose/shadow/python_line.hpp"
#include "interpose/shadow/record.hpp"
#include "interpose/shadow/work.hpp"

namespace djinn::recorder {

inline bool recording() { return work::watches(work::kRecorder); }

// When the session is open, before its first command; when it is over; in a forked child.
void start();
void finish(bool lost);  // without its end, if the server was lost
void abandon_in_child();
// Nothing stays in the buffer longer than that.
void tick();

// ---- by the log ----
void posted(uint32_t opcode, Ticket t, std::span<const std::byte> payload, uint64_t bytes);  // in the order of tickets
void sent(Ticket first, Ticket last, uint64_t bytes);
void acknowledged(Ticket t, uint64_t bytes);
void timed(std::span<const wire::Timing> timings);
// A wait of the program's for the server, from construction to the end. Nothing may be locked at either.
class Wait {
 public:
  Wait(record::WaitKind kind, Ticket t, uint32_t opcode = 0) {
    if (recording()) noted_.emplace(begin(kind, t, opcode));
  }
  ~Wait() {
    if (noted_) end();
  }
  Wait(const Wait&) = delete;
  Wait& operator=(const Wait&) = delete;

 private:
  static record::Waited begin(record::WaitKind kind, Ticket t, uint32_t opcode);
  void end();
  struct Noted {
    explicit Noted(const record::Waited& w) : wait(w) {}
    record::Waited wait;
    python::Where where;
  };
  std::optional<Noted> noted_;
};
// It was asked for `t`, which was executed already.
void need_not_wait(Ticket t);

// ---- by entry points ----
// The entry point that this thread is in, for the waits inside: the outermost counts.
class Entry {
 public:
  explicit Entry(const char* name) {
    if (recording()) begin(name);
  }
  ~Entry() {
    if (mine_) end();
  }
  Entry(const Entry&) = delete;
  Entry& operator=(const Entry&) = delete;

 private:
  void begin(const char* name);
  void end();
  bool mine_ = false;
};
void copied(record::Direction direction, uint64_t bytes, bool pinned, bool asynchronous, const char* name);
// The op that this thread posted last was undone first.
void aborted();

}  // namespace djinn::recorder

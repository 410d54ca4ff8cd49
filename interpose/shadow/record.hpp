// The file that DJINN_RECORD names: what one process did, event by event, in the order in which it was noted. A header, then events {u32 kind, u32
// bytes, payload}; payloads are the structs below, all of 8-byte multiples, little-endian, with strings as the wire writes them ({u64 length, bytes,
// padding to 8}). Whatever has a text is defined before it is used, by number: 0 is no text. Times are nanoseconds of this process's CLOCK_MONOTONIC
// (Python's time.perf_counter_ns), those of `Worked` of the server's clock. A reader skips kinds that it does not know, and takes a torn last event
// for the end. Mirror: hooks/python/djinn/cli/_record.py.
#pragma once
#include <cstdint>

#include "semantic/wire/command.hpp"

namespace djinn::record {

constexpr uint64_t kMagic = 0x4443524e4e494a44;  // "DJINNRCD"
constexpr uint64_t kVersion = 1;

struct Header {
  uint64_t magic, version;
};
struct EventHeader {
  uint32_t kind, bytes;  // of the payload
};

enum class Kind : uint32_t {
  session = 1,       // Session, then strings: program, server's host, DJINN_LINK
  text = 2,          // Text, then the string
  context = 3,       // Context
  place = 4,         // Place
  stack = 5,         // Stack, then its places (u64 each), innermost first
  posted = 6,        // Posted
  copied = 7,        // Copied: one call of the program, which may be several commands
  sent = 8,          // Sent: a frame leaves
  acknowledged = 9,  // Acknowledged: a report arrives
  worked = 10,       // Worked: one command, by the server's clock
  waited = 11,       // Waited
  aborted = 12,      // Aborted: an op whose original kernel asked for a device value, and was undone
  step = 13,         // Step
  thread = 14,       // Thread, then its name
  end = 15,          // End: the last event of a process that ended in order
};

struct Session {
  uint64_t time, unix_nanoseconds;
  int64_t server_ahead;  // of our clock
  uint64_t round_trip;   // the quickest of a few at the session's opening: an emulated one included
  uint64_t pid, server_threads;
  uint64_t credit_tickets, credit_bytes;
  uint64_t idle_flush;  // 0 or 1
};
struct Text {
  uint64_t number;
};
struct Context {
  uint64_t id, phase;  // graph::ExecutionPhase
  uint64_t module, label;
};
struct Place {
  uint64_t number, file, function, line;
};
struct Stack {
  uint64_t number;
};
struct Posted {
  uint64_t ticket, time;
  uint32_t thread, opcode;
  uint32_t name, module;   // texts; name 0: nothing for the device to do. Of a meaning_op: the op whose calls follow
  uint32_t context, step;  // 0: not given
  uint64_t bytes;          // with its record's header and its bulk
};
enum class Direction : uint32_t { to_device = 0, to_host = 1, on_device = 2 };
struct Copied {
  uint64_t time, bytes;
  uint32_t thread, name, module, stack;
  Direction direction;
  uint32_t pinned, asynchronous, reserved;  // 0 or 1; pinned: the host's side
  uint64_t looking;                         // nanoseconds that the recording itself took then
};
struct Sent {
  uint64_t time, first, last, bytes;
};
struct Acknowledged {
  uint64_t time, ticket, bytes;  // everything up to the ticket has been executed
};
struct Worked {
  uint64_t ticket, begin, end;
};
enum class WaitKind : uint32_t {
  executed = 0,  // until a ticket is executed
  reply = 1,     // until its reply is here
  credit = 2,    // a stall: until a post fits into the window
  none = 3,      // asked for, but the ticket was executed already
};
struct Waited {
  uint64_t begin, end, ticket;
  uint32_t thread;
  WaitKind kind;
  uint32_t name, module;   // texts; name: the entry point, or the op whose reply it is
  uint32_t opcode, stack;  // opcode of a reply's command, else 0; stack 0: not known
  uint64_t looking;        // nanoseconds that the recording itself took after the end
};
struct Aborted {
  uint64_t time;
  uint32_t thread, name, why, module;  // texts
  uint32_t stack, reserved;
  uint64_t looking;
};
struct Step {
  uint64_t time, step, phase, queries, keys;
};
struct Thread {
  uint64_t thread;
};
struct End {
  uint64_t time, ops, aborted, server_first, round_trips, stalls, posted, frames, bytes;
};

static_assert(wire::kWireLayout<Header, EventHeader, Session, Text, Context, Place, Stack, Posted, Copied, Sent, Acknowledged, Worked, Waited,
                                Aborted, Step, Thread, End>);

}  // namespace djinn::record

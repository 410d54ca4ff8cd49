// Streams and events as the client keeps them: ids that it mints, and for each event the ticket of its last record. Whether an event is complete is
// answered from the acknowledgements that have arrived; times come with reports. Mirror: server/decode/stream.cpp, event.cpp.
#pragma once
#include <optional>

#include "interpose/client.hpp"

namespace djinn {

struct EventState {
  bool timed = true;
  bool interprocess = false;  // other processes may know of it: recording waits (entry/ipc.cpp)
  int device = 0;             // that was current when it was created
  Ticket recorded = 0;        // 0 = never
  uint64_t nanoseconds = 0;   // of that record, once reported
  Ticket timed_ticket = 0;    // the record that `nanoseconds` belongs to
  uint64_t captured = 0;      // last recorded in this capture, not in a stream's work (shadow/graph.hpp); 0 = no
};

uint64_t create_event(bool timed, bool interprocess = false);
std::optional<EventState> event_state(uint64_t id);
bool destroy_event(uint64_t id);
bool event_recorded(uint64_t id, Ticket t);
void event_captured(uint64_t id, uint64_t capture);
void event_done(const wire::EventDone& e);

struct StreamState {
  unsigned flags = 0;
  int priority = 0;
  int device = -1;  // that was current when it was created; -1: a default stream, which every device has
  int device_or(int current) const { return device < 0 ? current : device; }
};
uint64_t create_stream(unsigned flags, int priority);
std::optional<StreamState> stream_state(uint64_t id);
bool destroy_stream(uint64_t id);

}  // namespace djinn

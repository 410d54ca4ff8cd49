// See event.hpp.
#include "interpose/shadow/event.hpp"

#include <mutex>
#include <unordered_map>

#include "interpose/shadow/device.hpp"

namespace djinn {

namespace {
// One id space for streams and events, far from 0, 1 and 2 (the default streams) and from anything that looks like memory.
struct Tables {
  std::mutex mutex;
  uint64_t next = 0x10010;
  std::unordered_map<uint64_t, EventState> events;
  std::unordered_map<uint64_t, StreamState> streams{{0, {}}, {1, {}}, {2, {}}};
  uint64_t mint() { return next += 16; }
};
Tables& tables() {
  static Tables* t = new Tables;
  return *t;
}

template <class Map>
auto find(Map Tables::*map, uint64_t id) -> std::optional<typename Map::mapped_type> {
  std::lock_guard lock(tables().mutex);
  auto& m = tables().*map;
  auto i = m.find(id);
  return i == m.end() ? std::nullopt : std::optional(i->second);
}
}  // namespace

uint64_t create_event(bool timed, bool interprocess) {
  std::lock_guard lock(tables().mutex);
  uint64_t id = tables().mint();
  tables().events[id] = {.timed = timed, .interprocess = interprocess, .device = current_device()};
  return id;
}

std::optional<EventState> event_state(uint64_t id) { return find(&Tables::events, id); }

bool destroy_event(uint64_t id) {
  std::lock_guard lock(tables().mutex);
  return tables().events.erase(id) != 0;
}

bool event_recorded(uint64_t id, Ticket t) {
  std::lock_guard lock(tables().mutex);
  auto i = tables().events.find(id);
  if (i == tables().events.end()) return false;
  i->second.recorded = t;
  i->second.captured = 0;
  return true;
}

void event_captured(uint64_t id, uint64_t capture) {
  std::lock_guard lock(tables().mutex);
  if (auto i = tables().events.find(id); i != tables().events.end()) i->second.captured = capture;
}

void event_done(const wire::EventDone& e) {
  std::lock_guard lock(tables().mutex);
  auto i = tables().events.find(e.event);
  if (i == tables().events.end() || e.ticket < i->second.timed_ticket) return;
  i->second.nanoseconds = e.nanoseconds;
  i->second.timed_ticket = e.ticket;
}

uint64_t create_stream(unsigned flags, int priority) {
  std::lock_guard lock(tables().mutex);
  uint64_t id = tables().mint();
  tables().streams[id] = {flags, priority, current_device()};
  return id;
}

std::optional<StreamState> stream_state(uint64_t id) { return find(&Tables::streams, id); }

bool destroy_stream(uint64_t id) {
  std::lock_guard lock(tables().mutex);
  return id > 2 && tables().streams.erase(id) != 0;
}

}  // namespace djinn

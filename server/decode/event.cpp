// Events. Being executed is being complete, which the acknowledgement says; a timed event also reports the device's clock.
#include "server/decode/decode.hpp"

namespace djinn::server::decode {

Failure event_record(Session& s, const Command& c) {
  wire::EventRecord m;
  if (!read_all(c, m) || m.timed > 1) return malformed("event_record");
  if (!s.known_stream(m.stream)) return unknown_handle("event_record", "stream", m.stream);
  if (m.event == 0) return invalid("event_record", "event 0");
  if (s.events.size() >= kEventsMax && !s.events.count(m.event))
    return {cuda_error::memory_allocation, wire::ErrorClass::refused, "event_record", "too many events"};
  if (s.adding()) return {};
  uint64_t now = s.device().timestamp(m.stream);
  s.events[m.event] = now;
  if (m.timed) s.report().event_done({m.event, c.ticket, now});
  return {};
}

// An event that was created and never recorded is unknown here, and its end is nothing.
Failure event_destroy(Session& s, const Command& c) {
  wire::Handle m;
  if (!read_all(c, m)) return malformed("event_destroy");
  s.events.erase(m.id);
  return {};
}

}  // namespace djinn::server::decode

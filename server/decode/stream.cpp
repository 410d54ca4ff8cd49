// Streams and events. The client mints the ids; the device's order is the order of tickets. Mirror: interpose/encode/stream.cpp.
#include "server/decode/decode.hpp"

namespace djinn::server::decode {

static bool known_stream(Session& s, uint64_t id, const char* command) {
  if (s.streams.contains(id)) return true;
  s.fail({cuda_error::invalid_resource_handle, wire::ErrorClass::exception, command, "unknown stream " + std::to_string(id)});
  return false;
}

void stream_create(Session& s) {
  wire::StreamCreate c;
  if (!read_fixed(s, c, "stream_create")) return;
  if (s.streams.size() >= kHandlesMax || !s.streams.insert(c.id).second)
    s.fail({cuda_error::invalid_value, wire::ErrorClass::exception, "stream_create", "the id is in use, or there are too many streams"});
}

void stream_destroy(Session& s) {
  wire::Handle h;
  if (read_fixed(s, h, "stream_destroy") && known_stream(s, h.id, "stream_destroy") && h.id > 2) s.streams.erase(h.id);
}

void stream_wait(Session& s) {
  wire::StreamWait w;
  if (!read_fixed(s, w, "stream_wait") || !known_stream(s, w.stream, "cudaStreamWaitEvent")) return;
  // In ticket order every record that this wait can mean has been executed. A wait on an event never recorded is CUDA's no-op, but the client
  // answers those itself, so here it is a mistake that --check counts.
  if (!s.events.contains(w.event) && s.check()) {
    ++s.count.violations;
    s.fail({cuda_error::invalid_resource_handle, wire::ErrorClass::exception, "cudaStreamWaitEvent", "waits on an unknown event"});
  }
}

void event_record(Session& s) {
  wire::EventRecord e;
  if (!read_fixed(s, e, "event_record") || !known_stream(s, e.stream, "cudaEventRecord")) return;
  if (s.events.size() >= kHandlesMax) return s.fail({cuda_error::invalid_value, wire::ErrorClass::exception, "event_record", "too many events"});
  uint64_t time = s.device().timestamp(e.stream);
  s.events[e.event] = time;
  if (!e.timed) return;
  wire::EventDone done{e.event, s.now.ticket, time};
  s.report().add(wire::ReportOpcode::event_done, std::as_bytes(std::span(&done, 1)));
}

void event_destroy(Session& s) {
  wire::Handle h;
  if (read_fixed(s, h, "event_destroy")) s.events.erase(h.id);
}

void synchronize(Session& s) {
  wire::Handle h;
  if (!read_fixed(s, h, "synchronize")) return;
  if (h.id == wire::kAllStreams || known_stream(s, h.id, "cudaStreamSynchronize")) s.reply(0);
}

}  // namespace djinn::server::decode

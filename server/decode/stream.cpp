// Streams. The CPU device executes in ticket order, which is a legal schedule of any streams, so that a stream is an id that must be known.
#include "server/decode/decode.hpp"

namespace djinn::server::decode {

Failure stream_create(Session& s, const Command& c) {
  wire::StreamCreate m;
  if (!read_all(c, m)) return malformed("stream_create");
  if (m.id == wire::kAllStreams || s.streams.count(m.id)) return invalid("stream_create", "the id is taken");
  if (s.streams.size() >= kStreamsMax) return {cuda_error::memory_allocation, wire::ErrorClass::refused, "stream_create", "too many streams"};
  s.streams.insert(m.id);
  return {};
}

Failure stream_destroy(Session& s, const Command& c) {
  wire::Handle m;
  if (!read_all(c, m)) return malformed("stream_destroy");
  return m.id != 0 && s.streams.erase(m.id) ? Failure{} : unknown_handle("stream_destroy", "stream", m.id);
}

// An event that was never recorded is no reason to wait, as in CUDA.
Failure stream_wait(Session& s, const Command& c) {
  wire::StreamWait m;
  if (!read_all(c, m)) return malformed("stream_wait");
  return s.known_stream(m.stream) ? Failure{} : unknown_handle("stream_wait", "stream", m.stream);
}

// Everything before this ticket has been executed when the executor gets here.
Failure synchronize(Session& s, const Command& c) {
  wire::Handle m;
  if (!read_all(c, m)) return malformed("synchronize");
  return m.id == wire::kAllStreams || s.known_stream(m.id) ? Failure{} : unknown_handle("synchronize", "stream", m.id);
}

}  // namespace djinn::server::decode

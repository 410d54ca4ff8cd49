// See graph.hpp.
#include "interpose/encode/graph.hpp"

#include <cstring>

#include "interpose/batch/counters.hpp"
#include "interpose/batch/session.hpp"
#include "interpose/shadow/event.hpp"

namespace djinn {

namespace {

cudaError_t add(Graph& g, uint32_t opcode, std::span<const std::byte> payload) {
  if (g.commands >= wire::kGraphCommandsMax || graph_bytes + payload.size() > wire::kGraphBytesMax) return cudaErrorMemoryAllocation;
  static thread_local std::vector<std::byte> record;
  record.clear();
  wire::Writer w(record);
  size_t padded = wire::align8(payload.size());
  w.put(wire::GraphAdd{g.id, opcode, static_cast<uint32_t>(padded)});
  if (!payload.empty()) std::memcpy(w.grow(padded), payload.data(), payload.size());
  if (!post(static_cast<uint32_t>(wire::Opcode::graph_add), 0, record)) return session_error() ? session_error() : cudaErrorMemoryAllocation;
  ++g.commands;
  g.bytes += padded;
  graph_bytes += padded;
  g.ops += opcode == static_cast<uint32_t>(wire::Opcode::op_run);
  return cudaSuccess;
}

// Commands [first, end) of the graph.
cudaError_t launch_range(Graph& g, uint64_t stream, uint64_t first, uint64_t end) {
  if (first == end) return cudaSuccess;
  Ticket t = post(wire::Opcode::graph_launch, wire::GraphLaunch{g.id, stream, first, end - first});
  if (!t) return session_error();
  g.launched = t;
  for (const Graph::RecordedEvent& e : g.events)
    if (e.command >= first && e.command < end) event_recorded(e.event, t);
  return cudaSuccess;
}

struct Bytes {
  uintptr_t begin, end;
  bool meets(const Bytes& o) const { return begin < o.end && o.begin < end; }
};
Bytes host_side(const Graph::HostCopy& c) {
  auto at = reinterpret_cast<uintptr_t>(c.upload ? c.copy.source : c.copy.destination);
  return {at, at + (c.copy.height - 1) * (c.upload ? c.copy.source_pitch : c.copy.destination_pitch) + c.copy.width};
}

}  // namespace

cudaError_t post_or_capture(uint64_t stream, cudaGraphNodeType type, uint32_t opcode, std::span<const std::byte> payload, bool& captured) {
  cudaError_t e = capture_work(stream, type, captured, [&](Graph& g) { return add(g, opcode, payload); });
  if (e || captured) return e;
  return post(opcode, 0, payload) ? cudaSuccess : session_error();
}

cudaError_t capture_host_copy(const Copy2D& c, bool upload, uint64_t stream, bool& captured) {
  return capture_work(stream, cudaGraphNodeTypeMemcpy, captured, [&](Graph& g) {
    if (g.copies.size() >= wire::kGraphCommandsMax) return cudaErrorMemoryAllocation;
    g.copies.push_back({c, upload, g.commands});
    return cudaSuccess;
  });
}

cudaError_t capture_external_record(uint64_t stream, uint64_t event, bool timed, bool& captured) {
  return capture_work(stream, cudaGraphNodeTypeEventRecord, captured, [&](Graph& g) {
    wire::EventRecord r{event, stream, timed};
    g.events.push_back({event, g.commands});
    return add(g, static_cast<uint32_t>(wire::Opcode::event_record), std::as_bytes(std::span(&r, 1)));
  });
}

cudaError_t capture_external_wait(uint64_t stream, uint64_t event, bool& captured) {
  return capture_work(stream, cudaGraphNodeTypeWaitEvent, captured, [&](Graph& g) {
    wire::StreamWait r{stream, event};
    return add(g, static_cast<uint32_t>(wire::Opcode::stream_wait), std::as_bytes(std::span(&r, 1)));
  });
}

cudaError_t launch_graph(Graph& g, uint64_t stream) {
  count(counters().calls);
  count(counters().ops, g.ops);
  std::vector<Bytes> coming;  // what this launch has under way to the host
  uint64_t done = 0;
  for (const Graph::HostCopy& c : g.copies) {
    if (cudaError_t e = launch_range(g, stream, done, c.before)) return e;
    done = c.before;
    Bytes host = host_side(c);
    bool reads_what_comes = false;
    for (const Bytes& b : coming) reads_what_comes |= c.upload && b.meets(host);
    if (reads_what_comes) session()->log.wait_executed(session()->log.last());
    if (!c.upload) coming.push_back(host);
    if (cudaError_t e = copy_unawaited(c.copy, c.upload, stream)) return e;
  }
  return launch_range(g, stream, done, g.commands);
}

}  // namespace djinn

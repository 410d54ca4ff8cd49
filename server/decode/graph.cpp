// CUDA graphs: commands that are kept and run again. Each is checked when it comes exactly as if it were executed, by its own decoder with the device
// left out, and again at each launch, because memory and handles may be gone by then. A graph that lost one of its commands is broken: its launches
// say why, and nothing of it runs. Mirror: interpose/encode/graph.cpp.
#include <fmt/format.h>

#include "server/decode/decode.hpp"

namespace djinn::server::decode {

using wire::ErrorClass;
using wire::Opcode;

namespace {

// What has an effect on the device alone. Everything else answers somebody, changes the session, or (graph_add itself) would nest.
bool may_be_kept(uint32_t opcode) {
  if (opcode & wire::kGeneratedOpcode) return true;
  switch (static_cast<Opcode>(opcode)) {
    case Opcode::copy:
    case Opcode::fill:
    case Opcode::stream_wait:
    case Opcode::event_record:
    case Opcode::launch:
    case Opcode::op_run: return true;
    default: return false;
  }
}

Failure too_many(const char* what) { return {cuda_error::memory_allocation, ErrorClass::refused, "graph_add", std::string("too many ") + what}; }

wire::RecordHeader head_of(uint32_t opcode, size_t size) {
  wire::RecordHeader h;
  h.opcode = opcode;
  h.size = static_cast<uint32_t>(size);
  return h;
}

Failure keep(Session& s, uint64_t id, Graph& g, const Command& c) {
  Function function = may_be_kept(c.head.opcode) ? find(c.head.opcode) : nullptr;
  if (!function) return invalid("graph_add", fmt::format("command {:#x} cannot be part of a graph", c.head.opcode));
  if (g.commands.size() >= wire::kGraphCommandsMax) return too_many("commands in one graph");
  if (s.graph_bytes + c.payload.size() > wire::kGraphBytesMax) return too_many("bytes in the session's graphs");
  Session::InGraph adding(s, Session::InGraph::adding, id);
  if (Failure f = function(s, c)) return f;
  s.graph_bytes += c.payload.size();
  g.size += c.payload.size();
  // the executor has the op, with its tensors; here its number stands for it
  bool op = c.head.opcode == static_cast<uint32_t>(Opcode::op_run);
  auto kept = op ? std::as_bytes(std::span(&g.ops, 1)) : c.payload;
  g.commands.push_back({c.head.opcode, static_cast<uint32_t>(kept.size()), g.bytes.size()});
  g.bytes.insert(g.bytes.end(), kept.begin(), kept.end());
  g.ops += op;
  return {};
}

}  // namespace

Failure graph_add(Session& s, const Command& c) {
  wire::Reader r(c.payload);
  auto m = r.get<wire::GraphAdd>();
  const std::byte* payload = m.size % 8 ? nullptr : r.take(m.size);
  if (!payload || !r.finished() || !c.bulk.empty()) return malformed("graph_add");
  auto g = s.graphs.find(m.graph);
  if (g == s.graphs.end()) {
    if (s.graphs.size() >= wire::kGraphsMax) return too_many("graphs");
    g = s.graphs.try_emplace(m.graph).first;
  }
  if (g->second.broken) return {};  // said already
  Failure f = keep(s, m.graph, g->second, {c.ticket, head_of(m.opcode, m.size), {payload, m.size}, {}});
  if (f.code) g->second.broken = f;
  return f;
}

// As the eager commands would: one that fails does not keep the next from running, unless the session is no longer usable. The first failure is told.
Failure graph_launch(Session& s, const Command& c) {
  wire::GraphLaunch m;
  if (!read_all(c, m)) return malformed("graph_launch");
  if (!s.known_stream(m.stream)) return unknown_handle("graph_launch", "stream", m.stream);
  auto found = s.graphs.find(m.graph);
  if (found == s.graphs.end()) return unknown_handle("graph_launch", "graph", m.graph);
  const Graph& g = found->second;
  if (g.broken) return *g.broken;
  if (m.first > g.commands.size() || m.count > g.commands.size() - m.first) return invalid("graph_launch", "commands that the graph has not");
  Session::InGraph launching(s, Session::InGraph::launching, m.graph);
  Failure first;
  for (size_t i = m.first; i < m.first + m.count; i++) {
    const Graph::Kept& k = g.commands[i];
    Failure f = find(k.opcode)(s, {c.ticket, head_of(k.opcode, k.size), std::span(g.bytes).subspan(k.at, k.size), {}});
    if (f.code && (f.error_class == ErrorClass::sticky || f.error_class == ErrorClass::lost)) return f;
    if (f.code && !first.code) first = std::move(f);
    s.make_report_room();
  }
  return first;
}

Failure graph_destroy(Session& s, const Command& c) {
  wire::Handle m;
  if (!read_all(c, m)) return malformed("graph_destroy");
  auto g = s.graphs.find(m.id);
  if (g == s.graphs.end()) return unknown_handle("graph_destroy", "graph", m.id);
  s.graph_bytes -= g->second.size;
  s.graphs.erase(g);
  s.drop_graph_ops(m.id);
  return {};
}

}  // namespace djinn::server::decode

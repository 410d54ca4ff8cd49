// See stats.hpp.
#include "server/control/stats.hpp"

#include <cstdio>

#include "semantic/graph/vocabulary.hpp"
#include "server/control/ask.hpp"
#include "server/control/json.hpp"

namespace djinn::server {

namespace control = wire::control;

namespace {

template <size_t N>
Json by_word(const std::array<std::string_view, N>& words, const std::vector<uint64_t>& numbers) {
  Json j;
  for (size_t i = 0; i < N && i < numbers.size(); i++)
    if (numbers[i]) j.field(words[i], numbers[i]);
  return j;
}

// The number came over the wire.
template <size_t N>
std::string word(const std::array<std::string_view, N>& words, uint32_t number) {
  return std::string(number < N ? words[number] : "unknown");
}

Json json(const control::Meaning& m) {
  Json j;
  j.field("name", m.name).field("phase", word(graph::kExecutionPhases, m.phase)).field("module", m.module).field("label", m.label);
  j.field("steps", by_word(graph::kExecutionPhases, m.steps)).field("ops", by_word(graph::kExecutionPhases, m.ops));
  j.field("nanoseconds", by_word(graph::kExecutionPhases, m.nanoseconds)).field("memory", by_word(graph::kDataResidencies, m.memory));
  return j;
}

Json json(const control::Counters& c) {
  Json j;
  j.field("session", c.session).field("client_pid", c.client_pid).field("worker_pid", c.worker_pid).field("client_host", c.client_host);
  j.field("program", c.program).field("frames", c.frames).field("bytes", c.bytes).field("commands", c.commands).field("ops", c.ops);
  j.field("calls", c.calls).field("launches_validated", c.launches_validated).field("violations", c.violations);
  j.field("launches_refused", c.launches_refused).field("errors", c.errors).field("memory_bytes", c.memory_bytes);
  j.field("memory_peak", c.memory_peak).field("execute_nanoseconds", c.execute_nanoseconds);
  j.field("open_nanoseconds", c.open_nanoseconds).field("queued", c.queued).field("meaning", json(c.meaning));
  return j;
}

int fail(const char* option, const std::string& why) {
  std::fprintf(stderr, "djinn-gpu-server: %s: %s\n", option, why.c_str());
  return 1;
}

}  // namespace

std::string to_json(const control::StatsReply& s) {
  std::vector<Json> sessions;
  for (const auto& c : s.sessions) sessions.push_back(json(c));
  Json j;
  j.field("version", s.version).field("pid", s.pid).field("sessions_opened", s.sessions_opened).field("sessions_ended", s.sessions_ended);
  j.field("refused_opens", s.refused_opens).field("rejected", s.rejected).field("sessions", sessions).field("ended", json(s.ended));
  j.field("memory_total", s.memory_total).field("memory_leased", s.memory_leased);
  return j.object();
}

std::string to_json(const control::Graph& g) {
  std::vector<Json> nodes, edges;
  for (const auto& n : g.nodes) {
    Json& j = nodes.emplace_back();
    j.field("op", n.op).field("module", n.module).field("label", n.label).field("phase", word(graph::kExecutionPhases, n.phase));
    j.field("count", n.count).field("nanoseconds", n.nanoseconds).field("flops", n.flops).field("bytes_written", n.bytes_written);
    j.field("bytes_read", by_word(graph::kDataResidencies, n.bytes_read));
  }
  for (const auto& e : g.edges) {
    Json& j = edges.emplace_back();
    j.field("from", e.from).field("to", e.to).field("residency", word(graph::kDataResidencies, e.residency)).field("count", e.count);
    j.field("bytes", e.bytes).field("lifetime_ops", e.lifetime_ops);
  }
  Json j;
  j.field("session", g.session).field("meaning", json(g.meaning)).field("nodes", nodes).field("edges", edges);
  j.field("nodes_left_out", g.nodes_left_out).field("edges_left_out", g.edges_left_out);
  return j.object();
}

int print_stats(const std::string& endpoint) {
  control::ControlHeader question;
  question.kind = control::Kind::stats;
  std::string error;
  auto reply = ask_server<control::StatsReply>(endpoint, std::as_bytes(std::span(&question, 1)), control::Kind::stats_reply, error);
  if (!reply) return fail("--stats", error);
  std::printf("%s\n", to_json(*reply).c_str());
  return 0;
}

int print_graph(const std::string& endpoint, uint64_t session) {
  std::string error;
  auto question = control::encode(control::Kind::graph, control::GraphWanted{session});
  auto reply = ask_server<control::Graph>(endpoint, question, control::Kind::graph_reply, error);
  if (!reply) return fail("--graph", error);
  std::printf("%s\n", to_json(*reply).c_str());
  return 0;
}

}  // namespace djinn::server

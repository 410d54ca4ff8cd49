// See stats.hpp.
#include "server/control/stats.hpp"

#include <fmt/format.h>

#include <chrono>
#include <cstdio>

#include "semantic/transport/endpoint.hpp"
#include "semantic/transport/socket.hpp"

namespace djinn::server {

namespace control = wire::control;
using namespace std::chrono_literals;

constexpr auto kStatsPatience = 5s;

namespace {

// JSON of flat objects; what has fields is given by name, so that nothing depends on an order.
class Json {
 public:
  template <class T>
  Json& field(const char* name, const T& v) {
    text_ += fmt::format("{}\"{}\": {}", text_.empty() ? "" : ", ", name, value(v));
    return *this;
  }
  std::string object() const { return "{" + text_ + "}"; }

 private:
  static std::string value(uint64_t v) { return std::to_string(v); }
  static std::string value(const Json& v) { return v.object(); }
  static std::string value(const std::string& v) {
    std::string out = "\"";
    for (char c : v) {
      if (c == '"' || c == '\\') out += '\\', out += c;
      else if (static_cast<unsigned char>(c) < 0x20) out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
      else out += c;
    }
    return out + "\"";
  }
  template <class T>
  static std::string value(const std::vector<T>& list) {
    std::string out;
    for (const T& v : list) out += (out.empty() ? "" : ", ") + value(v);
    return "[" + out + "]";
  }
  std::string text_;
};

Json json(const control::Counters& c) {
  Json j;
  j.field("session", c.session).field("client_pid", c.client_pid).field("worker_pid", c.worker_pid).field("client_host", c.client_host);
  j.field("program", c.program).field("frames", c.frames).field("bytes", c.bytes).field("commands", c.commands).field("ops", c.ops);
  j.field("calls", c.calls).field("launches_validated", c.launches_validated).field("violations", c.violations);
  j.field("launches_refused", c.launches_refused).field("errors", c.errors).field("memory_bytes", c.memory_bytes);
  j.field("memory_peak", c.memory_peak).field("execute_nanoseconds", c.execute_nanoseconds);
  return j;
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

int print_stats(const std::string& text) {
  auto fail = [](const std::string& why) {
    std::fprintf(stderr, "djinn-gpu-server: --stats: %s\n", why.c_str());
    return 1;
  };
  std::string error;
  auto endpoint = transport::parse_endpoint(text, error);
  if (!endpoint) return fail(error);
  zmq::context_t context;
  transport::Socket socket(context, transport::Socket::Kind::dealer);
  if (auto e = socket.connect(endpoint->text()); !e.empty()) return fail(e);
  control::ControlHeader ask;
  ask.kind = control::Kind::stats;
  socket.send({}, std::as_bytes(std::span(&ask, 1)));
  auto deadline = std::chrono::steady_clock::now() + kStatsPatience;
  while (std::chrono::steady_clock::now() < deadline) {
    auto m = socket.receive();
    if (!m) {
      socket.wait(100);
      continue;
    }
    auto reply = control::decode<control::StatsReply>(m->part(0), control::Kind::stats_reply);
    if (!reply) return fail(text + " did not answer with statistics");
    std::printf("%s\n", to_json(*reply).c_str());
    return 0;
  }
  return fail("no answer from " + text + " within 5 s");
}

}  // namespace djinn::server

// The graphs of sessions (djinn graph): a living session's worker is asked, an ended one's last graph is kept for a while, so that a program that is
// over can still be looked at. A worker that was killed says nothing more.
#include <fmt/format.h>

#include <algorithm>

#include "server/broker/broker.hpp"
#include "server/log.hpp"

namespace djinn::server {

using namespace std::chrono_literals;

namespace {

// A worker's io thread answers at once, whatever its executor is doing.
constexpr auto kGraphPatience = 3s;

void say_no(const Caller& caller, const std::string& why) {
  caller.socket->send(caller.identity, control::encode(control::Kind::refused, control::Refused{why}));
}

}  // namespace

// 0: the newest that there is anything of.
void Broker::on_graph(Caller caller, uint64_t session) {
  if (!session) {
    session = ended_graphs_.newest();
    for (const auto& [id, s] : sessions_)
      if (s.answered) session = std::max(session, id);
    if (!session) return say_no(caller, "there is no session, and none has ended since the server began");
  }
  if (auto* ended = ended_graphs_.find(session)) return static_cast<void>(caller.socket->send(caller.identity, *ended));
  ChannelMessage m;
  m.kind = ChannelKind::graph_wanted;
  auto live = sessions_.find(session);
  // who asks while another waits has the same answer: a snapshot stops the session's executor
  bool asked = std::any_of(graph_waits_.begin(), graph_waits_.end(), [&](const GraphWait& wait) { return wait.session == session; });
  if (live == sessions_.end() || live->second.worker->state != Worker::State::serving || (!asked && !live->second.worker->channel.send(m)))
    return say_no(caller, fmt::format("there is no session {} (the graphs of the last {} that ended with ops are kept)", session, kGraphsKept));
  graph_waits_.push_back({std::move(caller), session, Clock::now() + kGraphPatience});
}

void Broker::take_graph(Worker& w, ChannelMessage& m) {
  auto answer = control::encode(control::Kind::graph_reply, m.graph);
  std::erase_if(graph_waits_, [&](const GraphWait& wait) {
    if (wait.session != w.session) return false;
    wait.caller.socket->send(wait.caller.identity, answer);
    return true;
  });
  if (m.number != 1 || m.graph.nodes.empty()) return;
  ended_graphs_.keep(w.session, std::move(answer));
}

void Broker::give_up_graphs(Clock::time_point now, uint64_t ended) {
  std::erase_if(graph_waits_, [&](const GraphWait& wait) {
    if (wait.session != ended && wait.deadline > now) return false;
    say_no(wait.caller, fmt::format("session {} {}", wait.session, wait.session == ended ? "has ended" : "does not answer"));
    return true;
  });
}

}  // namespace djinn::server

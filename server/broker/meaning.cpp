// The graphs of sessions (djinn graph): a living session's worker is asked, an ended one's last graph is kept for a while, so that a program that is
// over can still be looked at. A worker that was killed says nothing more.
#include <fmt/format.h>

#include "server/broker/broker.hpp"
#include "server/log.hpp"

namespace djinn::server {

using namespace std::chrono_literals;

namespace {

// Ended sessions whose graph is kept, each at most a control message: 64 MiB at the very most, some hundred KiB in practice.
constexpr size_t kGraphsKept = 16;
// A worker's io thread answers at once, whatever its executor is doing.
constexpr auto kGraphPatience = 3s;

void say_no(const Caller& caller, const std::string& why) {
  caller.socket->send(caller.identity, control::encode(control::Kind::refused, control::Refused{why}));
}

}  // namespace

// 0: the newest that there is anything of.
void Broker::on_graph(Caller caller, uint64_t session) {
  if (!session) {
    if (!ended_graphs_.empty()) session = ended_graphs_.rbegin()->first;
    for (const auto& [id, s] : sessions_)
      if (s.answered) session = std::max(session, id);
    if (!session) return say_no(caller, "there is no session, and none has ended since the server began");
  }
  if (auto ended = ended_graphs_.find(session); ended != ended_graphs_.end())
    return static_cast<void>(caller.socket->send(caller.identity, ended->second));
  ChannelMessage m;
  m.kind = ChannelKind::graph_wanted;
  auto live = sessions_.find(session);
  if (live == sessions_.end() || live->second.worker->state != Worker::State::serving || !live->second.worker->channel.send(m))
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
  ended_graphs_[w.session] = std::move(answer);
  if (ended_graphs_.size() > kGraphsKept) ended_graphs_.erase(ended_graphs_.begin());
}

void Broker::give_up_graphs(Clock::time_point now, uint64_t ended) {
  std::erase_if(graph_waits_, [&](const GraphWait& wait) {
    if (wait.session != ended && wait.deadline > now) return false;
    say_no(wait.caller, fmt::format("session {} {}", wait.session, wait.session == ended ? "has ended" : "does not answer"));
    return true;
  });
}

}  // namespace djinn::server

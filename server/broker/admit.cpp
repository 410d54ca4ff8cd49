// Control messages and the sessions they open: who gets in, at which level, on which worker, with which lease.
#include <fmt/format.h>
#include <signal.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>

#include "server/broker/broker.hpp"
#include "server/execute/executor.hpp"
#include "server/log.hpp"

namespace djinn::server {

using namespace std::chrono_literals;
using control::Level;

namespace {

// Opens that wait for a worker, and how long: a client gives up after about as much.
constexpr size_t kPendingMax = 512;
constexpr auto kOpenPatience = 30s;
// Pieces of memory that sessions share with each other.
constexpr size_t kSharesMax = 1 << 20;
// Live workers answer with fresh counters in this time, or the last known ones are told.
constexpr auto kStatsPatience = 300ms;

std::string this_host() {
  char host[256] = "";
  gethostname(host, sizeof host - 1);
  return host;
}

// Text from the network, for logs and errors: short and printable.
std::string tame(const std::string& text) {
  std::string out = text.substr(0, 100);
  for (char& c : out)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  return out;
}

void add_phases(std::vector<uint64_t>& sum, const std::vector<uint64_t>& more) {
  sum.resize(graph::kExecutionPhases.size());
  for (size_t i = 0; i < sum.size() && i < more.size(); i++) sum[i] += more[i];
}

}  // namespace

void Broker::refuse(const Caller& caller, const std::string& reason) {
  ++totals_.refused_opens;
  spdlog::info("refused: {}", reason);
  caller.socket->send(caller.identity, control::encode(control::Kind::refused, control::Refused{reason}));
}

void Broker::on_control(Caller caller, std::span<const std::byte> message) {
  auto header = control::peek(message);
  if (!header) return rejections_.count("control: not a Djinn message");
  if (caller.uid && *caller.uid != geteuid() && *caller.uid != 0)
    return refuse(caller, fmt::format("this socket is of user {}, you are {}", geteuid(), *caller.uid));
  if (header->version != wire::kVersion)
    return refuse(caller, fmt::format("this server speaks protocol version {}, the client {}", wire::kVersion, header->version));
  if (header->kind == control::Kind::stats && message.size() == sizeof *header) return on_stats(std::move(caller));
  if (header->kind == control::Kind::graph)
    if (auto wanted = control::decode<control::GraphWanted>(message, control::Kind::graph)) return on_graph(std::move(caller), wanted->session);
  auto open = control::decode<control::Open>(message, control::Kind::open);
  if (!open) {
    rejections_.count("control: malformed message");
    return refuse(caller, "malformed control message");
  }
  on_open(std::move(caller), std::move(*open));
}

// The kind of worker and the level for an open; an error when it cannot be had.
std::string Broker::choose(Pending& p) {
  std::string minor = minor_version(p.open.torch);
  bool any = p.open.torch == wire::control::kAnyTorch;
  auto usable = [&](const Kind& k) { return !k.minor.empty() && (any || k.minor == minor) && k.broken.empty(); };
  auto kind = std::find_if(kinds_.begin(), kinds_.end(), usable);
  if (kind == kinds_.end() && !minor.empty() && options_.client_torch && p.caller.uid &&
      minor_version(torch_version_of(p.open.torch_directory)) == minor &&
      std::none_of(kinds_.begin(), kinds_.end(), [&](const Kind& k) { return k.directory == p.open.torch_directory; }))
    kind = kinds_.begin() + static_cast<ptrdiff_t>(add_kind(p.open.torch_directory));
  p.kind = default_kind();
  p.level = Level::call;
  if (p.open.level == Level::call) return {};
  if (kind != kinds_.end()) {
    p.kind = static_cast<size_t>(kind - kinds_.begin());
    p.level = Level::op;
    return {};
  }
  std::string have;
  for (const Kind& k : kinds_)
    if (!k.minor.empty()) have += (have.empty() ? "" : ", ") + k.minor + (k.broken.empty() ? "" : " (" + k.broken + ")");
  std::string why = fmt::format("the client has torch {}, the server's executors are for: {}",
                                any             ? "any version"
                                : minor.empty() ? "none"
                                                : tame(p.open.torch),
                                have.empty() ? "none" : have);
  if (p.open.level == Level::op) return "no op level: " + why;
  if (!minor.empty()) spdlog::warn("call level for {} ({}): {}", tame(p.open.program), p.open.pid, why);
  return {};
}

void Broker::on_open(Caller caller, control::Open open) {
  if (sessions_.size() >= options_.sessions) return refuse(caller, fmt::format("{} sessions are open already", sessions_.size()));
  if (pending_.size() >= kPendingMax) return refuse(caller, "too many clients are waiting for a session");
  if (open.ranges.empty()) return refuse(caller, "the client offers no address range");
  Pending p{std::move(caller), std::move(open), 0, Level::call, Clock::now() + kOpenPatience};
  if (auto why = choose(p); !why.empty()) return refuse(p.caller, why);
  pending_.push_back(std::move(p));
}

void Broker::serve_pending() {
  for (auto p = pending_.begin(); p != pending_.end();) {
    auto w = std::find_if(workers_.begin(), workers_.end(),
                          [&](const Worker& x) { return x.state == Worker::State::warm && x.kind == p->kind && x.channel.descriptor() >= 0; });
    if (w == workers_.end()) {
      ++p;
      continue;
    }
    std::string why;
    // Those that came while it was starting may be more than there is room for, and it may have found out just now that its executor does not load.
    if (sessions_.size() >= options_.sessions) why = fmt::format("{} sessions are open already", sessions_.size());
    else if (p->level == Level::op && w->torch.empty()) why = choose(*p);
    if (why.empty()) assign(*w, std::move(*p));
    else refuse(p->caller, why);
    p = pending_.erase(p);
  }
}

void Broker::assign(Worker& w, Pending p) {
  uint64_t id = next_session_++;
  LogSession about(id);
  Session& s = sessions_[id];
  ++totals_.sessions_opened;
  s.worker = &w;
  s.opened.session = id;
  if (getrandom(s.opened.token.data(), s.opened.token.size(), 0) != static_cast<ssize_t>(s.opened.token.size())) std::abort();
  for (uint64_t lease : account_.open(id)) s.opened.devices.emplace_back().lease_bytes = lease;
  s.opened.level = p.level;
  s.opened.checks = options_.check;
  s.opened.threads = account_.share();
  s.counters.session = id;
  s.counters.client_pid = p.open.pid;
  s.counters.worker_pid = static_cast<uint32_t>(w.pid);
  s.counters.client_host = tame(p.open.host);
  s.counters.program = tame(p.open.program);
  w.session = id;
  w.state = Worker::State::assigned;
  ChannelMessage m;
  m.kind = ChannelKind::assign;
  m.opened = s.opened;
  m.ranges = p.open.ranges;
  m.counters = s.counters;
  s.request = std::move(p);
  w.channel.send(m);
}

// The worker has the range: the client may come.
void Broker::opened(Worker& w, ChannelMessage& m) {
  auto it = sessions_.find(w.session);
  if (it == sessions_.end() || w.state != Worker::State::assigned) return;
  LogSession about(it->first);
  Session& s = it->second;
  w.state = Worker::State::serving;
  const Caller& caller = s.request.caller;
  s.opened = m.opened;
  s.memory = std::move(m.file);
  s.opened.endpoint = w.endpoints.at(caller.listener);
  s.opened.front_door = listeners_[caller.listener]->front_endpoint().text();
  s.opened.server_host = this_host();
  s.opened.server_version = DJINN_VERSION;
  s.opened.server_pid = static_cast<uint32_t>(getpid());
  if (s.opened.level == Level::op) {
    s.opened.torch = w.torch;
    s.opened.ops = w.ops;
  }
  std::string near = w.endpoints.at(caller.listener);
  if (size_t any = near.find("//0.0.0.0:"); any != near.npos) near.replace(any + 2, 7, "127.0.0.1");
  front_door_->open_session(s.opened.token, {it->first, near});
  spdlog::info("session {}: {} ({}) of {} on worker {}, {} level", it->first, s.counters.program, s.counters.client_pid, s.counters.client_host,
               w.pid, s.opened.level == Level::op ? "op" : "call");
  if (!caller.socket->send(caller.identity, control::encode(control::Kind::opened, s.opened))) {
    ChannelMessage shut;
    shut.kind = ChannelKind::shut;
    shut.text = "its client went away while it was opened";
    w.channel.send(shut);
    return;
  }
  s.answered = true;
  share_threads();
}

void Broker::share_threads() {
  ChannelMessage m;
  m.kind = ChannelKind::threads;
  m.number = account_.share();
  for (Worker& w : workers_)
    if (w.state == Worker::State::serving) w.channel.send(m);
}

void Broker::end_session(uint64_t id, const std::string& reason, const std::string& for_client) {
  auto it = sessions_.find(id);
  if (it == sessions_.end()) return;
  LogSession about(id);
  Session& s = it->second;
  if (s.worker->state == Worker::State::assigned) refuse(s.request.caller, for_client);  // it has not been answered yet
  front_door_->close_session(id, for_client);
  const control::Counters c = s.worker->state == Worker::State::ending ? s.counters : up_to_now(s);  // its last word is exact
  control::Counters& sum = totals_.ended;
  for (auto field :
       {&control::Counters::frames, &control::Counters::bytes, &control::Counters::commands, &control::Counters::ops, &control::Counters::calls,
        &control::Counters::launches_validated, &control::Counters::violations, &control::Counters::launches_refused, &control::Counters::errors,
        &control::Counters::execute_nanoseconds, &control::Counters::open_nanoseconds})
    sum.*field += c.*field;
  add_phases(sum.meaning.steps, c.meaning.steps);
  add_phases(sum.meaning.ops, c.meaning.ops);
  add_phases(sum.meaning.nanoseconds, c.meaning.nanoseconds);
  sum.memory_peak = std::max(sum.memory_peak, c.memory_peak);
  ++totals_.sessions_ended;
  for (const std::string& entry : rejected_live_[id]) {
    size_t colon = entry.rfind(": ");
    if (colon != entry.npos) rejected_by_workers_[entry.substr(0, colon)] += std::strtoull(entry.c_str() + colon + 2, nullptr, 10);
  }
  rejected_live_.erase(id);
  spdlog::debug("session {} is gone: {}", id, reason);
  s.worker->session = 0;
  account_.close(id);
  std::erase_if(shares_, [&](const auto& share) { return share.second.session == id; });
  sessions_.erase(it);
  for (StatsWait& wait : stats_waits_) wait.missing.erase(id);
  give_up_graphs(Clock::now(), id);
  share_threads();
}

// ---- memory between sessions ----
// A secret of 128 bits is the right to the memory: the sessions of a server are one user's, or strangers' who were told.

void Broker::share(Worker& w, const ChannelMessage& m) {
  ChannelMessage answer;
  answer.kind = ChannelKind::shared;
  if (shares_.size() >= kSharesMax) answer.text = fmt::format("{} pieces of memory are shared already", shares_.size());
  else if (!shares_.try_emplace(m.secret, Share{w.session, m.device, m.offset, m.size}).second) answer.text = "the secret is taken";
  w.channel.send(answer);
}

void Broker::unshare(Worker& w, const ChannelMessage& m) {
  ChannelMessage answer;
  answer.kind = ChannelKind::shared;
  if (auto i = shares_.find(m.secret); i != shares_.end() && i->second.session == w.session) shares_.erase(i);
  else answer.text = "the session shares no such memory";
  w.channel.send(answer);
}

void Broker::import(Worker& w, const ChannelMessage& m) {
  ChannelMessage answer;
  answer.kind = ChannelKind::import_granted;
  auto i = shares_.find(m.secret);
  auto owner = i == shares_.end() ? sessions_.end() : sessions_.find(i->second.session);
  if (owner == sessions_.end()) answer.text = "no session of this server shares such memory (its owner may have freed it, or ended)";
  else if (!(answer.file = Descriptor::duplicate(owner->second.memory.get()))) answer.text = "the memory has no file";
  else answer.device = i->second.device, answer.offset = i->second.offset, answer.size = i->second.size;
  w.channel.send(answer);
}

void Broker::on_stats(Caller caller) {
  StatsWait wait{std::move(caller), {}, Clock::now() + kStatsPatience};
  ChannelMessage m;
  m.kind = ChannelKind::counters_wanted;
  for (Worker& w : workers_)
    if (w.state == Worker::State::serving && w.channel.send(m)) wait.missing.insert(w.session);
  stats_waits_.push_back(std::move(wait));
}

void Broker::count(uint64_t session, const control::Counters& counters) {
  auto s = sessions_.find(session);
  if (s == sessions_.end()) return;
  s->second.counters = counters;
  s->second.counted = Clock::now();
}

// A worker without work has nothing to tell, but its session's time goes on.
control::Counters Broker::up_to_now(const Session& s) {
  control::Counters c = s.counters;
  c.open_nanoseconds += static_cast<uint64_t>(std::chrono::nanoseconds(Clock::now() - s.counted).count());
  return c;
}

control::StatsReply Broker::stats() const {
  control::StatsReply reply = totals_;
  reply.memory_leased = account_.leased();
  std::map<std::string, uint64_t> rejected = rejected_by_workers_;
  auto add = [&](const std::vector<std::string>& list) {
    for (const std::string& entry : list)
      if (size_t colon = entry.rfind(": "); colon != entry.npos)
        rejected[entry.substr(0, colon)] += std::strtoull(entry.c_str() + colon + 2, nullptr, 10);
  };
  add(rejections_.list());
  for (const auto& [id, list] : rejected_live_) add(list);
  for (const auto& [reason, n] : rejected) reply.rejected.push_back(reason + ": " + std::to_string(n));
  for (const auto& [id, s] : sessions_)
    if (s.answered) reply.sessions.push_back(up_to_now(s));
  return reply;
}

}  // namespace djinn::server

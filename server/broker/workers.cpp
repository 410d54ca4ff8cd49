// The pool of workers: started before they are needed, one session each, and every end of one noticed.
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>

#include <algorithm>

#include "server/broker/broker.hpp"
#include "server/execute/executor.hpp"
#include "server/log.hpp"

namespace djinn::server {

using namespace std::chrono_literals;

namespace {

// Workers that may start at the same time: each loads libtorch, which is a second of a core.
constexpr size_t kStartingMax = 4;
// Starts in a row that come to nothing, before the server stops believing in the next one; and what it waits between them.
constexpr unsigned kFailuresMax = 3;
constexpr auto kRetryAfter = 1s;

std::string join(const std::vector<std::string>& parts, char by) {
  std::string out;
  for (const auto& p : parts) out += (out.empty() ? std::string() : std::string(1, by)) + p;
  return out;
}

}  // namespace

size_t Broker::add_kind(const std::string& directory) {
  Kind k;
  k.directory = directory;
  k.minor = minor_version(torch_version_of(directory));
  k.executor = find_executor(k.minor);
  kinds_.push_back(k);
  return kinds_.size() - 1;
}

// Call level needs no torch, but a worker that is warm already is faster than one that is not.
size_t Broker::default_kind() const { return kinds_.size() > 1 ? 1 : 0; }

// Keeps so many workers warm or on their way as there are opens waiting, and --workers more.
void Broker::refill() {
  for (size_t k = 0; k < kinds_.size(); k++) {
    if (Clock::now() < kinds_[k].retry) continue;
    auto of_kind = [&](auto... states) {
      return static_cast<size_t>(
          std::count_if(workers_.begin(), workers_.end(), [&](const Worker& w) { return w.kind == k && ((w.state == states) || ...); }));
    };
    size_t waiting = static_cast<size_t>(std::count_if(pending_.begin(), pending_.end(), [&](const Pending& p) { return p.kind == k; }));
    bool kept_warm = k > 0 || kinds_.size() == 1;
    size_t wanted = waiting + (kept_warm ? options_.workers : 0);
    while (of_kind(Worker::State::starting, Worker::State::warm) < wanted && of_kind(Worker::State::starting) < kStartingMax) spawn(k);
  }
}

void Broker::spawn(size_t kind) {
  Spawned s = spawner_.spawn();
  if (s.pid < 0) {
    fatal_ = "cannot start a worker: " + s.error;
    return;
  }
  Worker& w = workers_.emplace_back();
  w.number = next_worker_++;
  w.pid = s.pid;
  w.channel = std::move(s.channel);
  w.kind = kind;
  ChannelMessage m;
  m.kind = ChannelKind::start;
  for (const auto& l : listeners_) m.binds.push_back(l->worker_bind(options_, w.number));
  m.torch_directory = kinds_[kind].directory;
  m.executor = kinds_[kind].executor;
  m.op_library = join(options_.op_library, ':');
  m.log_level = options_.log_level;
  m.log_format = options_.log_format;
  m.grace_milliseconds = static_cast<uint64_t>(options_.grace.count());
  m.total_memory = options_.memory;
  w.channel.send(m);
}

void Broker::on_worker(Worker& w) {
  LogSession about(w.session);
  ChannelMessage m;
  for (;;) {
    Channel::Got got = w.channel.descriptor() < 0 ? Channel::Got::nothing : w.channel.receive(m, false);
    if (got == Channel::Got::message) {
      on_message(w, m);
      continue;
    }
    if (got == Channel::Got::nothing) return;
    // its process ends, or has ended: reap() learns how
    w.channel = Channel();
    return;
  }
}

void Broker::on_ready(Worker& w, const ChannelMessage& m) {
  Kind& kind = kinds_[w.kind];
  w.state = Worker::State::warm;
  w.endpoints = m.endpoints;
  w.torch = m.torch;
  w.ops = m.names;
  kind.failures = 0;
  if (m.text.empty() || kind.broken == m.text) return;
  kind.broken = m.text;
  spdlog::error("no op level with {}: {}", kind.directory, m.text);
}

void Broker::on_message(Worker& w, ChannelMessage& m) {
  switch (m.kind) {
    case ChannelKind::ready: return on_ready(w, m);
    case ChannelKind::assigned: return opened(w, m);
    case ChannelKind::share: return share(w, m);
    case ChannelKind::unshare: return unshare(w, m);
    case ChannelKind::import_wanted: return import(w, m);
    case ChannelKind::graph: return take_graph(w, m);
    case ChannelKind::failed:
      spdlog::error("worker {}: {}", w.pid, m.text);
      if (w.session) end_session(w.session, m.text, m.text);
      if (w.state == Worker::State::starting && kinds_[w.kind].failures + 1 >= kFailuresMax) fatal_ = "workers cannot start: " + m.text;
      return;
    case ChannelKind::lease_wanted: {
      ChannelMessage answer;
      answer.kind = ChannelKind::lease_granted;
      answer.number = account_.change(w.session, m.device, m.number);
      w.channel.send(answer);
      return;
    }
    case ChannelKind::counters: {
      rejected_live_[w.session] = m.names;
      count(w.session, m.counters);
      for (StatsWait& wait : stats_waits_) wait.missing.erase(w.session);
      return;
    }
    case ChannelKind::ended:
      rejected_live_[w.session] = m.names;
      count(w.session, m.counters);
      w.state = Worker::State::ending;  // its memory is free when its process has ended
      return;
    case ChannelKind::start:
    case ChannelKind::assign:
    case ChannelKind::threads:
    case ChannelKind::lease_granted:
    case ChannelKind::counters_wanted:
    case ChannelKind::shut:
    case ChannelKind::shared:
    case ChannelKind::graph_wanted:
    case ChannelKind::import_granted: break;
  }
  spdlog::error("worker {} sent what only a broker sends", w.pid);
}

void Broker::worker_gone(Worker& w) {
  for (const auto& l : listeners_) l->forget_worker(w.number);
  if (w.state == Worker::State::starting) {
    Kind& kind = kinds_[w.kind];
    kind.retry = Clock::now() + kRetryAfter;
    if (++kind.failures >= kFailuresMax && fatal_.empty())
      fatal_ = "workers end while starting" + (kind.directory.empty() ? "" : " with " + kind.directory);
  }
  if (w.session)
    end_session(w.session, w.state == Worker::State::ending ? "ended" : "its worker ended unexpectedly", "the session's worker ended unexpectedly");
}

void Broker::reap() {
  int status;
  pid_t pid;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
    auto w = std::find_if(workers_.begin(), workers_.end(), [&](const Worker& x) { return x.pid == pid; });
    if (w == workers_.end()) continue;
    LogSession about(w->session);
    on_worker(*w);  // its last words
    if (WIFSIGNALED(status)) spdlog::warn("worker {} (session {}) was killed by signal {}", pid, w->session, WTERMSIG(status));
    else if (WEXITSTATUS(status)) spdlog::warn("worker {} (session {}) ended with status {}", pid, w->session, WEXITSTATUS(status));
    worker_gone(*w);
    workers_.erase(w);
  }
}

}  // namespace djinn::server

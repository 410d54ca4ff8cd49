// The broker's life: start, the loop, signals, the end. Sessions are in admit.cpp, workers in workers.cpp.
#include "server/broker/broker.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/execute/executor.hpp"
#include "server/log.hpp"

namespace djinn::server {

using namespace std::chrono_literals;

namespace {

// Checks of time happen this often.
constexpr auto kTick = 200ms;
// So often the numbers that a scrape sees are brought up to date; workers bring theirs about as often.
constexpr auto kPublish = 1s;
// A worker that loads libtorch from a cold disk is waited for so long before the server says that it is ready without.
constexpr auto kStartPatience = 60s;
// What workers may take to tell their clients and end, before they are killed.
constexpr auto kShutPatience = 3s;

}  // namespace

Broker::Broker(Options options) : options_(std::move(options)), account_(options_.memory, options_.devices, options_.threads) {
  totals_.version = DJINN_VERSION;
  totals_.pid = static_cast<uint32_t>(getpid());
  totals_.memory_total = options_.memory * options_.devices;
  inbox_.descriptor = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  sigset_t set;  // blocked in main(), before any thread began
  sigemptyset(&set);
  for (int s : {SIGTERM, SIGINT, SIGCHLD}) sigaddset(&set, s);
  signal_fd_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

Broker::~Broker() {
  front_door_.reset();
  listeners_.clear();
  close(inbox_.descriptor);
  close(signal_fd_);
}

std::string Broker::start() {
  umask(077);
  std::vector<Listener*> doors;
  for (const auto& e : options_.listen) {
    listeners_.push_back(std::make_unique<Listener>(context_, e));
    if (auto error = listeners_.back()->open(); !error.empty()) return error;
    doors.push_back(listeners_.back().get());
  }
  front_door_ = std::make_unique<FrontDoor>(context_, doors, rejections_, [this](Caller caller, zmq::message_t m) {
    std::lock_guard lock(inbox_.mutex);
    inbox_.messages.emplace_back(std::move(caller), std::move(m));
    uint64_t one = 1;
    [[maybe_unused]] auto n = ::write(inbox_.descriptor, &one, sizeof one);
  });
  if (options_.metrics) {
    metrics_ = std::make_unique<Metrics>();
    if (auto error = metrics_->listen(options_.metrics->host, options_.metrics->port); !error.empty()) return error;
    spdlog::info("metrics at http://{}:{}/metrics", options_.metrics->host, metrics_->port());
  }
  kinds_.emplace_back();
  for (const auto& directory : options_.torch) add_kind(directory);
  refill();
  return {};
}

int Broker::run() {
  if (auto error = start(); !error.empty()) {
    spdlog::error("{}", error);
    return 1;
  }
  loop();
  shut_down();
  if (!fatal_.empty()) spdlog::error("{}", fatal_);
  return fatal_.empty() ? 0 : 1;
}

// The line that says what runs here, once the first workers have shown what they can do.
void Broker::announce() {
  if (announced_) return;
  bool starting = false;
  std::string torch;
  for (const Worker& w : workers_) {
    starting |= w.state == Worker::State::starting;
    if (!w.torch.empty() && torch.find(w.torch) == std::string::npos) torch += (torch.empty() ? "" : ", ") + w.torch;
  }
  if (starting && Clock::now() - started_ < kStartPatience) return;
  announced_ = true;
  std::string where;
  for (const auto& l : listeners_)
    where += fmt::format("{}{} (front door {})", where.empty() ? "" : ", ", l->endpoint().text(), l->front_endpoint().text());
  std::string device = options_.devices == 1 ? "device " + options_.device : fmt::format("{} devices {}", options_.devices, options_.device);
  std::string line = fmt::format("djinn-gpu-server {}: listening on {}, {}, {} threads, {:.1f} GiB{}, {}", DJINN_VERSION, where, device,
                                 options_.threads, static_cast<double>(options_.memory) / (1 << 30), options_.devices == 1 ? "" : " each",
                                 torch.empty() ? "no torch: call level only" : "torch " + torch);
  // said at every log level, but a machine that reads the log is given nothing that is no JSON
  if (options_.log_format == "json") spdlog::info("{}", line);
  else fmt::print(stderr, "{}\n", line);
  if (options_.ready_fd < 0) return;
  line = "ready " + listeners_.front()->endpoint().text() + "\n";
  if (::write(options_.ready_fd, line.data(), line.size()) < 0) spdlog::warn("--ready-fd {}: {}", options_.ready_fd, strerror(errno));
  close(options_.ready_fd);
}

void Broker::signals() {
  signalfd_siginfo info;
  while (::read(signal_fd_, &info, sizeof info) == sizeof info) {
    if (info.ssi_signo == SIGCHLD) continue;  // reap() runs each turn
    spdlog::info("signal {}: shutting down", strsignal(static_cast<int>(info.ssi_signo)));
    over_ = true;
  }
  reap();
}

void Broker::tick() {
  auto now = Clock::now();
  while (!pending_.empty() && pending_.front().deadline < now) {
    refuse(pending_.front().caller, "no worker became ready in time");
    pending_.pop_front();
  }
  std::erase_if(stats_waits_, [&](const StatsWait& w) {
    if (!w.missing.empty() && w.deadline > now) return false;
    w.caller.socket->send(w.caller.identity, control::encode(control::Kind::stats_reply, stats()));
    return true;
  });
  give_up_graphs(now);
  if (metrics_ && now - published_ >= kPublish) {
    metrics_->publish(stats());
    published_ = now;
  }
  refill();
  announce();
  if (!sessions_.empty() || !pending_.empty()) idle_since_ = now;
  if (options_.idle_exit > 0ms && now - idle_since_ > options_.idle_exit) {
    spdlog::info("no session for {} s: ending", std::chrono::duration_cast<std::chrono::seconds>(options_.idle_exit).count());
    over_ = true;
  }
}

void Broker::sleep() {
  std::vector<pollfd> fds{{signal_fd_, POLLIN, 0}, {inbox_.descriptor, POLLIN, 0}};
  for (auto& l : listeners_) {
    if (l->control.readable()) return;
    fds.push_back({l->control.event_descriptor(), POLLIN, 0});
    fds.push_back({l->control.wake_descriptor(), POLLIN, 0});
  }
  for (const Worker& w : workers_)
    if (w.channel.descriptor() >= 0) fds.push_back({w.channel.descriptor(), POLLIN, 0});
  ::poll(fds.data(), fds.size(), static_cast<int>(kTick / 1ms));
}

void Broker::loop() {
  while (!over_ && fatal_.empty()) {
    for (size_t i = 0; i < listeners_.size(); i++) {
      listeners_[i]->control.clear_wake();
      while (auto m = listeners_[i]->control.receive()) {
        if (m->parts.size() < 2) {
          rejections_.count("control: empty message");
          continue;
        }
        on_control({&listeners_[i]->control, {m->part(0).begin(), m->part(0).end()}, i, peer_uid(m->parts[1])}, m->part(1));
      }
    }
    std::vector<std::pair<Caller, zmq::message_t>> messages;
    {
      uint64_t n;
      [[maybe_unused]] auto ignored = ::read(inbox_.descriptor, &n, sizeof n);
      std::lock_guard lock(inbox_.mutex);
      messages.swap(inbox_.messages);
    }
    for (auto& [caller, m] : messages) on_control(std::move(caller), transport::Message::view(m));
    for (auto w = workers_.begin(); w != workers_.end();) on_worker(*w++);
    signals();
    serve_pending();
    tick();
    sleep();
  }
}

// Clients are told by their workers; what has not ended by itself in time is killed.
void Broker::shut_down() {
  for (const Pending& p : pending_) refuse(p.caller, "server is shutting down");
  pending_.clear();
  for (auto& [id, s] : sessions_) front_door_->close_session(id, "server is shutting down");
  ChannelMessage shut;
  shut.kind = ChannelKind::shut;
  shut.text = "server is shutting down";
  for (Worker& w : workers_) w.channel.send(shut);
  auto deadline = Clock::now() + kShutPatience;
  while (!workers_.empty()) {
    if (Clock::now() > deadline)
      for (Worker& w : workers_) kill(w.pid, SIGKILL);
    reap();
    std::vector<pollfd> fds{{signal_fd_, POLLIN, 0}};
    if (!workers_.empty()) ::poll(fds.data(), fds.size(), 50);
    signalfd_siginfo info;
    while (::read(signal_fd_, &info, sizeof info) == sizeof info) {}
  }
  spdlog::info("ended after {} sessions", totals_.sessions_opened);
}

}  // namespace djinn::server

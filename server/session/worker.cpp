// See worker.hpp.
#include "server/session/worker.hpp"

#include <linux/close_range.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <thread>

#include "semantic/transport/socket.hpp"
#include "semantic/wire/frame.hpp"
#include "server/execute/executor.hpp"
#include "server/log.hpp"
#include "server/session/channel.hpp"
#include "server/session/queue.hpp"
#include "server/session/session.hpp"

#ifdef DJINN_COVERAGE
extern "C" void __gcov_dump();
#endif

namespace djinn::server {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;
using transport::Socket;
using wire::FrameKind;

namespace {

// An executor without work looks for it so long before it sleeps: a program that synchronises comes back in less than a millisecond, and to be woken
// (and the frequency that a core loses while it sleeps) costs more. Where the client may share the core, looking only keeps it from working.
constexpr auto kExecutorSpin = 500us, kExecutorSpinFewCores = 50us;
constexpr unsigned kFewCores = 2;
// While the executor is at work, the io thread reads the socket so often: for heartbeats, which nobody needs sooner.
constexpr auto kBusyLook = 50ms;
// Checks of time (grace, first hello, counters) happen this often.
constexpr auto kTick = 500ms;
// A client that has opened a session says hello within this time; its own attempts give up much earlier.
constexpr auto kHelloPatience = 20s;
// What was posted before a goodbye is still executed, if it is done by then.
constexpr auto kGoodbyePatience = 2s;
// A client that has not been heard for this long is asked for a sign of life, long before --grace is over.
constexpr auto kQuiet = 5s;
// What a client may take to read why its session has ended.
constexpr auto kFarewellPatience = 500ms;
// The broker answers within microseconds; when it does not, what was asked for is refused.
constexpr auto kBrokerPatience = 10s;

// What the heap keeps of freed memory. Device memory is not of the heap.
constexpr int kKeptMemory = 32 << 20;

// The end of a worker, without exit handlers: libtorch's own threads may still run.
[[noreturn]] void leave(int status) {
#ifdef DJINN_COVERAGE
  __gcov_dump();
#endif
  _exit(status);
}

struct Monitor {
  explicit Monitor(zmq::context_t& context) : socket(context, zmq::socket_type::pair) { socket.set(zmq::sockopt::linger, 0); }
  zmq::socket_t socket;
};

class Worker {
 public:
  explicit Worker(int channel) : channel_(channel), router_(context_, Socket::Kind::router), monitor_(context_) {}
  int run();

 private:
  bool start();
  std::string listen();
  std::string listen_tcp(const Bind& b);
  bool await_assignment(ChannelMessage& assign);
  bool take(ChannelMessage& assign);
  void io();
  void pump();
  void pump_for_executor();
  void await_news(int monitor_fd);
  void handle(transport::Message m);
  void hear(ChannelMessage m);
  void watch_connection();
  void tick();
  void send_counters(ChannelKind kind, const std::string& text);
  void send_graph(bool last);
  bool say(FrameKind kind, std::span<const std::byte> to);
  std::optional<ChannelMessage> ask(const ChannelMessage& question, ChannelKind answer);
  void tell(const ChannelMessage& m);
  void execute_all();
  void end(const std::string& why, bool tell_client);
  [[noreturn]] void finish();
  void await_farewell();
  std::vector<std::byte> client_identity();

  ChannelMessage setup_;
  Channel channel_;
  std::mutex channel_send_;
  zmq::context_t context_{1};
  Socket router_;
  Monitor monitor_;
  LoadedExecutor executor_;
  Rejections rejections_;
  std::optional<Door> door_;
  std::mutex pumping_;
  BatchQueue queue_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Session> session_;
  control::Opened opened_;
  std::atomic<unsigned> threads_{1};
  std::atomic<int64_t> heard_{0};
  Clock::time_point born_{}, goodbye_at_{}, pinged_{}, ticked_{};
  std::atomic<bool> goodbye_{false};
  std::atomic<bool> busy_{false};                           // the executor is at work
  int attention_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);  // wakes the io thread
  uint64_t counted_ = 0;
  std::mutex answer_mutex_;
  std::condition_variable answered_;
  std::optional<ChannelMessage> answer_;  // the broker's to ask()
  std::mutex end_mutex_;
  std::atomic<bool> ending_{false};
  std::string end_reason_;
  bool end_told_ = false;
};

std::string Worker::listen_tcp(const Bind& b) {
  bool v6 = b.host.find(':') != std::string::npos;
  std::string host = v6 ? "[" + b.host + "]" : b.host, error;
  for (uint32_t port = b.port_first; port <= b.port_last; port++) {
    error = router_.bind("tcp://" + host + ":" + (port ? std::to_string(port) : "*"));
    if (error.empty()) return error;
  }
  return "no free port from " + std::to_string(b.port_first) + " to " + std::to_string(b.port_last) + ": " + error;
}

std::string Worker::listen() {
  for (const Bind& b : setup_.binds) {
    std::string error = b.host.empty() ? router_.bind("ipc://" + b.path) : listen_tcp(b);
    if (!error.empty()) return error;
    setup_.endpoints.push_back(router_.endpoint());
  }
  return {};
}

// Loads, listens, and says so.
bool Worker::start() {
  ChannelMessage& m = setup_;
  Channel::Got got;
  while ((got = channel_.receive(m, true)) == Channel::Got::nothing) {}
  if (got == Channel::Got::end || m.kind != ChannelKind::start) return false;
  set_log(m.log_level, m.log_format);
  ChannelMessage ready;
  ready.kind = ChannelKind::ready;
  if (!m.torch_directory.empty()) ready.text = load_executor(m.torch_directory, m.executor, m.op_library, executor_);
  std::string name = router_.monitor(ZMQ_EVENT_DISCONNECTED);
  if (!name.empty()) monitor_.socket.connect(name);
  if (auto error = listen(); !error.empty()) {
    ready.kind = ChannelKind::failed;
    ready.text = error;
    channel_.send(ready);
    return false;
  }
  ready.endpoints = m.endpoints;
  ready.torch = executor_.torch;
  ready.names = executor_.ops;
  return channel_.send(ready);
}

bool Worker::await_assignment(ChannelMessage& assign) {
  for (;;) {
    Channel::Got got = channel_.receive(assign, true);
    if (got == Channel::Got::end) return false;
    if (got == Channel::Got::nothing) continue;
    if (assign.kind == ChannelKind::shut) return false;
    if (assign.kind == ChannelKind::assign) return true;
  }
}

control::Device describe(const Device& device, uint64_t lease) {
  control::Device d = device.describe();
  d.lease_bytes = lease;
  return d;
}

// Makes the session; answers the broker.
bool Worker::take(ChannelMessage& assign) {
  device_ = make_cpu_device(setup_.total_memory);
  opened_ = assign.opened;
  ChannelMessage answer;
  answer.kind = ChannelKind::failed;
  answer.text = "none of the client's address ranges is free in the server";
  for (const control::Range& r : assign.ranges) {
    if (r.size / opened_.devices.size() < wire::kGranule || !device_->reserve(r.address, r.size)) continue;
    opened_.range = r;
    answer.kind = ChannelKind::assigned;
    break;
  }
  for (control::Device& d : opened_.devices) d = describe(*device_, d.lease_bytes);
  opened_.worker_pid = static_cast<uint32_t>(getpid());
  answer.opened = opened_;
  answer.file = Descriptor::duplicate(device_->file());
  if (answer.kind == ChannelKind::assigned) {
    prctl(PR_SET_NAME, fmt::format("djinn-s{}", opened_.session).c_str());
    set_log_session(opened_.session);
    door_.emplace(opened_.token, opened_.session, opened_.incarnation, rejections_);
    threads_ = opened_.threads;
    Session::Setup s;
    s.opened = opened_;
    s.who = assign.counters;
    s.who.worker_pid = opened_.worker_pid;
    s.device = device_.get();
    bool op_level = opened_.level == control::Level::op;
    s.executor = op_level ? executor_.table : nullptr;
    s.no_executor = op_level ? "" : "it was opened at call level";
    s.send = [this](std::span<const std::byte> f, std::span<const djinn_part> bulk) { return router_.send(door_->identity(), f, bulk); };
    s.queued = [this] { return queue_.tickets(); };
    s.ask_broker = [this](const ChannelMessage& question, ChannelKind kind) { return ask(question, kind); };
    session_ = std::make_unique<Session>(std::move(s));
  }
  return channel_.send(answer) && answer.kind == ChannelKind::assigned;
}

bool Worker::say(FrameKind kind, std::span<const std::byte> to) {
  wire::FrameHeader h;
  h.kind = kind;
  h.session = opened_.session;
  h.incarnation = opened_.incarnation;
  return router_.send(to, std::as_bytes(std::span(&h, 1)));
}

void Worker::handle(transport::Message m) {
  std::vector<std::byte> from(m.part(0).begin(), m.part(0).end());
  Batch batch;
  Verdict v = door_->receive(m, batch);
  if (v.kind != Verdict::Kind::drop && v.kind != Verdict::Kind::turn_away) heard_ = Clock::now().time_since_epoch().count();
  switch (v.kind) {
    case Verdict::Kind::drop:
    case Verdict::Kind::quiet: return;
    case Verdict::Kind::welcome: say(FrameKind::welcome, from); return;
    case Verdict::Kind::pong: say(FrameKind::pong, from); return;
    case Verdict::Kind::turn_away: router_.send(from, refused_frame(opened_.session, opened_.incarnation, v.text)); return;
    case Verdict::Kind::violation: end(v.text, true); return;
    case Verdict::Kind::work: break;
  }
  if (batch.goodbye) {
    goodbye_at_ = Clock::now();
    goodbye_ = true;
  }
  if (!queue_.push(std::move(batch))) end("the client sent more than its credit window allows", true);
}

// Handles everything that is here. Emptied completely each time: the socket's descriptor speaks of news only.
void Worker::pump() {
  std::lock_guard lock(pumping_);
  while (!ending_)
    if (auto m = router_.receive()) handle(std::move(*m));
    else return;
}

// By the io thread. The executor, should it sleep on the socket, has missed the news.
void Worker::pump_for_executor() {
  pump();
  router_.wake();
}

void Worker::watch_connection() {
  while (auto e = transport::read_monitor(monitor_.socket)) {
    pump_for_executor();  // what arrived before the end comes before it
    if (door_->descriptor() < 0 || e->value != door_->descriptor()) continue;
    if (!goodbye_) end("the client's connection was closed", false);
  }
}

void Worker::hear(ChannelMessage m) {
  switch (m.kind) {
    case ChannelKind::threads:
      threads_ = static_cast<unsigned>(m.number);
      router_.wake();
      return;
    case ChannelKind::lease_granted:
    case ChannelKind::shared:
    case ChannelKind::import_granted: {
      std::lock_guard lock(answer_mutex_);
      answer_ = std::move(m);
      answered_.notify_one();
      return;
    }
    case ChannelKind::counters_wanted: send_counters(ChannelKind::counters, {}); return;
    case ChannelKind::graph_wanted: send_graph(false); return;
    case ChannelKind::shut: end(m.text, true); return;
    case ChannelKind::start:
    case ChannelKind::ready:
    case ChannelKind::assign:
    case ChannelKind::assigned:
    case ChannelKind::failed:
    case ChannelKind::lease_wanted:
    case ChannelKind::counters:
    case ChannelKind::ended:
    case ChannelKind::share:
    case ChannelKind::unshare:
    case ChannelKind::graph:
    case ChannelKind::import_wanted: break;
  }
  spdlog::error("the broker sent a message that a serving worker does not expect");
}

void Worker::tell(const ChannelMessage& m) {
  std::lock_guard lock(channel_send_);
  channel_.send(m);
}

std::optional<ChannelMessage> Worker::ask(const ChannelMessage& question, ChannelKind answer) {
  {
    std::lock_guard lock(answer_mutex_);
    answer_.reset();
  }
  tell(question);
  std::unique_lock lock(answer_mutex_);
  answered_.wait_for(lock, kBrokerPatience, [&] { return answer_ && answer_->kind == answer; });
  return answer_ && answer_->kind == answer ? std::exchange(answer_, {}) : std::nullopt;
}

void Worker::send_counters(ChannelKind kind, const std::string& text) {
  ChannelMessage m;
  m.kind = kind;
  m.text = text;
  m.counters = session_->counters();
  m.names = rejections_.list();
  tell(m);
}

void Worker::send_graph(bool last) {
  ChannelMessage m;
  m.kind = ChannelKind::graph;
  m.graph = session_->meaning().snapshot(opened_.session, last);
  m.number = last;
  tell(m);
}

// The executor pumps too, so the io thread looks at the door only under the lock.
std::vector<std::byte> Worker::client_identity() {
  std::lock_guard lock(pumping_);
  return door_->identity();
}

void Worker::tick() {
  auto now = Clock::now();
  if (now - ticked_ < kTick) return;
  ticked_ = now;
  watch_connection();
  Clock::time_point heard(Clock::duration(heard_.load()));
  std::vector<std::byte> client = client_identity();
  bool inside = !client.empty();
  auto silent = now - (inside ? heard : born_);
  if (!inside && silent > kHelloPatience) end("nobody connected", false);
  if (inside && silent > std::chrono::milliseconds(setup_.grace_milliseconds))
    end(fmt::format("the client was silent for {} s", std::chrono::duration_cast<std::chrono::seconds>(silent).count()), true);
  if (inside && silent > kQuiet && now - pinged_ > kQuiet) {
    pinged_ = now;
    say(FrameKind::ping, client);
  }
  if (goodbye_ && now - goodbye_at_ > kGoodbyePatience) end("goodbye", false);
  // a command counts when it begins, its time when its batch is over: the last look is after both
  uint64_t done = session_->counts().commands + session_->counts().execute_nanoseconds;
  if (done == counted_) return;
  counted_ = done;
  send_counters(ChannelKind::counters, {});
}

// The broker, the connection's end, the clock. The socket is the executor's, who waits on it alone: two sleepers would both wake for each message and
// then wait for each other.
void Worker::io() {
  pthread_setname_np(pthread_self(), "djinn-io");
  int monitor_fd = monitor_.socket.get(zmq::sockopt::fd);
  for (;;) {
    ChannelMessage m;
    Channel::Got got;
    while ((got = channel_.receive(m, false)) == Channel::Got::message) hear(std::move(m));
    if (got == Channel::Got::end) leave(0);  // the broker is gone
    watch_connection();
    tick();
    if (busy_) pump_for_executor();
    if (ending_) finish();
    await_news(monitor_fd);
  }
}

void Worker::await_news(int monitor_fd) {
  pollfd fds[] = {{attention_, POLLIN, 0}, {channel_.descriptor(), POLLIN, 0}, {monitor_fd, POLLIN, 0}};
  ::poll(fds, std::size(fds), static_cast<int>((busy_ ? kBusyLook : kTick) / 1ms));
  uint64_t n;
  if (fds[0].revents & POLLIN) (void)!::read(attention_, &n, sizeof n);
}

// The executor thread.
void Worker::execute_all() {
  const auto spin = std::thread::hardware_concurrency() <= kFewCores ? kExecutorSpinFewCores : kExecutorSpin;
  unsigned threads = threads_;
  Batch batch;
  auto idle_since = Clock::now();
  while (!ending_) {
    if (unsigned n = threads_; n != threads) session_->set_threads(threads = n);
    if (queue_.pop(batch)) {
      if (batch.goodbye) return end("goodbye", false);
      busy_ = true;
      bool goes_on = session_->execute(batch);
      busy_ = false;
      if (!goes_on) return end(session_->ended(), true);
      queue_.executed(batch.records.size(), batch.bytes);
      batch = Batch();
      idle_since = Clock::now();
      continue;
    }
    pump();
    if (queue_.empty() && Clock::now() - idle_since > spin) router_.wait(kTick);
  }
}

// From whichever thread: the first reason stands. The io thread says it and ends the process, whatever the executor is doing.
void Worker::end(const std::string& why, bool tell_client) {
  {
    std::lock_guard lock(end_mutex_);
    if (ending_) return;
    end_reason_ = why;
    end_told_ = tell_client;
    ending_ = true;
  }
  router_.wake();
  uint64_t one = 1;
  (void)!::write(attention_, &one, sizeof one);
}

// A DEALER that may not reconnect drops what it has not read yet when its peer closes: the client is given the time to read why, and to close first.
void Worker::await_farewell() {
  auto deadline = Clock::now() + kFarewellPatience;
  while (Clock::now() < deadline) {
    while (auto e = transport::read_monitor(monitor_.socket))
      if (e->value == door_->descriptor()) return;
    pollfd fd{monitor_.socket.get(zmq::sockopt::fd), POLLIN, 0};
    ::poll(&fd, 1, 20);
  }
}

void Worker::finish() {
  std::vector<std::byte> client = client_identity();
  spdlog::info("session {} ended: {}", opened_.session, end_reason_);
  bool told = end_told_ && !client.empty() && router_.send(client, refused_frame(opened_.session, opened_.incarnation, end_reason_));
  send_graph(true);  // before the counters, which then have the open steps
  send_counters(ChannelKind::ended, end_reason_);
  if (told) await_farewell();
  monitor_.socket.close();
  router_.close();
  context_.close();  // lets what is queued leave, for as long as the socket lingers
  leave(0);          // the executor's memory goes with the process
}

int Worker::run() {
  if (!start()) return 1;
  ChannelMessage assign;
  if (!await_assignment(assign)) return 0;
  born_ = ticked_ = Clock::now();
  if (!take(assign)) return 1;
  std::thread([this] { io(); }).detach();
  execute_all();
  for (;;) pause();  // the io thread ends the process
}

}  // namespace

int worker_main(int broker_pid) {
  // The kernel ends this process when the broker's spawner thread, its parent, ends; if that has happened already, nobody will.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != broker_pid) return 1;
  syscall(SYS_close_range, kChannelDescriptor + 1, ~0u, 0);
  signal(SIGINT, SIG_IGN);  // a terminal's Ctrl-C is for the broker, which tells us
  umask(077);
  // messages of large copies come and go: their memory is kept for the next, instead of being given back and touched anew, page by page
  mallopt(M_MMAP_THRESHOLD, kKeptMemory);
  mallopt(M_TRIM_THRESHOLD, kKeptMemory);
  prctl(PR_SET_NAME, "djinn-warm");
  auto* worker = new Worker(kChannelDescriptor);  // never destroyed, see leave()
  leave(worker->run());
}

}  // namespace djinn::server

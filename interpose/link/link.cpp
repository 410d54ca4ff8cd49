// libdjinn_link.so: the client's end of the wire (semantic/abi/link.h). It opens a session at the broker, connects to the session's worker, keeps the
// connection alive and notices its end. A program thread sends through it directly and may drive the socket while it waits; the pump thread does
// everything that nobody waits for. Its mirror is server/session/worker.
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <memory>
#include <thread>

#include "interpose/link/emulation.hpp"
#include "semantic/abi/link.h"
#include "semantic/transport/endpoint.hpp"
#include "semantic/transport/socket.hpp"
#include "semantic/wire/control.hpp"
#include "semantic/wire/frame.hpp"

namespace djinn::link {

using namespace std::chrono_literals;
namespace control = wire::control;
using transport::Message;
using transport::Socket;

// A worker that does not answer a hello in this time is reached through the front door instead.
constexpr auto kDirectTimeout = 2s;
constexpr int kMonitored = ZMQ_EVENT_CONNECTED | ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_CLOSED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                           ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;

// A connection under way: its socket, and what its monitor has said so far.
struct Connection {
  explicit Connection(zmq::context_t& context) : socket(context, Socket::Kind::dealer), monitor(context, zmq::socket_type::pair) {
    monitor.set(zmq::sockopt::linger, 0);
    std::string name = socket.monitor(kMonitored);
    if (!name.empty()) monitor.connect(name);
  }
  // False once the peer is known to be gone or unreachable.
  bool alive() {
    while (auto e = transport::read_monitor(monitor)) {
      if (e->event == ZMQ_EVENT_CONNECTED) fd = e->value;
      else failed = true;
    }
    return !failed;
  }
  Socket socket;
  zmq::socket_t monitor;
  int fd = -1;
  bool failed = false;
};

// A frame under way in the emulated network; the bytes are its own because the caller's may go.
struct Owned {
  std::vector<std::vector<std::byte>> parts;
};

}  // namespace djinn::link

using namespace djinn::link;

struct djinn_link {
  djinn_link_config config{};
  djinn_link_events events{};
  std::string endpoint_text;
  djinn::wire::control::Opened opened;
  std::vector<const char*> op_names;
  std::string data_endpoint;
  bool relayed = false;

  zmq::context_t context{1};
  std::unique_ptr<Connection> connection;
  std::optional<Emulation> emulation;
  std::optional<Pipe<Owned>> outgoing;
  std::optional<Pipe<Message>> incoming;
  std::mt19937_64 dice;
  std::mutex emulation_mutex;

  std::thread pump;
  std::mutex deliver;  // receiving and handing over is one step, so that frames are delivered in order whoever drives
  std::atomic<bool> closing{false}, lost{false};
  std::atomic<int64_t> heard{0};  // Clock ticks of the last sign of life
  std::atomic<uint64_t> messages_received{0}, bytes_received{0}, heartbeats{0};
  std::atomic<int> connected_fd{-1};

  std::string open();
  std::string ask_broker(const djinn::transport::Endpoint& broker);
  std::string connect_worker(const djinn::transport::Endpoint& broker);
  std::string hello(const std::string& endpoint, std::chrono::milliseconds patience);
  std::string check_peer();
  bool send(const void* frame, size_t size, const djinn_part* bulk, size_t count);
  bool send_now(std::span<const std::byte> frame, std::span<const djinn_part> bulk);
  bool send_emulated(std::span<const std::byte> frame, std::span<const djinn_part> bulk);
  void send_due();
  int drain();
  void hand_over(Message& m);
  void run();
  void declare_lost(const std::string& why);
  djinn::wire::FrameHeader header(djinn::wire::FrameKind kind) const;
};

namespace djinn::link {

static std::string sentence(const djinn_link& l, const std::string& why) { return "djinn-gpu-server at " + l.endpoint_text + ": " + why; }

static std::vector<std::byte> frame_of(const wire::FrameHeader& h, const void* body = nullptr, size_t n = 0) {
  std::vector<std::byte> f(sizeof h + n);
  std::memcpy(f.data(), &h, sizeof h);
  if (n) std::memcpy(f.data() + sizeof h, body, n);
  return f;
}

static control::Open open_request(const djinn_link_config& c) {
  control::Open o;
  char host[256] = "";
  gethostname(host, sizeof host - 1);
  o.host = host;
  o.program = c.program ? c.program : "";
  o.pid = static_cast<uint32_t>(getpid());
  o.uid = getuid();
  o.torch = c.torch ? c.torch : "";
  o.torch_directory = c.torch_directory ? c.torch_directory : "";
  o.level = static_cast<control::Level>(c.level);
  for (size_t i = 0; i < c.range_count; i++) o.ranges.push_back({c.ranges[2 * i], c.ranges[2 * i + 1]});
  return o;
}

// Waits for one message on a fresh connection.
static std::optional<Message> await(Connection& c, std::chrono::milliseconds patience, std::string& why) {
  auto deadline = Clock::now() + patience;
  for (;;) {
    if (auto m = c.socket.receive()) return m;
    if (!c.alive()) {
      why = c.fd < 0 ? "nobody listens there" : "closed the connection";
      return std::nullopt;
    }
    if (Clock::now() > deadline) {
      why = "no answer within " + std::to_string(patience.count()) + " ms";
      return std::nullopt;
    }
    c.socket.wait(10);  // also the granularity at which the monitor is read
  }
}

}  // namespace djinn::link

djinn::wire::FrameHeader djinn_link::header(djinn::wire::FrameKind kind) const {
  djinn::wire::FrameHeader h;
  h.kind = kind;
  h.session = opened.session;
  h.incarnation = opened.incarnation;
  return h;
}

std::string djinn_link::ask_broker(const djinn::transport::Endpoint& broker) {
  Connection c(context);
  if (auto e = c.socket.connect(broker.text()); !e.empty()) return e;
  auto request = control::encode(control::Kind::open, open_request(config));
  c.socket.send({}, request);
  std::string why;
  auto answer = await(c, std::chrono::milliseconds(config.open_timeout_ms), why);
  if (!answer) return sentence(*this, why);
  auto bytes = answer->part(0);
  auto head = control::peek(bytes);
  if (!head) return sentence(*this, "does not speak Djinn's protocol");
  if (auto refused = control::decode<control::Refused>(bytes, control::Kind::refused)) return sentence(*this, "refused: " + refused->reason);
  if (head->version != djinn::wire::kVersion)
    return sentence(*this, "speaks protocol version " + std::to_string(head->version) + ", this client " + std::to_string(djinn::wire::kVersion));
  auto reply = control::decode<control::Opened>(bytes, control::Kind::opened);
  if (!reply) return sentence(*this, "sent a malformed answer");
  opened = std::move(*reply);
  return {};
}

std::string djinn_link::check_peer() {
  if (!config.check_peer_uid) return {};
  ucred peer{};
  socklen_t n = sizeof peer;
  connection->alive();  // reads the monitor: the descriptor
  if (connection->fd < 0 || getsockopt(connection->fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) != 0) return sentence(*this, "its user cannot be checked");
  if (peer.uid != getuid()) return sentence(*this, "runs as another user (" + std::to_string(peer.uid) + ")");
  return {};
}

// One attempt at the data connection. Empty when welcomed.
std::string djinn_link::hello(const std::string& where, std::chrono::milliseconds patience) {
  connection = std::make_unique<Connection>(context);
  if (auto e = connection->socket.connect(where); !e.empty()) return e;
  auto h = header(djinn::wire::FrameKind::hello);
  h.length = sizeof(djinn::wire::Hello);
  connection->socket.send({}, frame_of(h, opened.token.data(), opened.token.size()));
  std::string why;
  auto answer = await(*connection, patience, why);
  if (!answer) return where + ": " + why;
  djinn::wire::FrameHeader got;
  std::vector<djinn::wire::Record> records;
  auto e = djinn::wire::parse_frame(answer->part(0), answer->parts.size() - 1, got, records);
  if (e != djinn::wire::FrameError::none || got.kind != djinn::wire::FrameKind::welcome) return where + ": did not welcome the session";
  return check_peer();
}

std::string djinn_link::connect_worker(const djinn::transport::Endpoint& broker) {
  std::string ignored;
  auto worker = djinn::transport::parse_endpoint(opened.endpoint, ignored);
  if (!worker) return sentence(*this, "named a worker endpoint that cannot be used: " + opened.endpoint);
  // a worker that listens on every address is reached where its broker was reached
  if (worker->kind == djinn::transport::Endpoint::Kind::tcp && (worker->host == "0.0.0.0" || worker->host == "::")) worker->host = broker.host;
  data_endpoint = worker->text();
  std::string direct = hello(data_endpoint, kDirectTimeout);
  if (direct.empty()) return {};
  auto door = djinn::transport::parse_endpoint(opened.front_door, ignored);
  if (!door) return sentence(*this, "the session's worker cannot be reached: " + direct);
  if (door->kind == djinn::transport::Endpoint::Kind::tcp && (door->host == "0.0.0.0" || door->host == "::")) door->host = broker.host;
  std::string indirect = hello(door->text(), kDirectTimeout);
  if (!indirect.empty()) return sentence(*this, "the session's worker cannot be reached (" + direct + "; " + indirect + ")");
  data_endpoint = door->text();
  relayed = true;
  return {};
}

std::string djinn_link::open() {
  std::string error;
  endpoint_text = config.endpoint ? config.endpoint : "";
  auto broker = djinn::transport::parse_endpoint(endpoint_text, error);
  if (!broker) return "server endpoint " + error;
  if (config.emulate && *config.emulate) {
    emulation = parse_emulation(config.emulate, error);
    if (!emulation) return error;
    outgoing.emplace(*emulation);
    incoming.emplace(*emulation);
    dice.seed(emulation->seed);
  }
  if (auto e = ask_broker(*broker); !e.empty()) return e;
  if (auto e = connect_worker(*broker); !e.empty()) return e;
  connection->alive();
  connected_fd = connection->fd;
  heard = Clock::now().time_since_epoch().count();
  for (auto& op : opened.ops) op_names.push_back(op.c_str());
  // The program's signal handlers run on its own threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pump = std::thread([this] { run(); });
  pthread_setname_np(pump.native_handle(), "djinn-link");
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return {};
}

void djinn_link::declare_lost(const std::string& why) {
  if (closing || lost.exchange(true)) return;
  events.on_lost(events.self, sentence(*this, why).c_str());
}

bool djinn_link::send_now(std::span<const std::byte> frame, std::span<const djinn_part> bulk) { return connection->socket.send({}, frame, bulk); }

// The emulated network takes the bytes over; the pump lets them out when their time has come.
bool djinn_link::send_emulated(std::span<const std::byte> frame, std::span<const djinn_part> bulk) {
  Owned owned;
  owned.parts.emplace_back(frame.begin(), frame.end());
  size_t bytes = frame.size();
  for (const djinn_part& p : bulk) {
    auto data = static_cast<const std::byte*>(p.data);
    owned.parts.emplace_back(data, data + p.size);
    bytes += p.size;
    if (p.release) p.release(const_cast<void*>(p.data), p.hint);
  }
  std::lock_guard lock(emulation_mutex);
  auto hit = [&](double p) { return p > 0 && std::uniform_real_distribution<>(0, 1)(dice) < p; };
  if (hit(emulation->cut)) {
    connection->socket.close();
    return false;
  }
  if (hit(emulation->garbage)) {
    Owned bad = owned;
    for (auto& b : bad.parts[0])
      if (hit(0.02)) b ^= std::byte(dice() & 0xff);
    outgoing->push(std::move(bad), bytes);
  }
  if (hit(emulation->duplicate)) outgoing->push(owned, bytes);
  outgoing->push(std::move(owned), bytes, hit(emulation->slow) ? 50ms : 0ms);
  connection->socket.wake();
  return true;
}

void djinn_link::send_due() {
  std::lock_guard lock(emulation_mutex);
  while (auto owned = outgoing->pop_due()) {
    std::vector<djinn_part> bulk;
    for (size_t i = 1; i < owned->parts.size(); i++) bulk.push_back({owned->parts[i].data(), owned->parts[i].size(), nullptr, nullptr});
    send_now(owned->parts[0], bulk);
  }
}

bool djinn_link::send(const void* frame, size_t size, const djinn_part* bulk, size_t count) {
  std::span<const std::byte> f(static_cast<const std::byte*>(frame), size);
  std::span<const djinn_part> parts(bulk, count);
  if (lost) {
    for (const djinn_part& p : parts)
      if (p.release) p.release(const_cast<void*>(p.data), p.hint);
    return false;
  }
  bool ok = emulation ? send_emulated(f, parts) : send_now(f, parts);
  if (!ok) declare_lost("the connection broke");
  return ok;
}

void djinn_link::hand_over(Message& m) {
  heard = Clock::now().time_since_epoch().count();
  djinn::wire::FrameHeader h;
  auto frame = m.part(0);
  if (frame.size() < sizeof h) return;
  std::memcpy(&h, frame.data(), sizeof h);
  if (h.magic != djinn::wire::kFrameMagic || h.session != opened.session) return;
  if (h.kind == djinn::wire::FrameKind::pong || h.kind == djinn::wire::FrameKind::welcome) return;
  if (h.kind == djinn::wire::FrameKind::ping) {
    send_now(frame_of(header(djinn::wire::FrameKind::pong)), {});
    return;
  }
  std::vector<djinn_part> bulk;
  for (size_t i = 1; i < m.parts.size(); i++) bulk.push_back({m.parts[i].data(), m.parts[i].size(), nullptr, nullptr});
  ++messages_received;
  bytes_received += frame.size();
  for (auto& p : bulk) bytes_received += p.size;
  events.on_frame(events.self, frame.data(), frame.size(), bulk.data(), bulk.size());
}

// Delivers everything that is here. The caller holds `deliver`.
int djinn_link::drain() {
  int n = 0;
  while (auto m = connection->socket.receive()) {
    if (!incoming) {
      hand_over(*m);
      ++n;
      continue;
    }
    size_t bytes = 0;
    for (auto& p : m->parts) bytes += p.size();
    incoming->push(std::move(*m), bytes);
  }
  if (incoming)
    for (; auto m = incoming->pop_due(); ++n) hand_over(*m);
  return n;
}

void djinn_link::run() {
  using std::chrono::duration_cast;
  using std::chrono::milliseconds;
  auto heartbeat = milliseconds(config.heartbeat_ms), lost_after = milliseconds(config.lost_ms);
  auto last_loop = Clock::now(), last_ping = last_loop;
  while (!closing && !lost) {
    milliseconds sleep = std::min<milliseconds>(heartbeat, 500ms);
    if (emulation) {
      send_due();
      auto soon = [&](auto next) {
        if (next) sleep = std::min(sleep, std::max(0ms, duration_cast<milliseconds>(*next - Clock::now())));
      };
      std::scoped_lock lock(deliver, emulation_mutex);
      soon(outgoing->next());
      soon(incoming->next());
    }
    // under emulation the last fraction of a millisecond is waited for by looping
    connection->socket.wait(static_cast<int>(sleep.count()));
    {
      std::lock_guard lock(deliver);
      drain();
    }
    events.on_tick(events.self);
    auto now = Clock::now();
    // We were not running ourselves (Ctrl-Z, a debugger, a laptop's lid): the peer's silence proves nothing.
    if (now - last_loop > 2 * heartbeat + 1s) heard = now.time_since_epoch().count();
    last_loop = now;
    if (!connection->alive()) declare_lost("the connection was closed (server or worker ended)");
    Clock::time_point last(Clock::duration(heard.load()));
    if (now - last > lost_after) declare_lost("silent for " + std::to_string(duration_cast<milliseconds>(now - last).count()) + " ms");
    if (now - last > heartbeat / 2 && now - last_ping > heartbeat) {
      last_ping = now;
      ++heartbeats;
      auto ping = frame_of(header(djinn::wire::FrameKind::ping));
      send(ping.data(), ping.size(), nullptr, 0);
    }
  }
}

namespace djinn::link {

static void describe(const djinn_link& l, djinn_link_opened& o) {
  const auto& p = l.opened;
  o.session = p.session;
  o.range_address = p.range.address;
  o.range_size = p.range.size;
  o.lease_bytes = p.lease_bytes;
  o.incarnation = p.incarnation;
  o.worker_pid = p.worker_pid;
  o.server_pid = p.server_pid;
  o.threads = p.threads;
  o.level = static_cast<int>(p.level);
  o.checks = p.checks;
  o.computes_kernels = p.computes_kernels;
  o.device_name = p.device.name.c_str();
  o.server_host = p.server_host.c_str();
  o.server_version = p.server_version.c_str();
  o.torch = p.torch.c_str();
  o.endpoint = l.endpoint_text.c_str();
  o.total_memory = p.device.total_memory;
  o.major = p.device.major;
  o.minor = p.device.minor;
  o.multiprocessors = p.device.multiprocessors;
  o.threads_per_multiprocessor = p.device.threads_per_multiprocessor;
  o.clock_khz = p.device.clock_khz;
  o.l2_bytes = p.device.l2_bytes;
  o.ops = l.op_names.data();
  o.op_count = l.op_names.size();
  o.relayed = l.relayed;
}

static djinn_link* api_open(const djinn_link_config* config, const djinn_link_events* events, djinn_link_opened* out, char* error, size_t size) {
  try {
    auto link = std::make_unique<djinn_link>();
    link->config = *config;
    link->events = *events;
    std::string why = link->open();
    if (why.empty()) {
      describe(*link, *out);
      return link.release();
    }
    std::snprintf(error, size, "%s", why.c_str());
  } catch (const std::exception& e) {
    std::snprintf(error, size, "the link could not start: %s", e.what());
  }
  return nullptr;
}

static int api_send(djinn_link* l, const void* frame, size_t size, const djinn_part* bulk, size_t count) { return l->send(frame, size, bulk, count); }

static int api_drive(djinn_link* l, unsigned microseconds) {
  auto deadline = Clock::now() + std::chrono::microseconds(microseconds);
  do {
    if (std::unique_lock lock(l->deliver, std::try_to_lock); lock)
      if (int n = l->drain()) return n;
    for (int i = 0; i < 20; i++) __builtin_ia32_pause();
  } while (Clock::now() < deadline && !l->lost);
  return 0;
}

static void api_stats(djinn_link* l, djinn_link_stats* s) {
  s->messages_sent = l->connection->socket.messages_sent();
  s->bytes_sent = l->connection->socket.bytes_sent();
  s->messages_received = l->messages_received;
  s->bytes_received = l->bytes_received;
  s->heartbeats = l->heartbeats;
}

static void api_close(djinn_link* l, unsigned milliseconds) {
  bool was_lost = l->lost;
  if (l->emulation && !was_lost)  // what is under way in the emulated network still leaves
    for (auto until = Clock::now() + std::chrono::milliseconds(milliseconds); Clock::now() < until && l->outgoing->next(); std::this_thread::yield()) l->send_due();
  l->closing = true;
  if (!was_lost) l->send_now(frame_of(l->header(wire::FrameKind::goodbye)), {});
  l->connection->socket.wake();
  if (l->pump.joinable()) l->pump.join();
  delete l;  // the socket's linger lets the goodbye leave
}

static void api_abandon(djinn_link* l) {
  int fd = l->connected_fd;
  if (fd >= 0) ::close(fd);
}

}  // namespace djinn::link

extern "C" __attribute__((visibility("default"))) const djinn_link_api* djinn_link_get(uint32_t version) {
  using namespace djinn::link;
  static const djinn_link_api api = {DJINN_LINK_VERSION, sizeof(djinn_link_api), api_open, api_send, api_drive, api_stats, api_close, api_abandon};
  return version == DJINN_LINK_VERSION ? &api : nullptr;
}

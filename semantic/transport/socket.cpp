// See socket.hpp.
#include "semantic/transport/socket.hpp"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "semantic/wire/limits.hpp"

namespace djinn::transport {

using namespace std::chrono_literals;

namespace {

// A stranger who connects must finish the ZMTP handshake in this time.
constexpr int kHandshakeMilliseconds = 5000;

void set_common_options(zmq::socket_t& s) {
  s.set(zmq::sockopt::linger, Socket::kLingerMilliseconds);
  // Unbounded here because the credit window bounds what a session may have under way; a bound here would drop (ROUTER) or block under the mutex.
  s.set(zmq::sockopt::sndhwm, 0);
  s.set(zmq::sockopt::rcvhwm, 1000);
  s.set(zmq::sockopt::maxmsgsize, static_cast<int64_t>(wire::kBulkBytesMax + wire::kFrameBytesMax));
  s.set(zmq::sockopt::handshake_ivl, kHandshakeMilliseconds);
  s.set(zmq::sockopt::reconnect_ivl, -1);
  s.set(zmq::sockopt::tcp_keepalive, 1);
  s.set(zmq::sockopt::tcp_keepalive_idle, 30);
  s.set(zmq::sockopt::ipv6, true);
  // large copies move in large system calls
  s.set(zmq::sockopt::sndbuf, 1 << 20);
  s.set(zmq::sockopt::rcvbuf, 1 << 20);
}

// Lets libzmq's free callback reach the caller's. It runs on whichever thread drops the message last, mostly libzmq's own; `published` orders it
// after everything that the sender did to the bytes, in terms that the thread sanitizer sees too (libzmq's own fences are invisible to it).
struct Hold {
  djinn_part part;
  std::atomic<bool> published{false};
  static void call(void* data, void* hint) {
    auto* hold = static_cast<Hold*>(hint);
    if (hold->published.load(std::memory_order_acquire)) hold->part.release(data, hold->part.hint);
    delete hold;
  }
};

zmq::message_t to_message(const djinn_part& p) {
  if (!p.release) return zmq::message_t(p.data, p.size);  // static or short-lived: copied
  auto* hold = new Hold{p};
  hold->published.store(true, std::memory_order_release);
  return zmq::message_t(const_cast<void*>(p.data), p.size, Hold::call, hold);
}

}  // namespace

Socket::Socket(zmq::context_t& context, Kind kind) : socket_(context, kind == Kind::dealer ? zmq::socket_type::dealer : zmq::socket_type::router) {
  set_common_options(socket_);
  if (kind == Kind::router) socket_.set(zmq::sockopt::router_mandatory, true);
  event_fd_ = socket_.get(zmq::sockopt::fd);
  wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

Socket::~Socket() {
  close();
  ::close(wake_fd_);
}

void Socket::close(int linger_ms) {
  std::lock_guard lock(mutex_);
  if (!open_) return;
  open_ = false;
  socket_.set(zmq::sockopt::linger, linger_ms);
  socket_.close();
}

std::string Socket::bind(const std::string& endpoint) try {
  std::lock_guard lock(mutex_);
  socket_.bind(endpoint);
  return {};
} catch (const zmq::error_t& e) {
  return "cannot listen on " + endpoint + ": " + e.what();
}

std::string Socket::connect(const std::string& endpoint) try {
  std::lock_guard lock(mutex_);
  socket_.connect(endpoint);
  return {};
} catch (const zmq::error_t& e) {
  return "cannot connect to " + endpoint + ": " + e.what();
}

std::string Socket::endpoint() const {
  std::string text = const_cast<zmq::socket_t&>(socket_).get(zmq::sockopt::last_endpoint);
  // IPv6 is switched on, so libzmq writes IPv4 addresses as tcp://[::ffff:127.0.0.1]:5555; everybody else does not
  constexpr std::string_view kMapped = "tcp://[::ffff:";
  if (size_t end = text.find(']'); text.rfind(kMapped, 0) == 0 && text.find('.') < end && end != text.npos)
    text = "tcp://" + text.substr(kMapped.size(), end - kMapped.size()) + text.substr(end + 1);
  return text;
}

std::string Socket::monitor(int events) {
  static std::atomic<uint64_t> number{0};
  std::string name = "inproc://djinn-monitor-" + std::to_string(++number);
  std::lock_guard lock(mutex_);
  if (zmq_socket_monitor(socket_.handle(), name.c_str(), events) != 0) return {};
  return name;
}

bool Socket::readable_locked() { return (socket_.get(zmq::sockopt::events) & ZMQ_POLLIN) != 0; }

bool Socket::send_locked(std::span<const std::byte> identity, std::span<const std::byte> frame, std::span<const djinn_part> bulk) {
  size_t taken = 0;  // parts whose release libzmq has taken over
  bool ok = open_;
  try {
    auto flags = [&](bool more) { return more ? zmq::send_flags::sndmore | zmq::send_flags::dontwait : zmq::send_flags::dontwait; };
    if (ok && !identity.empty()) ok = socket_.send(zmq::message_t(identity.data(), identity.size()), flags(true)).has_value();
    if (ok) ok = socket_.send(zmq::message_t(frame.data(), frame.size()), flags(!bulk.empty())).has_value();
    for (; ok && taken < bulk.size();) {
      zmq::message_t m = to_message(bulk[taken]);
      ++taken;  // from here on the message's destructor releases it, also when send fails
      ok = socket_.send(std::move(m), flags(taken < bulk.size())).has_value();
    }
  } catch (const zmq::error_t&) {
    ok = false;  // EHOSTUNREACH: a ROUTER's peer is gone; ETERM: we are closing
  }
  for (; taken < bulk.size(); ++taken) release(bulk[taken]);
  return ok;
}

bool Socket::send(std::span<const std::byte> identity, std::span<const std::byte> frame, std::span<const djinn_part> bulk) {
  uint64_t bytes = frame.size();
  for (const djinn_part& p : bulk) bytes += p.size;
  bool ok, arrived;
  {
    std::lock_guard lock(mutex_);
    ok = send_locked(identity, frame, bulk);
    arrived = open_ && readable_locked();
  }
  if (arrived) wake();
  if (ok) {
    bytes_sent_ += bytes;
    ++messages_sent_;
  }
  return ok;
}

std::optional<Message> Socket::receive_locked() {
  if (!open_) return std::nullopt;
  try {
    zmq::message_t first;
    if (!socket_.recv(first, zmq::recv_flags::dontwait)) return std::nullopt;
    Message m;
    bool more = first.more();
    m.parts.push_back(std::move(first));
    while (more) {  // a multipart message arrives whole
      zmq::message_t next;
      if (!socket_.recv(next, zmq::recv_flags::dontwait)) break;
      more = next.more();
      // a stranger may send many parts: what is beyond the limit is read and dropped, so that the frame's own check refuses the message
      if (m.parts.size() < wire::kBulkPartsMax + 3) m.parts.push_back(std::move(next));
    }
    return m;
  } catch (const zmq::error_t&) {
    return std::nullopt;
  }
}

std::optional<Message> Socket::receive() {
  std::lock_guard lock(mutex_);
  return receive_locked();
}

void Socket::wait(std::chrono::nanoseconds time, int also) {
  {
    std::lock_guard lock(mutex_);
    if (!open_ || readable_locked()) return;
  }
  pollfd fds[3] = {{wake_fd_, POLLIN, 0}, {event_fd_, POLLIN, 0}, {also, POLLIN, 0}};  // poll skips negative descriptors
  time = std::max(time, 0ns);
  timespec limit{static_cast<time_t>(time / 1s), static_cast<long>(time % 1s / 1ns)};
  if (::ppoll(fds, 3, &limit, nullptr) > 0 && (fds[0].revents & POLLIN)) clear_wake();
}

bool Socket::readable() {
  std::lock_guard lock(mutex_);
  return open_ && readable_locked();
}

void Socket::clear_wake() {
  uint64_t n;
  while (::read(wake_fd_, &n, sizeof n) < 0 && errno == EINTR) {}
}

void Socket::wake() {
  uint64_t one = 1;
  while (::write(wake_fd_, &one, sizeof one) < 0 && errno == EINTR) {}
}

std::optional<MonitorEvent> read_monitor(zmq::socket_t& monitor) try {
  zmq::message_t event, address;
  if (!monitor.recv(event, zmq::recv_flags::dontwait) || event.size() < 6) return std::nullopt;
  if (event.more() && !monitor.recv(address, zmq::recv_flags::dontwait)) return std::nullopt;
  MonitorEvent e;
  int32_t value;
  std::memcpy(&e.event, event.data(), 2);
  std::memcpy(&value, static_cast<const char*>(event.data()) + 2, 4);
  e.value = value;
  return e;
} catch (const zmq::error_t&) {
  return std::nullopt;
}

}  // namespace djinn::transport

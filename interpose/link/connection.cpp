// See connection.hpp.
#include "interpose/link/connection.hpp"

#include <linux/tcp.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace djinn::link {

using namespace std::chrono_literals;
using transport::Endpoint;
using transport::Message;
using transport::Socket;

namespace {

constexpr int kMonitored = ZMQ_EVENT_CONNECTED | ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_CLOSED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED |
                           ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;

// Bytes that a peer's kernel acknowledges although its process is stopped: our pings. More than this between two looks means that it reads.
constexpr uint64_t kAcknowledgedByKernel = 64u << 10;

// Addresses of one name that are tried.
constexpr size_t kAddressesMax = 4;

}  // namespace

std::vector<Endpoint> resolve(const Endpoint& endpoint, std::string& error) {
  if (endpoint.kind == Endpoint::Kind::ipc) return {endpoint};
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  if (int e = getaddrinfo(endpoint.host.c_str(), nullptr, &hints, &found); e != 0) {
    error = "the name '" + endpoint.host + "' cannot be resolved: " + gai_strerror(e);
    return {};
  }
  std::vector<Endpoint> out;
  for (addrinfo* a = found; a && out.size() < kAddressesMax; a = a->ai_next) {
    char host[NI_MAXHOST];
    if (getnameinfo(a->ai_addr, a->ai_addrlen, host, sizeof host, nullptr, 0, NI_NUMERICHOST) != 0) continue;
    out.push_back(endpoint);
    out.back().host = host;
  }
  freeaddrinfo(found);
  if (out.empty()) error = "the name '" + endpoint.host + "' has no address";
  return out;
}

Connection::Connection(zmq::context_t& context) : socket(context, Socket::Kind::dealer), monitor_(context, zmq::socket_type::pair) {
  monitor_.set(zmq::sockopt::linger, 0);
  monitor_.connect(socket.monitor(kMonitored));
  monitor_fd_ = monitor_.get(zmq::sockopt::fd);
}

Connection::~Connection() { close(Socket::kLingerMilliseconds); }

void Connection::close(int linger_ms) {
  socket.close(linger_ms);
  monitor_.close();
}

bool Connection::alive() {
  while (auto e = transport::read_monitor(monitor_)) switch (e->event) {
      case ZMQ_EVENT_CONNECTED:
        reached_ = true;
        fd_ = e->value;
        if (fstat(fd_, &identity_) != 0) fd_ = -1;
        break;
      case ZMQ_EVENT_HANDSHAKE_SUCCEEDED: handshaken_ = true; break;
      default:  // libzmq's numbers: the others that are subscribed to are ends
        failed_ = true;
        if (!why_.empty()) break;
        why_ = handshaken_ ? "the connection was closed" : reached_ ? "what listens there does not speak ZeroMQ's protocol" : "nobody listens there";
    }
  return !failed_;
}

std::optional<Message> Connection::await(std::chrono::milliseconds patience, std::string& why) {
  auto deadline = Clock::now() + patience;
  for (;;) {
    bool connected = alive();  // asked first: what came before the end is still delivered
    if (auto m = socket.receive()) return m;
    if (!connected) return why = why_, std::nullopt;
    auto left = deadline - Clock::now();
    if (left <= 0ns) return why = "no answer within " + std::to_string(patience.count()) + " ms", std::nullopt;
    socket.wait(left, monitor_fd_);
  }
}

std::optional<uid_t> Connection::peer_uid() {
  ucred peer{};
  socklen_t n = sizeof peer;
  alive();
  if (fd_ < 0 || getsockopt(fd_, SOL_SOCKET, SO_PEERCRED, &peer, &n) != 0) return std::nullopt;
  return peer.uid;
}

bool Connection::descriptor_is_ours() const {
  struct stat now;
  return fd_ >= 0 && fstat(fd_, &now) == 0 && now.st_dev == identity_.st_dev && now.st_ino == identity_.st_ino;
}

bool Connection::moving() {
  tcp_info info{};
  socklen_t n = sizeof info;
  if (!descriptor_is_ours() || getsockopt(fd_, IPPROTO_TCP, TCP_INFO, &info, &n) != 0) return false;
  bool moved = info.tcpi_bytes_received > received_ || info.tcpi_bytes_acked > acknowledged_ + kAcknowledgedByKernel;
  received_ = info.tcpi_bytes_received;
  acknowledged_ = info.tcpi_bytes_acked;
  return moved;
}

void Connection::cut() const {
  if (descriptor_is_ours()) ::shutdown(fd_, SHUT_RDWR);
}

void Connection::abandon() const {
  if (descriptor_is_ours()) ::close(fd_);
}

}  // namespace djinn::link

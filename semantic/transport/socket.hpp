// A ZeroMQ socket that several threads may use. libzmq's sockets belong to one thread at a time; here a mutex hands this one over (a full fence,
// which libzmq allows), so that a program thread sends without a hop through another thread, and a waiting thread may look for its answer itself.
// Nobody sleeps in libzmq while holding the mutex: waiting is poll(2) on the socket's event descriptor. That descriptor is edge-triggered and any
// operation on the socket may consume the edge, so every send looks whether something arrived, and wakes the sleeper if so.
#pragma once
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>
#include <zmq.hpp>

#include "semantic/abi/parts.hpp"

namespace djinn::transport {

// A received message, part by part; the parts' memory is libzmq's and lives as long as this.
struct Message {
  std::vector<zmq::message_t> parts;
  static std::span<const std::byte> view(const zmq::message_t& m) { return {static_cast<const std::byte*>(m.data()), m.size()}; }
  std::span<const std::byte> part(size_t i) const { return i < parts.size() ? view(parts[i]) : std::span<const std::byte>{}; }
};

class Socket {
 public:
  enum class Kind { dealer, router };
  Socket(zmq::context_t& context, Kind kind);
  ~Socket();

  // One clause of error, empty on success. bind may be given port 0; endpoint() then says what it became.
  std::string bind(const std::string& endpoint);
  std::string connect(const std::string& endpoint);
  std::string endpoint() const;

  // One message: `identity` first on a ROUTER (empty on a DEALER), `frame` copied, bulk parts taken over without a copy. Never blocks: queues are
  // bounded by the protocol's credit window, not here. False when the peer is gone; every release is called exactly once, in either case.
  bool send(std::span<const std::byte> identity, std::span<const std::byte> frame, std::span<const djinn_part> bulk = {});

  // The next whole message, if one is here. Waits for the mutex, never for the network.
  std::optional<Message> receive();

  // Sleeps until something may have arrived, someone called wake(), the time is over, or `also` (another descriptor, -1 = none) has input. One thread
  // at a time.
  void wait(int milliseconds, int also = -1) { wait(std::chrono::milliseconds(milliseconds), also); }
  void wait(std::chrono::nanoseconds time, int also = -1);
  void wake();

  // For a loop that waits for more than this socket: when readable() is false, poll(2) for input on both, and clear_wake() after.
  int event_descriptor() const { return event_fd_; }
  int wake_descriptor() const { return wake_fd_; }
  bool readable();
  void clear_wake();

  // Events of the connection (disconnected, refused …) appear on this endpoint as libzmq monitor messages. Once, before connect or bind.
  std::string monitor(int events);

  // Sends and receives nothing from here on, from whatever thread; what is queued may leave for as long as `linger_ms` after.
  static constexpr int kLingerMilliseconds = 1000;
  void close(int linger_ms = kLingerMilliseconds);
  uint64_t bytes_sent() const { return bytes_sent_; }
  uint64_t messages_sent() const { return messages_sent_; }

 private:
  bool send_locked(std::span<const std::byte> identity, std::span<const std::byte> frame, std::span<const djinn_part> bulk);
  std::optional<Message> receive_locked();
  bool readable_locked();

  std::mutex mutex_;
  zmq::socket_t socket_;
  int event_fd_ = -1;  // of the socket
  int wake_fd_ = -1;   // ours
  bool open_ = true;
  std::atomic<uint64_t> bytes_sent_{0}, messages_sent_{0};
};

// One event of a socket monitor; value is the connection's descriptor for connected and disconnected.
struct MonitorEvent {
  uint16_t event = 0;
  int value = 0;
};
std::optional<MonitorEvent> read_monitor(zmq::socket_t& monitor);

}  // namespace djinn::transport

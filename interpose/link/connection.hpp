// One connection of the client: a DEALER, and what its monitor says about it. The monitor is what makes errors quick: it tells that nobody listens,
// or that the peer is gone, while the socket itself would only stay silent. It also tells the descriptor, which a forked child must close, and
// through which the kernel is asked who the peer is and whether bytes still move.
#pragma once
#include <sys/stat.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "semantic/transport/endpoint.hpp"
#include "semantic/transport/socket.hpp"

namespace djinn::link {

using Clock = std::chrono::steady_clock;

// The numeric endpoints behind an endpoint, in the resolver's order: libzmq would look a name up on its I/O thread, try one address only (for
// localhost ::1, where a server may listen on 127.0.0.1), and keep a failure to itself. Empty, and a clause in `error`, when there is none.
std::vector<transport::Endpoint> resolve(const transport::Endpoint& endpoint, std::string& error);

class Connection {
 public:
  explicit Connection(zmq::context_t& context);
  ~Connection();

  // Waits for one message. Nullopt and a clause in `why` when the peer cannot be reached, went away, or took longer than `patience`.
  std::optional<transport::Message> await(std::chrono::milliseconds patience, std::string& why);

  // Reads the monitor, on the one thread that waits on monitor_descriptor(). False once the peer is known to be gone or unreachable; why() says how.
  bool alive();
  const std::string& why() const { return why_; }
  bool reached() const { return reached_; }  // somebody accepted the connection, once
  int monitor_descriptor() const { return monitor_fd_; }

  // The user at the other end of an ipc connection, as the kernel knows it.
  std::optional<uid_t> peer_uid();

  // Whether bytes have moved since the last call, in a way that only a living peer process brings about: it sent some, or it took more of ours than
  // its kernel acknowledges for it. A large message under way is silent otherwise, because libzmq delivers whole ones. False on ipc.
  bool moving();

  // Ends the connection as a broken cable would: both sides see the end, what is queued is lost.
  void cut() const;

  // In a forked child: closes the descriptor, if it still is this connection. Async-signal-safe.
  void abandon() const;

  void close(int linger_ms);

  transport::Socket socket;

 private:
  bool descriptor_is_ours() const;

  zmq::socket_t monitor_;
  int monitor_fd_ = -1;
  int fd_ = -1;
  struct stat identity_ {};  // of fd_: its number may belong to somebody else once the connection is gone
  bool reached_ = false, handshaken_ = false;
  bool failed_ = false;
  std::string why_;
  uint64_t received_ = 0, acknowledged_ = 0;
};

}  // namespace djinn::link

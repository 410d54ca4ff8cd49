// One endpoint that the server listens on: the control socket, the front door beside it, and the places beside both where workers listen.
#pragma once
#include <optional>
#include <string>

#include "semantic/transport/endpoint.hpp"
#include "semantic/transport/socket.hpp"
#include "server/options.hpp"
#include "server/session/channel.hpp"

namespace djinn::server {

class Listener {
 public:
  Listener(zmq::context_t& context, const transport::Endpoint& endpoint);
  ~Listener();
  // Empty, or one sentence. An ipc socket's folder must belong to this user alone; a socket that another server answers on is left to it.
  std::string open();
  Bind worker_bind(const Options& options, uint64_t worker) const;
  // Of a worker that has ended without cleaning up.
  void forget_worker(uint64_t worker) const;
  const transport::Endpoint& endpoint() const { return endpoint_; }
  const transport::Endpoint& front_endpoint() const { return front_endpoint_; }

  transport::Socket control, front;

 private:
  std::string open_ipc();
  std::string open_tcp();
  std::string worker_path(uint64_t worker) const;
  transport::Endpoint endpoint_, front_endpoint_;
  bool bound_ = false;
};

// Who sent a message: user id of the other end of an ipc connection, or nothing for tcp.
std::optional<uint32_t> peer_uid(const zmq::message_t& m);

}  // namespace djinn::server

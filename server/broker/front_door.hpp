// The front door: one port for everything, for clients that cannot reach a worker's own. Control messages go to the broker; data frames of a
// connection that has shown a session's token are relayed to that session's worker and back, without a copy. It has a thread of its own, because what
// it carries is bulky and opening a session should not wait for it.
#pragma once
#include <array>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "server/broker/listener.hpp"
#include "server/session/door.hpp"

namespace djinn::server {

// Where a message came from, and where its answer goes.
struct Caller {
  transport::Socket* socket = nullptr;
  std::vector<std::byte> identity;
  size_t listener = 0;
  std::optional<uint32_t> uid;  // of an ipc peer
};

class FrontDoor {
 public:
  struct Target {
    uint64_t session = 0;
    std::string endpoint;  // of its worker
  };
  using OnControl = std::function<void(Caller, zmq::message_t)>;
  FrontDoor(zmq::context_t& context, std::vector<Listener*> listeners, Rejections& rejections, OnControl on_control);
  ~FrontDoor();

  // The broker's sessions, as they come and go. close_session tells a relayed client why.
  void open_session(const std::array<uint8_t, 16>& token, Target target);
  void close_session(uint64_t session, const std::string& reason);

 private:
  struct Relay {
    explicit Relay(zmq::context_t& context) : worker(context, transport::Socket::Kind::dealer) {}
    transport::Socket worker;
    size_t listener = 0;
    int descriptor = -1;  // of the client's connection
    uint64_t session = 0;
  };
  struct Known {
    std::array<uint8_t, 16> token;
    Target target;
  };
  using Identity = std::vector<std::byte>;

  void run();
  bool pump();
  void from_client(size_t listener, transport::Message m);
  void hello(size_t listener, const transport::Message& m);
  void end_disconnected();
  void end_relays();
  void sleep();

  zmq::context_t& context_;
  std::vector<Listener*> listeners_;
  std::vector<zmq::socket_t> monitors_;
  Rejections& rejections_;
  OnControl on_control_;
  std::map<std::pair<size_t, Identity>, std::unique_ptr<Relay>> relays_;
  std::mutex mutex_;  // of what follows
  std::vector<Known> sessions_;
  std::vector<std::pair<uint64_t, std::string>> closed_;
  std::atomic<bool> over_{false};
  std::thread thread_;
};

}  // namespace djinn::server

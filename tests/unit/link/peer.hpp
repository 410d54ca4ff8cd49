// A server small enough to be told what to do wrong: a control port, a data port and a front door on ROUTER sockets, each with a thread of its own.
// By default it opens every session, welcomes its token, and answers each batch with a report that carries the batch's bulk parts back.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>

#include "semantic/transport/socket.hpp"
#include "semantic/wire/control.hpp"
#include "semantic/wire/frame.hpp"

namespace djinn::test {

namespace control = wire::control;
using Bytes = std::vector<std::byte>;

class Peer {
 public:
  enum class Network { tcp, ipc };
  explicit Peer(Network network);
  ~Peer();
  void start();  // what it is to answer is said before; Client::open does this
  void stop();   // as if it were killed: every connection closes

  std::string endpoint;  // of the control port
  std::string front_door;
  control::Opened opened;  // what is answered; change it before a client comes

  // Null: the default. Given: what is sent back for an open, or for a hello.
  std::function<Bytes(const control::Open&)> answer_open;
  std::function<Bytes(const wire::FrameHeader&)> answer_hello;
  std::atomic<bool> mute{false};  // the data port reads and says nothing

  // Sends to the client that said hello last.
  void send(const Bytes& frame, const std::vector<Bytes>& bulk = {});
  Bytes report(uint64_t number = 1, uint32_t bulk = 0);
  wire::FrameHeader header(wire::FrameKind kind) const;

  // "open", "hello", "batch", "ping", "goodbye", "bad token", "malformed", "connected", "disconnected" so far
  int count(const std::string& what);
  bool wait_for(const std::string& what, int n = 1, std::chrono::milliseconds patience = std::chrono::seconds(5));
  control::Open last_open();
  std::vector<uint64_t> tickets();  // first_ticket of each batch, in order

 private:
  void note(const std::string& what);
  void serve(transport::Socket& s, zmq::socket_t* monitor);
  void on_message(transport::Socket& s, const transport::Message& m);
  void on_frame(transport::Socket& s, const transport::Message& m);

  std::string folder_;
  zmq::context_t context_{1};
  transport::Socket control_, data_, door_;
  zmq::socket_t monitor_;
  std::atomic<bool> over_{false};
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, int> counts_;
  control::Open last_open_;
  std::vector<uint64_t> tickets_;
  transport::Socket* client_socket_ = nullptr;
  Bytes client_;
};

template <class T>
Bytes bytes_of(const T& v) {
  auto p = reinterpret_cast<const std::byte*>(&v);
  return {p, p + sizeof v};
}

}  // namespace djinn::test

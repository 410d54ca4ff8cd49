// A client that speaks the wire and nothing else: for tests that need a server's real behaviour and every liberty with the bytes. It has one thread
// and no arena; the session's addresses are numbers to it.
#pragma once
#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "semantic/transport/socket.hpp"
#include "semantic/wire/command.hpp"
#include "semantic/wire/control.hpp"
#include "semantic/wire/frame.hpp"

namespace djinn::test {

namespace control = wire::control;
using Bytes = std::vector<std::byte>;

template <class Fixed>
Bytes bytes_of(const Fixed& f) {
  auto b = std::as_bytes(std::span(&f, 1));
  return {b.begin(), b.end()};
}

// A record of a report, with its bulk.
struct Got {
  wire::RecordHeader head;
  Bytes payload;
  std::vector<Bytes> bulk;
  template <class Fixed>
  Fixed fixed() const {
    wire::Reader r(payload);
    return r.get<Fixed>();
  }
  std::string text() const;  // the strings after a reply's or an error's fixed part
};

class WireClient {
 public:
  ~WireClient();
  // The broker's answer in words: empty = opened.
  std::string open(const std::string& broker, control::Open request = default_open());
  static control::Open default_open();
  // Hello at `endpoint` (default: the worker's). True when welcomed.
  bool hello(const std::string& endpoint = {});
  bool connect_raw(const std::string& endpoint);
  control::Opened opened;

  // One frame of one record each.
  uint64_t post(wire::Opcode opcode, const Bytes& payload, const std::vector<Bytes>& bulk = {}, uint16_t flags = 0);
  // Waits for the reply; nullopt when the session ended or 5 s passed.
  std::optional<Got> call(wire::Opcode opcode, const Bytes& payload, const std::vector<Bytes>& bulk = {});
  template <class Fixed>
  uint64_t post(wire::Opcode opcode, const Fixed& fixed) {
    return post(opcode, bytes_of(fixed));
  }
  template <class Fixed>
  std::optional<Got> call(wire::Opcode opcode, const Fixed& fixed) {
    return call(opcode, bytes_of(fixed));
  }
  int32_t call_status(const std::optional<Got>& g) const { return g ? g->fixed<wire::Reply>().status : -1; }

  bool send_frame(wire::FrameHeader header, const Bytes& body = {}, const std::vector<Bytes>& bulk = {});
  bool send_bytes(const Bytes& frame, const std::vector<Bytes>& bulk = {});
  wire::FrameHeader header(wire::FrameKind kind) const;
  // Reads until `enough()` or the time is over; records collect in `records`, the text of a refused frame in `refused`.
  template <class Enough>
  bool read_until(Enough enough, std::chrono::milliseconds patience = std::chrono::seconds(5)) {
    auto deadline = std::chrono::steady_clock::now() + patience;
    while (!enough()) {
      if (read_one()) continue;
      bool last = closed() || std::chrono::steady_clock::now() > deadline;
      if (!last) socket->wait(20);
      else if (!read_one()) return enough();  // what came just before the end counts
    }
    return true;
  }
  bool synchronize() { return call_status(call(wire::Opcode::synchronize, wire::Handle{wire::kAllStreams})) == 0; }
  bool closed();
  void disconnect();

  std::vector<Got> records;
  std::vector<wire::FrameKind> kinds;
  std::string refused;
  uint64_t acknowledged = 0, reports = 0, next_ticket = 1;
  bool reports_in_order = true;
  std::unique_ptr<transport::Socket> socket;

 private:
  bool read_one();
  zmq::context_t context_{1};
  std::unique_ptr<zmq::socket_t> monitor_;
  bool closed_ = false;
};

// A real djinn-gpu-server on a private ipc socket (and more, by options), ended with SIGTERM.
class ServerProcess {
 public:
  explicit ServerProcess(std::vector<std::string> options = {}, bool tcp = false);
  ~ServerProcess();
  std::string endpoint;
  std::string folder;
  pid_t pid = -1;
  // Exit status of waitpid, after `signal`.
  int end(int signal);
  control::StatsReply stats();
  template <class Predicate>
  bool until(Predicate p, std::chrono::milliseconds patience = std::chrono::seconds(5)) {
    auto deadline = std::chrono::steady_clock::now() + patience;
    for (;;) {
      if (p(stats())) return true;
      if (std::chrono::steady_clock::now() > deadline) return false;
    }
  }
  std::string log() const;
};

}  // namespace djinn::test

// The door of a session: which frames from which connection may reach the executor. It knows tokens, identities and tickets and no sockets; the
// worker (worker.cpp) does what its verdicts say. The rules: the first frame on a connection carries the token; one connection at a time; after that
// each ticket is admitted once and without a gap; whoever is inside and breaks a rule ends the session, whoever is outside is dropped and counted.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "semantic/transport/socket.hpp"
#include "semantic/wire/frame.hpp"

namespace djinn::server {

// Frames that were dropped, by reason; each reason is logged when it first occurs.
class Rejections {
 public:
  void count(std::string_view reason);
  std::vector<std::string> list() const;  // "bad token: 3"

 private:
  mutable std::mutex mutex_;
  std::map<std::string, uint64_t, std::less<>> counts_;
};

// Each ticket once, in order: lower ones are a replay, a gap is refused.
class TicketLog {
 public:
  // How many of the `count` records from `first` on have been admitted before; nullopt = a gap, or no tickets at all.
  std::optional<uint32_t> admit(uint64_t first, uint32_t count);
  uint64_t last() const { return next_ - 1; }

 private:
  uint64_t next_ = 1;
};

// A frame on its way to the executor. The records view into the message.
struct Batch {
  transport::Message message;
  wire::FrameHeader header;
  std::vector<wire::Record> records;
  uint32_t skip = 0;  // records at the front that have been executed before
  uint64_t bytes = 0;
  bool goodbye = false;
};

struct Verdict {
  enum class Kind {
    drop,       // counted already
    welcome,    // answer `welcome`: the client is in
    pong,       // answer `pong`
    quiet,      // a sign of life
    work,       // for the executor
    turn_away,  // answer `refused` with `text` to this connection; the session is not touched
    violation,  // the session ends; `text` is for its client
  } kind = Kind::drop;
  std::string text;
};

class Door {
 public:
  Door(std::array<uint8_t, 16> token, uint64_t session, uint32_t incarnation, Rejections& rejections);
  // Part 0 of `message` is the connection's identity. On `work` the batch is filled and the message has moved into it.
  Verdict receive(transport::Message& message, Batch& batch);
  // Of the connection that is inside; empty while nobody is.
  const std::vector<std::byte>& identity() const { return identity_; }
  // Its descriptor in this process, which the socket monitor names when it closes; -1 = nobody, or not known.
  int descriptor() const { return descriptor_; }

 private:
  Verdict hello(const transport::Message& message);
  Verdict admit(transport::Message& message, Batch& batch);

  const std::array<uint8_t, 16> token_;
  const uint64_t session_;
  const uint32_t incarnation_;
  Rejections& rejections_;
  TicketLog tickets_;
  std::vector<std::byte> identity_;
  int descriptor_ = -1;
};

// Compares all bytes whatever they are, so that time tells nothing.
bool same_token(const std::array<uint8_t, 16>& a, const uint8_t* b);

}  // namespace djinn::server

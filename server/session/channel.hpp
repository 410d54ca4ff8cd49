// Between the broker and one worker process: a SOCK_SEQPACKET pair, one small message each, through the same bounded archives as the control plane.
// The end of either process closes the pair, which the other sees at once.
#pragma once
#include <sys/socket.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "semantic/wire/archive.hpp"
#include "semantic/wire/control.hpp"

namespace djinn::server {

namespace control = wire::control;

enum class ChannelKind : uint64_t { ready = 1, assign, assigned, failed, threads, lease_wanted, lease_granted, counters_wanted, counters, ended, shut };

// One struct for all messages: rare, small, and a reader sees every field there is.
struct ChannelMessage {
  ChannelKind kind = ChannelKind::ready;
  std::string endpoint, torch, text;        // ready: where it listens, executor's version; failed, ended, shut: why
  std::vector<std::string> names;           // ready: ops; counters, ended: "reason: count" of rejected frames
  control::Opened opened;                   // assign: session, token, lease, level, threads …; assigned: the range
  std::vector<control::Range> ranges;       // assign: what the client offers
  control::Counters counters;               // counters, ended
  uint64_t number = 0;                      // threads; bytes of a lease
  template <class A>
  void serialize(A& a) {
    a(kind, endpoint, torch, text, names, opened, ranges, counters, number);
  }
};

// The kernel bounds a packet; the op list (about 100 KiB) is the largest.
constexpr int kChannelBuffer = 1 << 20;

inline bool send_channel(int fd, const ChannelMessage& m) {
  auto bytes = control::pack(m);
  ssize_t n;
  do n = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
  while (n < 0 && errno == EINTR);
  return n == static_cast<ssize_t>(bytes.size());
}

// Nullopt: the other side has ended (or sent what is not a message, which a worker never does).
inline std::optional<ChannelMessage> receive_channel(int fd) {
  std::vector<std::byte> buffer(kChannelBuffer);
  ssize_t n;
  do n = ::recv(fd, buffer.data(), buffer.size(), 0);
  while (n < 0 && errno == EINTR);
  if (n <= 0) return std::nullopt;
  return control::unpack<ChannelMessage>(std::span(buffer).first(static_cast<size_t>(n)));
}

}  // namespace djinn::server

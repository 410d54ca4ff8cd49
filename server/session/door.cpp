// See door.hpp.
#include "server/session/door.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>

namespace djinn::server {

using wire::FrameError;
using wire::FrameKind;

void Rejections::count(std::string_view reason) {
  std::lock_guard lock(mutex_);
  auto it = counts_.find(reason);
  if (it == counts_.end()) {
    it = counts_.emplace(reason, 0).first;
    spdlog::warn("dropped a message: {} (counted from now on, logged once)", reason);
  }
  ++it->second;
}

std::vector<std::string> Rejections::list() const {
  std::lock_guard lock(mutex_);
  std::vector<std::string> out;
  for (const auto& [reason, n] : counts_) out.push_back(reason + ": " + std::to_string(n));
  return out;
}

std::optional<uint32_t> TicketLog::admit(uint64_t first, uint32_t count) {
  if (first == 0 || first > next_ || first > UINT64_MAX - count) return std::nullopt;
  uint64_t end = first + count;
  uint32_t skip = static_cast<uint32_t>(std::min<uint64_t>(next_ - first, count));
  next_ = std::max(next_, end);
  return skip;
}

bool same_token(const std::array<uint8_t, 16>& a, const uint8_t* b) {
  unsigned difference = 0;
  for (size_t i = 0; i < a.size(); i++) difference |= a[i] ^ b[i];
  return difference == 0;
}

Door::Door(std::array<uint8_t, 16> token, uint64_t session, uint32_t incarnation, Rejections& rejections)
    : token_(token), session_(session), incarnation_(incarnation), rejections_(rejections) {}

Verdict Door::hello(const transport::Message& m) {
  auto identity = m.part(0);
  if (!same_token(token_, reinterpret_cast<const uint8_t*>(m.part(1).data()) + sizeof(wire::FrameHeader))) {
    rejections_.count("bad token");
    return {};
  }
  if (!identity_.empty() && !std::ranges::equal(identity_, identity)) {
    rejections_.count("second connection with a valid token");
    return {Verdict::Kind::turn_away, "another connection of this session is open"};
  }
  identity_.assign(identity.begin(), identity.end());
  // of libzmq's private properties this is the one that ties a message to what the monitor says
  descriptor_ = zmq_msg_get(const_cast<zmq::message_t&>(m.parts[1]).handle(), ZMQ_SRCFD);
  return {Verdict::Kind::welcome, {}};
}

Verdict Door::admit(transport::Message& m, Batch& batch) {
  auto skip = tickets_.admit(batch.header.first_ticket, batch.header.count);
  if (!skip) {
    rejections_.count("gap in the tickets");
    return {Verdict::Kind::violation, "ticket " + std::to_string(batch.header.first_ticket) + " does not follow " + std::to_string(tickets_.last())};
  }
  if (*skip == batch.header.count) {
    rejections_.count("replayed frame");
    return {Verdict::Kind::quiet, {}};
  }
  batch.skip = *skip;
  batch.bytes = 0;
  for (size_t i = 1; i < m.parts.size(); i++) batch.bytes += m.parts[i].size();
  batch.message = std::move(m);
  return {Verdict::Kind::work, {}};
}

Verdict Door::receive(transport::Message& m, Batch& batch) {
  if (m.parts.size() < 2) return rejections_.count("empty message"), Verdict{};
  FrameError error = wire::parse_frame(m.part(1), m.parts.size() - 2, batch.header, batch.records);
  bool inside = !identity_.empty() && std::ranges::equal(identity_, m.part(0));
  if (error != FrameError::none) {
    rejections_.count(wire::name(error));
    if (!inside) return {};
    return {Verdict::Kind::violation, "malformed frame: " + std::string(wire::name(error))};
  }
  if (batch.header.session != session_ || batch.header.incarnation != incarnation_) {
    rejections_.count("frame of another session");
    if (!inside) return {};
    return {Verdict::Kind::violation, "the frame names another session"};
  }
  if (batch.header.kind == FrameKind::hello) return hello(m);
  if (!inside) return rejections_.count("frame without a token"), Verdict{};
  switch (batch.header.kind) {
    case FrameKind::batch: return admit(m, batch);
    case FrameKind::ping: return {Verdict::Kind::pong, {}};
    case FrameKind::pong: return {Verdict::Kind::quiet, {}};
    case FrameKind::goodbye:
      batch.goodbye = true;
      batch.records.clear();
      return {Verdict::Kind::work, {}};
    case FrameKind::hello:
    case FrameKind::welcome:
    case FrameKind::report:
    case FrameKind::refused: break;
  }
  rejections_.count("frame of a kind that clients do not send");
  return {Verdict::Kind::violation, "a client does not send frames of kind " + std::to_string(static_cast<unsigned>(batch.header.kind))};
}

}  // namespace djinn::server

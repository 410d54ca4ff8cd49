// See front_door.hpp.
#include "server/broker/front_door.hpp"

#include <poll.h>

#include <algorithm>

#include "semantic/wire/control.hpp"
#include "semantic/wire/frame.hpp"
#include "server/log.hpp"
#include "server/session/report.hpp"

namespace djinn::server {

using transport::Message;
using transport::Socket;

namespace {

// Messages taken from one socket before the others have their turn.
constexpr int kTurn = 64;

void release_message(void*, void* hint) { delete static_cast<zmq::message_t*>(hint); }

// Parts [first, end) of a message as bulk to send on, without a copy.
std::vector<djinn_part> hand_on(Message& m, size_t first) {
  std::vector<djinn_part> out;
  for (size_t i = first; i < m.parts.size(); i++) {
    auto* held = new zmq::message_t(std::move(m.parts[i]));
    out.push_back({held->data(), held->size(), release_message, held});
  }
  return out;
}

}  // namespace

FrontDoor::FrontDoor(zmq::context_t& context, std::vector<Listener*> listeners, Rejections& rejections, OnControl on_control)
    : context_(context), listeners_(std::move(listeners)), rejections_(rejections), on_control_(std::move(on_control)) {
  for (Listener* l : listeners_) {
    monitors_.emplace_back(context_, zmq::socket_type::pair);
    monitors_.back().set(zmq::sockopt::linger, 0);
    if (std::string name = l->front.monitor(ZMQ_EVENT_DISCONNECTED); !name.empty()) monitors_.back().connect(name);
  }
  thread_ = std::thread([this] { run(); });
}

FrontDoor::~FrontDoor() {
  over_ = true;
  listeners_.front()->front.wake();
  thread_.join();
}

void FrontDoor::open_session(const std::array<uint8_t, 16>& token, Target target) {
  std::lock_guard lock(mutex_);
  sessions_.push_back({token, std::move(target)});
}

void FrontDoor::close_session(uint64_t session, const std::string& reason) {
  {
    std::lock_guard lock(mutex_);
    std::erase_if(sessions_, [&](const Known& k) { return k.target.session == session; });
    closed_.emplace_back(session, reason);
  }
  listeners_.front()->front.wake();
}

void FrontDoor::hello(size_t listener, const Message& m) {
  wire::FrameHeader header;
  std::vector<wire::Record> records;
  if (wire::parse_frame(m.part(1), m.parts.size() - 2, header, records) != wire::FrameError::none || header.kind != wire::FrameKind::hello)
    return rejections_.count("front door: frame without a token");
  Target target;
  {
    std::lock_guard lock(mutex_);
    auto token = reinterpret_cast<const uint8_t*>(m.part(1).data()) + sizeof header;
    for (const Known& k : sessions_)
      if (same_token(k.token, token)) target = k.target;
  }
  if (!target.session) return rejections_.count("front door: bad token");
  // Descriptors are used again: the end of an earlier connection must not be taken for the end of this one.
  end_disconnected();
  auto relay = std::make_unique<Relay>(context_);
  if (auto e = relay->worker.connect(target.endpoint); !e.empty()) return spdlog::error("front door: {}", e);
  relay->listener = listener;
  relay->session = target.session;
  relay->descriptor = zmq_msg_get(const_cast<zmq::message_t&>(m.parts[1]).handle(), ZMQ_SRCFD);
  relay->worker.send({}, m.part(1));
  spdlog::info("session {} is relayed through the front door", target.session);
  Identity identity(m.part(0).begin(), m.part(0).end());
  relays_[{listener, identity}] = std::move(relay);
}

void FrontDoor::from_client(size_t listener, Message m) {
  if (m.parts.size() < 2) return rejections_.count("front door: empty message");
  if (wire::control::peek(m.part(1))) {
    Caller caller{&listeners_[listener]->front, {m.part(0).begin(), m.part(0).end()}, listener, peer_uid(m.parts[1])};
    return on_control_(std::move(caller), std::move(m.parts[1]));
  }
  auto relay = relays_.find({listener, Identity(m.part(0).begin(), m.part(0).end())});
  if (relay == relays_.end()) return hello(listener, m);
  auto bulk = hand_on(m, 2);
  relay->second->worker.send({}, m.part(1), bulk);
}

// One turn for every socket; false when there was nothing.
bool FrontDoor::pump() {
  bool any = false;
  for (size_t i = 0; i < listeners_.size(); i++)
    for (int n = 0; n < kTurn; n++) {
      auto m = listeners_[i]->front.receive();
      if (!m) break;
      any = true;
      from_client(i, std::move(*m));
    }
  for (auto& [key, relay] : relays_)
    for (int n = 0; n < kTurn; n++) {
      auto m = relay->worker.receive();
      if (!m || m->parts.empty()) break;
      any = true;
      auto bulk = hand_on(*m, 1);
      listeners_[relay->listener]->front.send(key.second, m->part(0), bulk);
    }
  return any;
}

void FrontDoor::end_disconnected() {
  for (size_t i = 0; i < monitors_.size(); i++)
    while (auto e = transport::read_monitor(monitors_[i]))
      std::erase_if(relays_, [&](const auto& r) { return r.first.first == i && r.second->descriptor >= 0 && r.second->descriptor == e->value; });
}

void FrontDoor::end_relays() {
  end_disconnected();
  std::vector<std::pair<uint64_t, std::string>> closed;
  {
    std::lock_guard lock(mutex_);
    closed.swap(closed_);
  }
  for (const auto& [session, reason] : closed)
    std::erase_if(relays_, [&](const auto& r) {
      if (r.second->session != session) return false;
      listeners_[r.second->listener]->front.send(r.first.second, refused_frame(session, 1, reason));
      return true;
    });
}

void FrontDoor::sleep() {
  std::vector<pollfd> fds;
  auto add = [&](Socket& s) {
    fds.push_back({s.event_descriptor(), POLLIN, 0});
    fds.push_back({s.wake_descriptor(), POLLIN, 0});
    return !s.readable();
  };
  bool quiet = true;
  for (Listener* l : listeners_) quiet &= add(l->front);
  for (auto& [key, relay] : relays_) quiet &= add(relay->worker);
  for (auto& m : monitors_) fds.push_back({m.get(zmq::sockopt::fd), POLLIN, 0});
  if (!quiet) return;
  ::poll(fds.data(), fds.size(), 500);
  for (Listener* l : listeners_) l->front.clear_wake();
  for (auto& [key, relay] : relays_) relay->worker.clear_wake();
}

void FrontDoor::run() {
  pthread_setname_np(pthread_self(), "djinn-door");
  while (!over_) {
    bool any = pump();
    end_relays();
    if (!any) sleep();
  }
  end_relays();
  relays_.clear();
  monitors_.clear();
}

}  // namespace djinn::server

// See peer.hpp.
#include "tests/unit/link/peer.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <stdexcept>

namespace djinn::test {

using transport::Message;
using transport::Socket;
using wire::FrameHeader;
using wire::FrameKind;

Peer::Peer(Network network)
    : control_(context_, Socket::Kind::router),
      data_(context_, Socket::Kind::router),
      door_(context_, Socket::Kind::router),
      monitor_(context_, zmq::socket_type::pair) {
  char name[] = "/tmp/djinn-link-test-XXXXXX";
  if (!mkdtemp(name)) throw std::runtime_error("mkdtemp");
  folder_ = name;
  chmod(folder_.c_str(), 0755);
  monitor_.set(zmq::sockopt::linger, 0);
  monitor_.connect(data_.monitor(ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED));
  auto bind = [&](Socket& s, const char* suffix) {
    auto e = s.bind(network == Network::tcp ? "tcp://127.0.0.1:0" : "ipc://" + folder_ + "/" + suffix);
    if (!e.empty()) throw std::runtime_error(e);
    return s.endpoint();
  };
  endpoint = bind(control_, "s");
  opened.endpoint = bind(data_, "s.1");
  opened.front_door = front_door = bind(door_, "s.front");
  opened.session = 77;
  for (uint8_t i = 0; i < 16; i++) opened.token[i] = static_cast<uint8_t>(i * 17);
  opened.range = {0x200000000000, 1ull << 36};
  opened.level = control::Level::op;
  opened.devices = {{"Test device", 1ull << 33, 1 << 30}, {"Second device", 1ull << 33, 1 << 29}};
  opened.server_host = "test-host";
  opened.server_version = "0.0.1";
  opened.ops = {"aten::add.Tensor", "aten::mm"};
}

void Peer::start() {
  if (!threads_.empty()) return;
  threads_.emplace_back([this] { serve(control_, nullptr); });
  threads_.emplace_back([this] { serve(data_, &monitor_); });
  threads_.emplace_back([this] { serve(door_, nullptr); });
}

Peer::~Peer() {
  stop();
  std::filesystem::remove_all(folder_);
}

void Peer::stop() {
  over_ = true;
  for (Socket* s : {&control_, &data_, &door_}) s->wake();
  for (auto& t : threads_) t.join();
  threads_.clear();
  for (Socket* s : {&control_, &data_, &door_}) s->close(0);
}

void Peer::note(const std::string& what) {
  std::lock_guard lock(mutex_);
  ++counts_[what];
  changed_.notify_all();
}

int Peer::count(const std::string& what) {
  std::lock_guard lock(mutex_);
  return counts_[what];
}

bool Peer::wait_for(const std::string& what, int n, std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, patience, [&] { return counts_[what] >= n; });
}

control::Open Peer::last_open() {
  std::lock_guard lock(mutex_);
  return last_open_;
}

std::vector<uint64_t> Peer::tickets() {
  std::lock_guard lock(mutex_);
  return tickets_;
}

FrameHeader Peer::header(FrameKind kind) const {
  FrameHeader h;
  h.kind = kind;
  h.session = opened.session;
  h.incarnation = opened.incarnation;
  return h;
}

Bytes Peer::report(uint64_t number, uint32_t bulk) {
  FrameHeader h = header(FrameKind::report);
  h.report = number;
  h.bulk = bulk;
  h.count = 1;
  wire::RecordHeader r;
  r.opcode = 1;
  r.bulk = static_cast<uint16_t>(bulk);
  h.length = sizeof r;
  Bytes frame = bytes_of(h), record = bytes_of(r);
  frame.insert(frame.end(), record.begin(), record.end());
  return frame;
}

void Peer::send(const Bytes& frame, const std::vector<Bytes>& bulk) {
  std::vector<djinn_part> parts;
  for (const Bytes& b : bulk) parts.push_back({b.data(), b.size(), nullptr, nullptr});
  Socket* s;
  Bytes to;
  {
    std::lock_guard lock(mutex_);
    s = client_socket_;
    to = client_;
  }
  if (s) s->send(to, frame, parts);
}

void Peer::serve(Socket& s, zmq::socket_t* monitor) {
  int monitor_fd = monitor ? monitor->get(zmq::sockopt::fd) : -1;
  while (!over_) {
    if (monitor)
      while (auto e = transport::read_monitor(*monitor)) note(e->event == ZMQ_EVENT_ACCEPTED ? "connected" : "disconnected");
    if (auto m = s.receive()) on_message(s, *m);
    else s.wait(1000, monitor_fd);
  }
}

void Peer::on_message(Socket& s, const Message& m) {
  if (!control::peek(m.part(1))) return on_frame(s, m);
  auto open = control::decode<control::Open>(m.part(1), control::Kind::open);
  if (!open) return note("malformed");
  {
    std::lock_guard lock(mutex_);
    last_open_ = *open;
  }
  note("open");
  Bytes answer = answer_open ? answer_open(*open) : control::encode(control::Kind::opened, opened);
  if (!answer.empty()) s.send(m.part(0), answer);
}

void Peer::on_frame(Socket& s, const Message& m) {
  FrameHeader h;
  std::vector<wire::Record> records;
  if (wire::parse_frame(m.part(1), m.parts.size() - 2, h, records) != wire::FrameError::none) return note("malformed");
  if (h.kind == FrameKind::hello) {
    if (std::memcmp(m.part(1).data() + sizeof h, opened.token.data(), 16) != 0) return note("bad token");
    {
      std::lock_guard lock(mutex_);
      client_socket_ = &s;
      client_.assign(m.part(0).begin(), m.part(0).end());
    }
    note("hello");
    if (mute) return;
    Bytes answer = answer_hello ? answer_hello(h) : bytes_of(header(FrameKind::welcome));
    if (!answer.empty()) s.send(m.part(0), answer);
    return;
  }
  if (h.kind == FrameKind::ping) {
    note("ping");
    if (!mute) s.send(m.part(0), bytes_of(header(FrameKind::pong)));
  } else if (h.kind == FrameKind::pong) {
    note("pong");
  } else if (h.kind == FrameKind::goodbye) {
    note("goodbye");
  } else if (h.kind == FrameKind::batch) {
    {
      std::lock_guard lock(mutex_);
      tickets_.push_back(h.first_ticket);
    }
    note("batch");
    std::vector<djinn_part> bulk;
    for (size_t i = 2; i < m.parts.size(); i++) bulk.push_back({m.part(i).data(), m.part(i).size(), nullptr, nullptr});
    if (!mute) s.send(m.part(0), report(h.first_ticket, h.bulk), bulk);
  }
}

}  // namespace djinn::test

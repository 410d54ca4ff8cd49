// See wire_client.hpp.
#include "tests/integration/server/wire_client.hpp"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>

extern char** environ;

namespace djinn::test {

using transport::Socket;
using wire::FrameKind;
using namespace std::chrono_literals;

std::string Got::text() const {
  wire::Reader r(payload);
  r.take(16);
  std::string operation(r.get_string(wire::kNameBytesMax));
  return operation + ": " + std::string(r.get_string(wire::kErrorTextMax));
}

WireClient::~WireClient() { disconnect(); }

void WireClient::disconnect() {
  if (socket) socket->close();
  if (monitor_) monitor_->close();
  socket.reset();
  monitor_.reset();
}

control::Open WireClient::default_open() {
  control::Open o;
  o.host = "test";
  o.program = "wire_client";
  o.pid = static_cast<uint32_t>(getpid());
#ifdef __SANITIZE_THREAD__
  // the thread sanitizer ends a process that maps anything outside of the application's part of its address space; this lies low in it
  for (uint64_t base : {0x1000000000ull, 0x3000000000ull, 0x5000000000ull}) o.ranges.push_back({base, 64ull << 30});
#else
  for (uint64_t base : {0x200000000000ull, 0x100000000000ull, 0x7e0000000000ull}) o.ranges.push_back({base, 64ull << 30});
#endif
  return o;
}

bool WireClient::connect_raw(const std::string& endpoint) {
  disconnect();
  closed_ = false;
  socket = std::make_unique<Socket>(context_, Socket::Kind::dealer);
  monitor_ = std::make_unique<zmq::socket_t>(context_, zmq::socket_type::pair);
  monitor_->set(zmq::sockopt::linger, 0);
  monitor_->connect(socket->monitor(ZMQ_EVENT_DISCONNECTED));
  return socket->connect(endpoint).empty();
}

std::string WireClient::open(const std::string& broker, control::Open request) {
  zmq::context_t context(1);
  Socket s(context, Socket::Kind::dealer);
  if (auto e = s.connect(broker); !e.empty()) return e;
  s.send({}, control::encode(control::Kind::open, request));
  auto deadline = std::chrono::steady_clock::now() + 20s;
  while (std::chrono::steady_clock::now() < deadline) {
    auto m = s.receive();
    if (!m) {
      s.wait(50);
      continue;
    }
    if (auto refused_ = control::decode<control::Refused>(m->part(0), control::Kind::refused)) return refused_->reason;
    auto got = control::decode<control::Opened>(m->part(0), control::Kind::opened);
    if (!got) return "malformed answer";
    opened = *got;
    return {};
  }
  return "no answer";
}

wire::FrameHeader WireClient::header(FrameKind kind) const {
  wire::FrameHeader h;
  h.kind = kind;
  h.session = opened.session;
  h.incarnation = opened.incarnation;
  h.report = reports;
  h.ack = acknowledged;
  return h;
}

bool WireClient::send_bytes(const Bytes& frame, const std::vector<Bytes>& bulk) {
  std::vector<djinn_part> parts;
  for (const Bytes& b : bulk) parts.push_back({b.data(), b.size(), nullptr, nullptr});
  return socket->send({}, frame, parts);
}

bool WireClient::send_frame(wire::FrameHeader h, const Bytes& body, const std::vector<Bytes>& bulk) {
  h.length = static_cast<uint32_t>(body.size());
  h.bulk = static_cast<uint32_t>(bulk.size());
  Bytes frame = bytes_of(h);
  frame.insert(frame.end(), body.begin(), body.end());
  return send_bytes(frame, bulk);
}

bool WireClient::hello(const std::string& endpoint) {
  if (!connect_raw(endpoint.empty() ? opened.endpoint : endpoint)) return false;
  send_frame(header(FrameKind::hello), bytes_of(opened.token));
  return read_until([&] { return !kinds.empty() && kinds.back() == FrameKind::welcome; }, 3s);
}

uint64_t WireClient::post(wire::Opcode opcode, const Bytes& payload, const std::vector<Bytes>& bulk, uint16_t flags) {
  wire::RecordHeader head;
  head.opcode = static_cast<uint32_t>(opcode);
  head.flags = flags;
  head.bulk = static_cast<uint16_t>(bulk.size());
  head.size = static_cast<uint32_t>(payload.size());
  Bytes body = bytes_of(head);
  body.insert(body.end(), payload.begin(), payload.end());
  auto h = header(FrameKind::batch);
  h.first_ticket = next_ticket;
  h.count = 1;
  send_frame(h, body, bulk);
  return next_ticket++;
}

std::optional<Got> WireClient::call(wire::Opcode opcode, const Bytes& payload, const std::vector<Bytes>& bulk) {
  uint64_t ticket = post(opcode, payload, bulk, wire::kFlagCall);
  std::optional<Got> found;
  read_until([&] {
    for (const Got& g : records)
      if (g.head.opcode == static_cast<uint32_t>(wire::ReportOpcode::reply) && g.fixed<wire::Reply>().ticket == ticket) found = g;
    return found.has_value() || !refused.empty();
  });
  return found;
}

bool WireClient::closed() {
  while (auto e = transport::read_monitor(*monitor_)) closed_ |= e->event == ZMQ_EVENT_DISCONNECTED;
  return closed_;
}

bool WireClient::read_one() {
  auto m = socket->receive();
  if (!m) return false;
  wire::FrameHeader h;
  std::vector<wire::Record> parsed;
  if (wire::parse_frame(m->part(0), m->parts.size() - 1, h, parsed) != wire::FrameError::none)
    throw std::runtime_error("the server sent a malformed frame");
  kinds.push_back(h.kind);
  if (h.kind == FrameKind::report) {
    reports_in_order &= h.report == reports + 1 && h.ack >= acknowledged;
    reports = h.report;
    acknowledged = h.ack;
  }
  for (const auto& r : parsed) {
    Got g{r.head, {r.payload.begin(), r.payload.end()}, {}};
    for (size_t i = 0; i < r.head.bulk; i++) {
      auto part = m->part(1 + r.bulk_first + i);
      g.bulk.emplace_back(part.begin(), part.end());
    }
    if (h.kind == FrameKind::refused) refused = g.text();
    records.push_back(std::move(g));
  }
  return true;
}

static std::string build_folder() {
  const char* b = std::getenv("DJINN_BUILD");
  if (b) return b;
  return std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path();
}

ServerProcess::ServerProcess(std::vector<std::string> options, bool tcp) {
  char name[] = "/tmp/djinn-test-XXXXXX";
  if (!mkdtemp(name)) throw std::runtime_error("mkdtemp");
  folder = name;
  std::vector<std::string> words{build_folder() + "/djinn-gpu-server", "--ready-fd", "9", "--memory", "1GiB"};
  words.insert(words.end(), {"--listen", tcp ? "tcp://127.0.0.1:0" : "ipc://" + folder + "/s"});
  words.insert(words.end(), options.begin(), options.end());
  std::vector<char*> argv;
  for (auto& w : words) argv.push_back(w.data());
  argv.push_back(nullptr);
  int ready[2];
  if (pipe2(ready, O_CLOEXEC) != 0) throw std::runtime_error("pipe");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ready[1], 9);
  posix_spawn_file_actions_addopen(&actions, 2, (folder + "/log").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  int e = posix_spawn(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ready[1]);
  if (e) throw std::runtime_error("cannot start " + words[0]);
  std::string text;
  for (char c; text.find('\n') == text.npos && ::read(ready[0], &c, 1) == 1;) text += c;
  close(ready[0]);
  if (text.rfind("ready ", 0) != 0) {
    std::string said = log();
    end(SIGKILL);
    std::filesystem::remove_all(folder);
    throw std::runtime_error("the server did not start:\n" + said);
  }
  endpoint = text.substr(6, text.size() - 7);
}

int ServerProcess::end(int signal) {
  int status = 0;
  if (pid < 0) return -1;
  kill(pid, signal);
  waitpid(pid, &status, 0);
  pid = -1;
  return status;
}

ServerProcess::~ServerProcess() {
  end(SIGTERM);
  std::error_code ignored;
  std::filesystem::remove_all(folder, ignored);
}

std::string ServerProcess::log() const {
  std::ostringstream out;
  out << std::ifstream(folder + "/log").rdbuf();
  return out.str();
}

control::StatsReply ServerProcess::stats() {
  zmq::context_t context(1);
  Socket s(context, Socket::Kind::dealer);
  s.connect(endpoint);
  control::ControlHeader ask;
  ask.kind = control::Kind::stats;
  s.send({}, bytes_of(ask));
  auto deadline = std::chrono::steady_clock::now() + 5s;
  while (std::chrono::steady_clock::now() < deadline) {
    if (auto m = s.receive())
      if (auto reply = control::decode<control::StatsReply>(m->part(0), control::Kind::stats_reply)) return *reply;
    s.wait(50);
  }
  throw std::runtime_error("no statistics:\n" + log());
}

}  // namespace djinn::test

// See opening.hpp.
#include "interpose/link/opening.hpp"

#include <unistd.h>

#include "semantic/wire/command.hpp"

namespace djinn::link {

using namespace std::chrono_literals;
using transport::Endpoint;
using transport::Message;
namespace control = wire::control;

namespace {

// A worker that does not answer a hello in this time is reached through the front door instead.
constexpr auto kHelloPatience = 2s;

control::Open request(const djinn_link_config& c) {
  auto text = [](const char* s) { return std::string(s ? s : ""); };
  control::Open o;
  char host[256] = "";
  gethostname(host, sizeof host - 1);
  o.host = host;
  o.program = text(c.program);
  o.pid = static_cast<uint32_t>(getpid());
  o.uid = getuid();
  o.torch = text(c.torch);
  o.torch_directory = text(c.torch_directory);
  o.level = static_cast<control::Level>(c.level);
  for (size_t i = 0; i < c.range_count; i++) o.ranges.push_back({c.ranges[2 * i], c.ranges[2 * i + 1]});
  return o;
}

std::string versions(unsigned theirs) {
  return "speaks protocol version " + std::to_string(theirs) + ", this client speaks " + std::to_string(wire::kVersion);
}

// What the broker said: empty when it opened a session.
std::string read_answer(const Message& m, control::Opened& opened) {
  auto bytes = m.part(0);
  auto head = control::peek(bytes);
  if (!head || m.parts.size() != 1) return "does not speak Djinn's protocol";
  if (head->version != wire::kVersion) return versions(head->version);
  if (auto refused = control::decode<control::Refused>(bytes, control::Kind::refused)) return "refused: " + refused->reason;
  auto reply = control::decode<control::Opened>(bytes, control::Kind::opened);
  if (!reply) return "sent a malformed answer";
  opened = std::move(*reply);
  return {};
}

std::string check_user(const djinn_link_config& config, Connection& c) {
  if (!config.check_peer_uid) return {};
  auto uid = c.peer_uid();
  if (!uid) return "its user cannot be checked";
  return *uid == getuid() ? std::string() : "runs as another user (" + std::to_string(*uid) + ")";
}

// Asks at one address. `reached` is true when somebody listens there, who is then the one to say no.
std::string ask(zmq::context_t& context, const djinn_link_config& config, const Endpoint& where, control::Opened& opened, bool& reached) {
  Connection c(context);
  if (auto e = c.socket.connect(where.text()); !e.empty()) return e;
  c.socket.send({}, control::encode(control::Kind::open, request(config)));
  std::string why;
  auto answer = c.await(std::chrono::milliseconds(config.open_timeout_ms), why);
  reached = c.reached();
  if (!answer) return c.close(0), why;  // nobody is there for whom the question should linger
  if (auto e = check_user(config, c); !e.empty()) return e;
  return read_answer(*answer, opened);
}

// Tries the addresses behind the broker's name until one is listened at; `broker` is that one from then on.
std::string ask_broker(zmq::context_t& context, const djinn_link_config& config, Endpoint& broker, control::Opened& opened) {
  std::string why;
  for (const Endpoint& where : resolve(broker, why)) {
    bool reached = false;
    why = ask(context, config, where, opened, reached);
    broker = where;
    if (reached) break;
  }
  return why;
}

// What the worker said to our hello: empty when it is a welcome.
std::string read_welcome(const Message& m, const control::Opened& opened) {
  wire::FrameHeader h;
  std::vector<wire::Record> records;
  auto e = wire::parse_frame(m.part(0), m.parts.size() - 1, h, records);
  if (e == wire::FrameError::bad_version) return versions(h.version);
  if (e != wire::FrameError::none) return "answered with something else than a frame: " + std::string(wire::name(e));
  if (h.session != opened.session || h.incarnation != opened.incarnation) return "answered for another session";
  if (h.kind == wire::FrameKind::welcome) return {};
  if (h.kind != wire::FrameKind::refused || records.empty()) return "did not welcome the session";
  wire::Reader r(records[0].payload);
  r.get<wire::Error>();
  r.get_string(wire::kNameBytesMax);
  auto text = r.get_string(wire::kErrorTextMax);
  return "refused: " + std::string(text);
}

// One attempt at a data connection; `connection` is set only when it was welcomed.
std::string hello(zmq::context_t& context, const djinn_link_config& config, const Endpoint& where, Opening& out) {
  auto c = std::make_unique<Connection>(context);
  if (auto e = c->socket.connect(where.text()); !e.empty()) return where.text() + ": " + e;
  c->socket.send({}, bare_frame(out.opened, wire::FrameKind::hello, std::as_bytes(std::span(out.opened.token))));
  std::string why;
  auto answer = c->await(kHelloPatience, why);
  if (answer) why = read_welcome(*answer, out.opened);
  if (why.empty()) why = check_user(config, *c);
  if (!why.empty()) return where.text() + ": " + why;
  out.connection = std::move(c);
  return {};
}

// An address that the server names as seen from here: "every address" means the one where its broker was reached.
std::string seen_from_here(const std::string& text, const Endpoint& broker, Endpoint& out) {
  std::string error;
  auto e = transport::parse_endpoint(text, error);
  if (!e) return "the server names an endpoint that cannot be used: " + error;
  if (e->kind == Endpoint::Kind::tcp && (e->host == "0.0.0.0" || e->host == "::" || e->host == "*")) {
    if (broker.kind != Endpoint::Kind::tcp) return "the server names '" + text + "' without an address";
    e->host = broker.host;
  }
  out = *e;
  return {};
}

std::string connect_worker(zmq::context_t& context, const djinn_link_config& config, const Endpoint& broker, Opening& out) {
  Endpoint where;
  std::string failures;
  auto attempt = [&](const std::string& text) {
    std::string e = seen_from_here(text, broker, where);
    if (e.empty())
      for (const Endpoint& address : resolve(where, e))
        if ((e = hello(context, config, address, out)).empty()) return true;
    failures += (failures.empty() ? "" : "; ") + e;
    return false;
  };
  if (attempt(out.opened.endpoint)) return {};
  out.relayed = true;
  // Behind a tunnel or an address translation the place where we came in may be the only one that can be reached, and the front door itself.
  if (attempt(out.opened.front_door)) return {};
  if (where.text() != broker.text() && attempt(broker.text())) return {};
  return "the session's worker cannot be reached (" + failures + ")";
}

}  // namespace

std::string sentence(const std::string& endpoint, const std::string& why) { return "djinn-gpu-server at " + endpoint + ": " + why; }

std::vector<std::byte> bare_frame(const control::Opened& session, wire::FrameKind kind, std::span<const std::byte> body) {
  wire::FrameHeader h;
  h.kind = kind;
  h.session = session.session;
  h.incarnation = session.incarnation;
  h.length = static_cast<uint32_t>(body.size());
  std::vector<std::byte> frame(sizeof h + body.size());
  std::memcpy(frame.data(), &h, sizeof h);
  if (!body.empty()) std::memcpy(frame.data() + sizeof h, body.data(), body.size());
  return frame;
}

std::string open_session(zmq::context_t& context, const djinn_link_config& config, Opening& out) {
  std::string error, text = config.endpoint ? config.endpoint : "";
  auto broker = transport::parse_endpoint(text, error);
  if (!broker) return "server endpoint " + error;
  error = ask_broker(context, config, *broker, out.opened);
  if (error.empty()) error = connect_worker(context, config, *broker, out);
  return error.empty() ? error : sentence(text, error);
}

}  // namespace djinn::link

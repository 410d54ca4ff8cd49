// See endpoint.hpp.
#include "semantic/transport/endpoint.hpp"

#include <sys/un.h>

#include <charconv>

namespace djinn::transport {

std::string Endpoint::text() const {
  if (kind == Kind::ipc) return "ipc://" + path;
  bool v6 = host.find(':') != std::string::npos;
  return "tcp://" + (v6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

bool Endpoint::is_loopback() const { return kind == Kind::ipc || host == "localhost" || host == "::1" || host.rfind("127.", 0) == 0; }

Endpoint Endpoint::sibling(uint16_t other_port, std::string_view suffix) const {
  Endpoint e = *this;
  if (kind == Kind::tcp) e.port = other_port;
  else e.path += "." + std::string(suffix);
  return e;
}

static std::optional<Endpoint> parse_tcp(std::string_view rest, const std::string& quoted, std::string& error) {
  Endpoint e;
  size_t colon = rest.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return error = quoted + " has no HOST:PORT", std::nullopt;
  std::string_view host = rest.substr(0, colon), port = rest.substr(colon + 1);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  else if (host.find(':') != std::string_view::npos) return error = quoted + ": write an IPv6 address in brackets", std::nullopt;
  if (host.empty() || host.find_first_of(" /@;") != std::string_view::npos) return error = quoted + " has no usable host", std::nullopt;
  auto [end, failed] = std::from_chars(port.data(), port.data() + port.size(), e.port);
  if (failed != std::errc() || end != port.data() + port.size()) return error = quoted + " has no port between 0 and 65535", std::nullopt;
  e.host = host;
  return e;
}

std::optional<Endpoint> parse_endpoint(std::string_view text, std::string& error) {
  std::string quoted = "'" + std::string(text.substr(0, 200)) + "'";
  if (text.rfind("tcp://", 0) == 0) return parse_tcp(text.substr(6), quoted, error);
  if (text.rfind("ipc://", 0) == 0) {
    Endpoint e;
    e.kind = Endpoint::Kind::ipc;
    e.path = text.substr(6);
    // the front door and the workers add up to 12 characters
    if (e.path.empty() || e.path.front() != '/') return error = quoted + ": an ipc endpoint needs an absolute path", std::nullopt;
    if (e.path.size() + 12 >= sizeof(sockaddr_un::sun_path)) return error = quoted + ": the path is too long for a unix socket", std::nullopt;
    return e;
  }
  return error = quoted + " is neither tcp://HOST:PORT nor ipc://PATH", std::nullopt;
}

}  // namespace djinn::transport

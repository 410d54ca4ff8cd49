// Endpoints as users write them: tcp://HOST:PORT, tcp://[::1]:PORT, ipc://PATH. Parsed once, with errors that quote what was wrong; everything
// behind this works on the parsed form.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace djinn::transport {

struct Endpoint {
  enum class Kind : uint8_t { tcp, ipc } kind = Kind::tcp;
  std::string host;   // tcp, without brackets
  uint16_t port = 0;  // tcp; 0 = the system chooses (servers only)
  std::string path;   // ipc

  std::string text() const;
  bool is_loopback() const;  // ipc, 127.0.0.0/8, ::1, localhost
  // The same place with another port (tcp) or with `.suffix` behind the path (ipc).
  Endpoint sibling(uint16_t other_port, std::string_view suffix) const;
};

// Nullopt, and one clause in `error` that quotes `text`.
std::optional<Endpoint> parse_endpoint(std::string_view text, std::string& error);

}  // namespace djinn::transport

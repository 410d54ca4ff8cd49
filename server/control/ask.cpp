// See ask.hpp.
#include "server/control/ask.hpp"

#include <chrono>

#include "semantic/transport/endpoint.hpp"
#include "semantic/transport/socket.hpp"

namespace djinn::server {

namespace control = wire::control;
using namespace std::chrono_literals;

constexpr auto kPatience = 5s;

std::vector<std::byte> ask_server(const std::string& text, std::span<const std::byte> question, std::string& error) {
  auto endpoint = transport::parse_endpoint(text, error);
  if (!endpoint) return {};
  zmq::context_t context;
  transport::Socket socket(context, transport::Socket::Kind::dealer);
  if (error = socket.connect(endpoint->text()); !error.empty()) return {};
  socket.send({}, question);
  auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (std::chrono::steady_clock::now() < deadline) {
    auto m = socket.receive();
    if (!m) {
      socket.wait(100);
      continue;
    }
    if (auto refused = control::decode<control::Refused>(m->part(0), control::Kind::refused)) error = refused->reason;
    return {m->part(0).begin(), m->part(0).end()};
  }
  error = "no answer from " + text + " within 5 s";
  return {};
}

}  // namespace djinn::server

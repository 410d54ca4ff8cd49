// Asks a running server something on its control plane, as the command line does (`--stats`, `--graph`).
#pragma once
#include <optional>
#include <string>

#include "semantic/wire/control.hpp"

namespace djinn::server {

// The message that came back from the server at an endpoint, or an empty one and why. A refusal's words are the error.
std::vector<std::byte> ask_server(const std::string& endpoint, std::span<const std::byte> question, std::string& error);

template <class Answer>
std::optional<Answer> ask_server(const std::string& endpoint, std::span<const std::byte> question, wire::control::Kind kind, std::string& error) {
  auto message = ask_server(endpoint, question, error);
  if (!error.empty()) return std::nullopt;
  auto answer = wire::control::decode<Answer>(message, kind);
  if (!answer) error = endpoint + " answered with something else: is it a server of this version?";
  return answer;
}

}  // namespace djinn::server

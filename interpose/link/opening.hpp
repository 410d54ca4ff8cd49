// The opening of a session, as a conversation: Open to the broker (control port or front door), then a connection to the session's worker with the
// token, directly, or through the front door when the worker cannot be reached. Each error is one sentence that names the endpoint and the reason.
// Mirrors: server/broker/admit (Open), server/session/door (hello).
#pragma once
#include <memory>
#include <string>

#include "interpose/link/connection.hpp"
#include "semantic/abi/link.h"
#include "semantic/wire/control.hpp"
#include "semantic/wire/frame.hpp"

namespace djinn::link {

struct Opening {
  wire::control::Opened opened;
  std::unique_ptr<Connection> connection;  // welcomed
  bool relayed = false;
};

// Empty on success.
std::string open_session(zmq::context_t& context, const djinn_link_config& config, Opening& out);

// "djinn-gpu-server at tcp://…: <why>"
std::string sentence(const std::string& endpoint, const std::string& why);

// A frame without records.
std::vector<std::byte> bare_frame(const wire::control::Opened& session, wire::FrameKind kind, std::span<const std::byte> body = {});

}  // namespace djinn::link

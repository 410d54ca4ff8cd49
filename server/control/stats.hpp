// `djinn-gpu-server --stats ENDPOINT`: asks a running server and prints its answer as JSON, with the field names of wire/control.hpp.
#pragma once
#include <string>

#include "semantic/wire/control.hpp"

namespace djinn::server {

std::string to_json(const wire::control::StatsReply& s);
// The exit status.
int print_stats(const std::string& endpoint);

}  // namespace djinn::server

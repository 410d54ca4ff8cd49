// `djinn-gpu-server --stats ENDPOINT` and `--graph ENDPOINT`: ask a running server and print its answer as JSON, with the field names of
// wire/control.hpp; phases and residencies are words, and what is 0 of them is left out.
#pragma once
#include <string>

#include "semantic/wire/control.hpp"

namespace djinn::server {

std::string to_json(const wire::control::StatsReply& s);
std::string to_json(const wire::control::Graph& g);
// The exit status.
int print_stats(const std::string& endpoint);
int print_graph(const std::string& endpoint, uint64_t session);

}  // namespace djinn::server

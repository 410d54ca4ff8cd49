// See reduce.cpp. Type, operation and addresses have been checked (server/decode/reduce.cpp).
#pragma once
#include <span>
#include <vector>

#include "semantic/wire/command.hpp"

namespace djinn::server {

void cpu_reduce(const wire::Reduce& r, std::span<const uint64_t> sources);

}  // namespace djinn::server

// Logging of broker and workers: spdlog to stderr, one line an event, the process named by its number.
#pragma once
#include <spdlog/spdlog.h>

#include <string>

namespace djinn::server {

// debug, info, warning or error (checked by the options).
void set_log_level(const std::string& level);

}  // namespace djinn::server

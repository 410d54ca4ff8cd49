// See log.hpp.
#include "server/log.hpp"

#include <spdlog/sinks/stdout_sinks.h>

namespace djinn::server {

void set_log_level(const std::string& level) {
  static auto logger = [] {
    auto l = spdlog::stderr_logger_mt("djinn");
    l->set_pattern("%Y-%m-%d %H:%M:%S.%e djinn-gpu-server[%P] %l: %v");
    spdlog::set_default_logger(l);
    return l;
  }();
  logger->set_level(spdlog::level::from_str(level));
}

}  // namespace djinn::server

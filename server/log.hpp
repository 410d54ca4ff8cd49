// Logging of broker and workers: spdlog to stderr, one line an event, the process named by its number; as text for people or as one JSON object a
// line for machines (time, level, message, pid, and session where there is one).
#pragma once
#include <spdlog/spdlog.h>

#include <cstdint>
#include <string>

namespace djinn::server {

// debug, info, warning or error; text or json (checked by the options).
void set_log(const std::string& level, const std::string& format);
// From now on this process speaks of one session: a worker that has been given one.
void set_log_session(uint64_t session);

// While it lives, this thread speaks of a session: the broker, which has many.
class LogSession {
 public:
  explicit LogSession(uint64_t session);
  ~LogSession();
  LogSession(const LogSession&) = delete;
  LogSession& operator=(const LogSession&) = delete;

 private:
  uint64_t before_;
};

}  // namespace djinn::server

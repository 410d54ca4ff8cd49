// See log.hpp.
#include "server/log.hpp"

#include <spdlog/formatter.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <ctime>

#include "server/control/json.hpp"

namespace djinn::server {

static std::atomic<uint64_t> process_session{0};
static thread_local uint64_t thread_session = 0;

void set_log_session(uint64_t session) { process_session = session; }
LogSession::LogSession(uint64_t session) : before_(thread_session) { thread_session = session; }
LogSession::~LogSession() { thread_session = before_; }

namespace {

class JsonLine final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& m, spdlog::memory_buf_t& out) override {
    auto since = m.time.time_since_epoch();
    std::time_t seconds = std::chrono::duration_cast<std::chrono::seconds>(since).count();
    auto milliseconds = static_cast<unsigned>(std::chrono::duration_cast<std::chrono::milliseconds>(since).count() % 1000);
    std::tm t{};
    gmtime_r(&seconds, &t);
    auto level = spdlog::level::to_string_view(m.level);
    Json j;
    j.field("time", fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", t.tm_year + 1900, t.tm_mon + 1, t.tm_mday, t.tm_hour, t.tm_min,
                                t.tm_sec, milliseconds));
    j.field("level", std::string(level.data(), level.size())).field("message", std::string(m.payload.data(), m.payload.size()));
    j.field("pid", uint64_t(getpid()));
    if (uint64_t session = thread_session ? thread_session : process_session.load()) j.field("session", session);
    std::string line = j.object() + "\n";
    out.append(line.data(), line.data() + line.size());
  }
  std::unique_ptr<spdlog::formatter> clone() const override { return std::make_unique<JsonLine>(); }
};

}  // namespace

void set_log(const std::string& level, const std::string& format) {
  static auto logger = [] {
    auto l = spdlog::stderr_logger_mt("djinn");
    spdlog::set_default_logger(l);
    return l;
  }();
  if (format == "json") logger->set_formatter(std::make_unique<JsonLine>());
  else logger->set_pattern("%Y-%m-%d %H:%M:%S.%e djinn-gpu-server[%P] %l: %v");
  logger->set_level(spdlog::level::from_str(level));
}

}  // namespace djinn::server

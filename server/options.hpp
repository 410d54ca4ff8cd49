// The server's options: one table names each, and the command line, the environment and a TOML file are three ways to give them, in this order of
// precedence; what none of them gives has its default. Whatever is not in the table is refused by name, wherever it was written.
#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "semantic/transport/endpoint.hpp"

namespace djinn::server {

constexpr uint16_t kControlPort = 5555, kFirstDataPort = 5557;

struct Options {
  std::string device = "cpu";
  std::vector<transport::Endpoint> listen;  // empty after parsing never: the default is tcp://127.0.0.1:5555
  uint16_t data_port_first = kFirstDataPort, data_port_last = 65535;
  std::vector<std::string> torch;  // torch packages whose libtorch an executor may use
  bool client_torch = false;       // a local server takes the torch of whoever opens a session over ipc
  std::vector<std::string> op_library;
  bool check = false;
  std::chrono::milliseconds grace{60000};
  unsigned devices = 1;
  uint64_t memory = 0;      // of each device: bytes that all sessions may hold together
  unsigned threads = 0;     // of the device, shared among active sessions
  unsigned workers = 1;     // warm ones
  unsigned sessions = 256;  // at one time; each is a process
  std::string log_level = "info", log_format = "text";
  std::optional<transport::Endpoint> metrics;  // where Prometheus may ask; tcp
  std::chrono::milliseconds idle_exit{0};      // 0 = never
  bool allow_unauthenticated = false;
  int ready_fd = -1;
  std::string stats, graph;  // an endpoint: print that server's statistics, or a session's graph, and end
  uint64_t session = 0;      // whose graph; 0 = the newest
};

// What the command line came to when it is not to run a server: text for stdout or stderr, and the exit status.
struct Said {
  std::string text;
  int status = 0;
};
using Environment = std::map<std::string, std::string>;
std::variant<Options, Said> parse_options(int argc, const char* const* argv, const Environment& environment);
Environment process_environment();

// "512MiB", "8GiB", "1000000": zero and anything else is refused (nullopt by returning false).
bool parse_size(const std::string& text, uint64_t& bytes);

}  // namespace djinn::server

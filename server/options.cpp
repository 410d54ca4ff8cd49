// See options.hpp.
#include "server/options.hpp"

#include <sched.h>
#include <unistd.h>

#include <toml++/toml.h>
#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <fstream>
#include <sstream>

#include "semantic/wire/limits.hpp"
#include "semantic/wire/switches.hpp"
#include "server/execute/executor.hpp"

extern char** environ;

namespace djinn::server {

namespace {

constexpr const char* kEnvironmentPrefix = "DJINN_SERVER_";
// A session's first lease must fit, and a size below it is most likely a forgotten unit.
constexpr uint64_t kMemoryMin = 16 * wire::kGranule;

enum class Shape { value, list, flag };
using Set = std::string (*)(Options&, const std::string&);  // an empty string or one clause of error

struct Setting {
  const char* name;
  Shape shape;
  const char* type;
  const char* help;
  Set set;
};

std::string quoted(const std::string& s) { return "'" + s.substr(0, 200) + "'"; }

bool parse_whole(const std::string& s, uint64_t max, uint64_t& v) {
  auto [end, failed] = std::from_chars(s.data(), s.data() + s.size(), v);
  return failed == std::errc() && end == s.data() + s.size() && !s.empty() && v <= max;
}

std::string set_flag(bool& to, const std::string& s) {
  if (s == "true" || s == "1" || s == "on") to = true;
  else if (s == "false" || s == "0" || s == "off") to = false;
  else return quoted(s) + " is neither true nor false";
  return {};
}

std::string set_seconds(std::chrono::milliseconds& to, const std::string& s) {
  double seconds = 0;
  auto [end, failed] = std::from_chars(s.data(), s.data() + s.size(), seconds);
  if (failed != std::errc() || end != s.data() + s.size() || !(seconds >= 0) || seconds > 1e6) return quoted(s) + " is not a number of seconds";
  to = std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
  return {};
}

std::string set_device(Options& o, const std::string& s) {
  if (s != "cpu") return quoted(s) + ": this build has the device cpu only";
  o.device = s;
  return {};
}

std::string set_listen(Options& o, const std::string& s) {
  std::string error;
  auto e = transport::parse_endpoint(s, error);
  if (e) o.listen.push_back(*e);
  return error;
}

std::string set_data_ports(Options& o, const std::string& s) {
  size_t dash = s.find('-');
  uint64_t first = 0, last = 65535;
  if (!parse_whole(s.substr(0, dash), 65535, first)) return quoted(s) + " is not FIRST or FIRST-LAST";
  if (dash != std::string::npos && (!parse_whole(s.substr(dash + 1), 65535, last) || last < first)) return quoted(s) + " is not FIRST-LAST";
  o.data_port_first = static_cast<uint16_t>(first);
  o.data_port_last = static_cast<uint16_t>(first == 0 ? 0 : last);
  return {};
}

std::string set_torch(Options& o, const std::string& s) {
  if (access((s + "/version.py").c_str(), R_OK) != 0)
    return quoted(s) + " holds no version.py: name the torch package's own folder (…/site-packages/torch)";
  o.torch.push_back(s);
  return {};
}

std::string set_op_library(Options& o, const std::string& s) {
  if (access(s.c_str(), R_OK) != 0) return quoted(s) + " cannot be read";
  if (s.find(':') != std::string::npos) return quoted(s) + ": a path with a colon cannot be handed on";
  o.op_library.push_back(s);
  return {};
}

std::string set_memory(Options& o, const std::string& s) {
  if (!parse_size(s, o.memory)) return quoted(s) + " is not a size (such as 512MiB or 8GiB)";
  if (o.memory < kMemoryMin) return quoted(s) + " is less than " + std::to_string(kMemoryMin >> 20) + "MiB";
  return {};
}

template <unsigned Min, unsigned Max>
std::string set_count(unsigned& to, const std::string& s) {
  uint64_t v = 0;
  if (!parse_whole(s, Max, v) || v < Min) return quoted(s) + " is not a number between " + std::to_string(Min) + " and " + std::to_string(Max);
  to = static_cast<unsigned>(v);
  return {};
}

std::string set_log_level(Options& o, const std::string& s) {
  if (s != "debug" && s != "info" && s != "warning" && s != "error") return quoted(s) + " is none of debug, info, warning, error";
  o.log_level = s;
  return {};
}

std::string set_log_format(Options& o, const std::string& s) {
  if (s != "text" && s != "json") return quoted(s) + " is neither text nor json";
  o.log_format = s;
  return {};
}

std::string set_metrics(Options& o, const std::string& s) {
  std::string error;
  o.metrics = transport::parse_endpoint("tcp://" + s, error);
  return error;
}

std::string set_ready_fd(Options& o, const std::string& s) {
  uint64_t fd = 0;
  if (!parse_whole(s, 1 << 20, fd)) return quoted(s) + " is not a file descriptor";
  o.ready_fd = static_cast<int>(fd);
  return {};
}

// The one list of options.
const Setting kSettings[] = {
    {"device", Shape::value, "NAME", "What computes: cpu", set_device},
    {"listen", Shape::list, "ENDPOINT",
     "tcp://HOST:PORT or ipc://PATH, repeatable (default tcp://127.0.0.1:5555). The front door is the next port, or PATH.data", set_listen},
    {"data-ports", Shape::value, "FIRST[-LAST]", "Ports of the workers on TCP (default 5557-65535, the first free ones; 0: any)", set_data_ports},
    {"torch", Shape::list, "DIR", "A torch package (…/site-packages/torch) whose libtorch executes ops, repeatable: one per minor version",
     set_torch},
    {"client-torch", Shape::flag, "", "Over ipc, a client whose torch version is not given by --torch brings its own folder",
     [](Options& o, const std::string& s) { return set_flag(o.client_torch, s); }},
    {"op-library", Shape::list, "FILE", "A shared object with more ops, repeatable", set_op_library},
    {"check", Shape::flag, "", "Validate every forwarded call against what the op level computes",
     [](Options& o, const std::string& s) { return set_flag(o.check, s); }},
    {"grace", Shape::value, "SECONDS", "How long a silent client keeps its session (default 60)",
     [](Options& o, const std::string& s) { return set_seconds(o.grace, s); }},
    {"devices", Shape::value, "N", "How many devices each session sees; they share the threads (default 1)",
     [](Options& o, const std::string& s) { return set_count<1, wire::kDevicesMax>(o.devices, s); }},
    {"memory", Shape::value, "SIZE",
     "Memory of each device, for all sessions together, such as 8GiB (default: half of the machine's, divided among the devices)", set_memory},
    {"threads", Shape::value, "N", "Threads of the devices, shared among active sessions (default: cores - 1)",
     [](Options& o, const std::string& s) { return set_count<1, 4096>(o.threads, s); }},
    {"workers", Shape::value, "N", "Warm workers that wait for sessions (default 1)",
     [](Options& o, const std::string& s) { return set_count<1, 64>(o.workers, s); }},
    {"sessions", Shape::value, "N", "Sessions at one time; each is a process (default 256)",
     [](Options& o, const std::string& s) { return set_count<1, 4096>(o.sessions, s); }},
    {"log-level", Shape::value, "LEVEL", "debug, info, warning or error (default info)", set_log_level},
    {"log-format", Shape::value, "FORMAT", "text, or json: one object a line (default text)", set_log_format},
    {"metrics", Shape::value, "HOST:PORT", "Serve metrics for Prometheus at http://HOST:PORT/metrics (default: not)", set_metrics},
    {"idle-exit", Shape::value, "SECONDS", "End when no session has existed for so long (default: never)",
     [](Options& o, const std::string& s) { return set_seconds(o.idle_exit, s); }},
    {"allow-unauthenticated", Shape::flag, "", "Listen on addresses other than loopback although there is no authentication yet",
     [](Options& o, const std::string& s) { return set_flag(o.allow_unauthenticated, s); }},
    {"ready-fd", Shape::value, "N", "Write 'ready ENDPOINT' to this file descriptor when listening", set_ready_fd},
};

std::string environment_name(const std::string& name) {
  std::string e = kEnvironmentPrefix;
  for (char c : name) e += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return e;
}

std::vector<std::string> split(const std::string& s, char at) {
  std::vector<std::string> out;
  for (size_t begin = 0; begin <= s.size();) {
    size_t end = std::min(s.find(at, begin), s.size());
    if (end > begin) out.push_back(s.substr(begin, end - begin));
    begin = end + 1;
  }
  return out;
}

// name → its values, and where they were written, for errors.
struct Given {
  std::string where;
  std::vector<std::string> values;
};
using Source = std::map<std::string, Given>;

const Setting* find_setting(const std::string& name) {
  for (const Setting& s : kSettings)
    if (name == s.name) return &s;
  return nullptr;
}

std::string read_environment(const Environment& environment, Source& out) {
  for (const auto& [key, value] : environment) {
    if (key == "DJINN_PERF")
      if (auto s = wire::read_switches(value.c_str()); !s.problem.empty()) return s.problem;
    if (key.rfind(kEnvironmentPrefix, 0) != 0) continue;
    auto setting = std::find_if(std::begin(kSettings), std::end(kSettings), [&](const Setting& s) { return environment_name(s.name) == key; });
    if (setting == std::end(kSettings)) return key + " in the environment: the server has no such option";
    out[setting->name] = {key, setting->shape == Shape::list ? split(value, ',') : std::vector{value}};
  }
  return {};
}

std::string scalar(const toml::node& node, std::string& text) {
  if (auto v = node.as_string()) text = v->get();
  else if (auto i = node.as_integer()) text = std::to_string(i->get());
  else if (auto f = node.as_floating_point()) text = CLI::detail::to_string(f->get());
  else if (auto b = node.as_boolean()) text = b->get() ? "true" : "false";
  else return "is neither text, a number nor true or false";
  return {};
}

std::string read_file(const std::string& path, Source& out) try {
  if (!std::ifstream(path)) return path + ": cannot be read";
  toml::table table = toml::parse_file(path);
  for (auto&& [key, node] : table) {
    std::string name(key.str()), text, where = path + ": " + name;
    const Setting* setting = find_setting(name);
    if (!setting) return where + ": the server has no such option";
    Given given{where, {}};
    toml::array* list = node.as_array();
    if (list && setting->shape != Shape::list) return where + ": takes one value, not a list";
    if (list) {
      for (auto&& element : *list) {
        if (auto e = scalar(element, text); !e.empty()) return where + ": an element " + e;
        given.values.push_back(text);
      }
    } else {
      if (auto e = scalar(node, text); !e.empty()) return where + ": " + e;
      given.values.push_back(text);
    }
    out[name] = std::move(given);
  }
  return {};
} catch (const toml::parse_error& e) {
  return path + ":" + std::to_string(e.source().begin.line) + ": " + std::string(e.description());
}

std::string apply(Options& o, const Source& source, const Source& stronger) {
  for (const Setting& s : kSettings) {
    auto it = source.find(s.name);
    if (it == source.end() || stronger.count(s.name)) continue;
    for (const std::string& v : it->second.values)
      if (auto e = s.set(o, v); !e.empty()) return it->second.where + ": " + e;
  }
  return {};
}

// The least that a control group which this process is in may hold: a container's, a systemd unit's ("max" does not parse).
uint64_t group_limit() {
  uint64_t least = UINT64_MAX, limit = 0;
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    if (!line.starts_with("0::")) continue;
    for (std::string path = line.substr(3);; path.resize(path.rfind('/'))) {
      if (std::ifstream("/sys/fs/cgroup" + path + "/memory.max") >> limit && limit) least = std::min(least, limit);
      if (path.find('/') == std::string::npos) break;
    }
  }
  return least;
}

uint64_t machine_memory() {
  return std::min(group_limit(), static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGE_SIZE)));
}

unsigned usable_cores() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? static_cast<unsigned>(CPU_COUNT(&set)) : 1u;
}

std::string complete(Options& o) {
  if (o.listen.empty()) {
    transport::Endpoint e;
    e.host = "127.0.0.1";
    e.port = kControlPort;
    o.listen.push_back(e);
  }
  auto doors = o.listen;
  if (o.metrics) doors.push_back(*o.metrics);
  for (const auto& e : doors)
    if (!e.is_loopback() && !o.allow_unauthenticated)
      return e.text() +
             " is not a loopback address, and there is no authentication yet: anybody who reaches it could compute here. "
             "--allow-unauthenticated listens all the same";
  if (!o.memory) o.memory = machine_memory() / 2 / o.devices;
  o.memory &= ~(wire::kGranule - 1);
  if (!o.threads) o.threads = std::max(1u, usable_cores() - 1);
  return {};
}

constexpr const char* kFooter =
    "Each option can also be given in the environment (--idle-exit 30 is DJINN_SERVER_IDLE_EXIT=30; lists are separated by commas) and in the "
    "TOML file of --config (idle-exit = 30; lists are arrays). The command line wins over the environment, the environment over the file.";

// ", executors for torch 2.14, 2.15"
std::string executor_versions() {
  std::string all;
  for (const auto& [minor, path] : executors()) all += (all.empty() ? ", executors for torch " : ", ") + minor;
  return all.empty() ? ", no executor: call level only" : all;
}

}  // namespace

bool parse_size(const std::string& text, uint64_t& bytes) {
  static const std::map<std::string, unsigned> kShift = {{"", 0}, {"B", 0}, {"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40}};
  size_t digits = text.find_first_not_of("0123456789");
  digits = std::min(digits, text.size());
  auto unit = kShift.find(text.substr(digits));
  uint64_t v = 0;
  if (unit == kShift.end() || !parse_whole(text.substr(0, digits), UINT64_MAX >> unit->second, v) || !v) return false;
  bytes = v << unit->second;
  return true;
}

Environment process_environment() {
  Environment out;
  for (char** e = environ; e && *e; ++e) {
    std::string entry = *e;
    size_t equals = entry.find('=');
    if (equals != std::string::npos) out[entry.substr(0, equals)] = entry.substr(equals + 1);
  }
  return out;
}

std::variant<Options, Said> parse_options(int argc, const char* const* argv, const Environment& environment) {
  CLI::App app{"djinn-gpu-server: runs the device work of CUDA programs that preload libdjinn.so", "djinn-gpu-server"};
  app.footer(kFooter);
  app.set_version_flag("--version", "djinn-gpu-server " DJINN_VERSION + executor_versions());
  std::map<std::string, std::vector<std::string>> values;
  std::map<std::string, bool> flags;
  std::map<std::string, CLI::Option*> handles;
  for (const Setting& s : kSettings) {
    std::string name = "--" + std::string(s.name);
    handles[s.name] = s.shape == Shape::flag ? app.add_flag(name, flags[s.name], s.help)
                                             : app.add_option(name, values[s.name], s.help)->type_name(s.type)->expected(1)->allow_extra_args(false);
    if (s.shape == Shape::list) handles[s.name]->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  }
  Options options;
  std::string config;
  app.add_option("--config", config, "TOML file of options")->type_name("FILE");
  app.add_option("--stats", options.stats, "Print the statistics of the server at this endpoint as JSON, and end")->type_name("ENDPOINT");
  auto* graph = app.add_option("--graph", options.graph, "Print what a session of the server at this endpoint has done as JSON, and end");
  graph->type_name("ENDPOINT");
  app.add_option("--session", options.session, "With --graph: whose (default: the newest)")->type_name("N")->needs(graph);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    std::ostringstream out, error;
    int status = app.exit(e, out, error);
    return Said{status ? "djinn-gpu-server: " + std::string(e.what()) + "\n" : out.str(), status ? 2 : 0};
  }
  Source command, from_environment, from_file;
  for (const Setting& s : kSettings) {
    if (handles[s.name]->count() == 0) continue;
    command[s.name] = {"--" + std::string(s.name),
                       s.shape == Shape::flag ? std::vector<std::string>{flags[s.name] ? "true" : "false"} : values[s.name]};
  }
  std::string error = read_environment(environment, from_environment);
  if (error.empty() && !config.empty()) error = read_file(config, from_file);
  Source stronger = command;
  if (error.empty()) error = apply(options, command, {});
  if (error.empty()) error = apply(options, from_environment, stronger);
  stronger.insert(from_environment.begin(), from_environment.end());
  if (error.empty()) error = apply(options, from_file, stronger);
  if (error.empty()) error = complete(options);
  if (!error.empty()) return Said{"djinn-gpu-server: " + error + "\n", 2};
  return options;
}

}  // namespace djinn::server

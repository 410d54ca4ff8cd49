// See configuration.hpp.
#include "interpose/batch/configuration.hpp"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <string_view>

namespace djinn {

namespace {

bool on_off(const char* name, bool fallback, std::string& error) {
  const char* v = std::getenv(name);
  if (!v || !*v) return fallback;
  if (!std::strcmp(v, "on") || !std::strcmp(v, "1")) return true;
  if (!std::strcmp(v, "off") || !std::strcmp(v, "0")) return false;
  error = std::string(name) + "='" + v + "' is neither on nor off";
  return fallback;
}

int choice(const char* name, std::initializer_list<const char*> words, int fallback, std::string& error) {
  const char* v = std::getenv(name);
  if (!v || !*v) return fallback;
  int i = 0;
  std::string list;
  for (const char* w : words) {
    if (!std::strcmp(v, w)) return i;
    list += (i++ ? ", " : "") + std::string(w);
  }
  error = std::string(name) + "='" + v + "' is none of: " + list;
  return fallback;
}

// As CUDA reads it: numbers until the first that is none (so "" and "-1" hide everything), and a number that comes twice hides everything. What
// follows a number up to the comma does not count.
std::optional<std::vector<size_t>> read_visible(const char* text) {
  if (!text) return std::nullopt;
  std::vector<size_t> devices;
  for (const char* p = text; p; p = (p = std::strchr(p, ',')) ? p + 1 : nullptr) {
    while (*p == ' ') ++p;
    if (!std::isdigit(static_cast<unsigned char>(*p))) break;
    size_t device = std::strtoul(p, nullptr, 10);
    if (std::find(devices.begin(), devices.end(), device) != devices.end()) return std::vector<size_t>{};
    devices.push_back(device);
  }
  return devices;
}

Configuration read() {
  Configuration c;
  if (const char* s = std::getenv("DJINN_SERVER")) c.server = s;
  c.local = on_off("DJINN_LOCAL", true, c.error);
  c.summary = on_off("DJINN_SUMMARY", true, c.error);
  c.meaning = on_off("DJINN_MEANING", true, c.error);
  c.level = choice("DJINN_LEVEL", {"auto", "call", "op"}, 0, c.error);
  c.log_level = choice("DJINN_LOG", {"error", "warning", "info", "debug"}, 1, c.error);
  if (const char* l = std::getenv("DJINN_LINK")) c.link = l;
  if (const char* r = std::getenv("DJINN_RECORD")) c.record = r;
  c.visible = read_visible(std::getenv("CUDA_VISIBLE_DEVICES"));
  const char* blocking = std::getenv("CUDA_LAUNCH_BLOCKING");
  c.blocking = blocking && !std::strcmp(blocking, "1");
  c.debug_fault = choice("DJINN_DEBUG", {"off", "fault"}, 0, c.error) == 1;
  c.switches = wire::read_switches(std::getenv("DJINN_PERF"));
  if (!c.switches.problem.empty()) c.error = c.switches.problem;
  return c;
}

}  // namespace

const Configuration& configuration() {
  static const Configuration* c = new Configuration(read());
  return *c;
}

}  // namespace djinn

// The optimisations that DJINN_PERF=no_NAME[,no_NAME…] turns off. One list for both sides, so that one value can be given to both: each side
// knows all names, refuses others by name, and asks for its own.
#pragma once
#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace djinn::wire {

inline constexpr std::string_view kSwitches[] = {
    "shape_cache",   // hook: outputs of known calls are made without running PyTorch's kernel
    "idle_flush",    // client: a batch leaves as soon as the server has nothing to do
    "module_paths",  // hook: Python's modules and optimizers are followed: errors name the module whose op it was, steps have phases
    "error_lines",   // client: errors that arrive later name the line of Python that posted what failed
    "placement",     // executor: results are computed where the client wants them, instead of copied there
    "pool",          // executor: temporary memory is kept for the next op
};

struct Switches {
  std::vector<std::string> off;  // names, without "no_"
  std::string problem;           // one sentence about the first word that names no optimisation; empty: there is none
  bool on(std::string_view name) const { return std::find(off.begin(), off.end(), name) == off.end(); }
};

// `text` is the variable's value; null when it is not set.
inline Switches read_switches(const char* text) {
  Switches s;
  for (std::string_view rest = text ? text : ""; !rest.empty();) {
    std::string_view word = rest.substr(0, rest.find(','));
    rest.remove_prefix(word.size() < rest.size() ? word.size() + 1 : word.size());
    bool known = false;
    for (std::string_view name : kSwitches) known |= word.substr(0, 3) == "no_" && word.substr(3) == name;
    if (known) s.off.emplace_back(word.substr(3));
    else if (s.problem.empty()) s.problem = word.empty() ? "(nothing)" : std::string(word);
  }
  if (s.problem.empty()) return s;
  std::string all;
  for (std::string_view name : kSwitches) all += (all.empty() ? "no_" : ", no_") + std::string(name);
  s.problem = "DJINN_PERF: unknown switch '" + s.problem + "' (known: " + all + ")";
  return s;
}

}  // namespace djinn::wire

// The optimisations that DJINN_PERF=no_NAME[,no_NAME…] turns off. One list for both sides, so that one value can be given to both: each side
// knows all names, refuses others by name, and asks for its own.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace djinn::wire {

inline constexpr std::string_view kSwitches[] = {
    "shape_cache",  // hook: outputs of known calls are made without running PyTorch's kernel
    "idle_flush",   // client: a batch leaves as soon as the server has nothing to do
    "placement",    // executor: results are computed where the client wants them, instead of copied there
    "pool",         // executor: temporary memory is kept for the next op
};

// The names in `text`, without "no_". Empty `unknown`, or the first word that names no optimisation.
inline std::vector<std::string> switched_off(std::string_view text, std::string& unknown) {
  std::vector<std::string> off;
  while (!text.empty()) {
    std::string_view word = text.substr(0, text.find(','));
    text.remove_prefix(word.size() < text.size() ? word.size() + 1 : word.size());
    bool known = false;
    for (std::string_view s : kSwitches) known |= word.substr(0, 3) == "no_" && word.substr(3) == s;
    if (known) off.emplace_back(word.substr(3));
    else if (unknown.empty()) unknown = word.empty() ? "(nothing)" : std::string(word);
  }
  return off;
}

inline std::string known_switches() {
  std::string list;
  for (std::string_view s : kSwitches) list += (list.empty() ? "no_" : ", no_") + std::string(s);
  return list;
}

}  // namespace djinn::wire

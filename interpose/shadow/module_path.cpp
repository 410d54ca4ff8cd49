// See module_path.hpp.
#include "interpose/shadow/module_path.hpp"

#include <deque>
#include <mutex>
#include <unordered_map>

namespace djinn {

namespace {
constexpr size_t kPathsMax = 1 << 20;
struct Paths {
  std::mutex mutex;
  std::deque<std::string> texts{""};  // their addresses stay
  std::unordered_map<std::string, uint32_t> numbers;
};
Paths& paths() {
  static Paths* p = new Paths;
  return *p;
}
}  // namespace

uint32_t module_number(const char* path) {
  std::lock_guard lock(paths().mutex);
  auto i = paths().numbers.find(path);
  if (i != paths().numbers.end()) return i->second;
  if (paths().texts.size() >= kPathsMax) return 0;
  auto number = static_cast<uint32_t>(paths().texts.size());
  paths().texts.emplace_back(path);
  paths().numbers.emplace(path, number);
  return number;
}

const char* module_path(uint32_t number) {
  std::lock_guard lock(paths().mutex);
  return number < paths().texts.size() ? paths().texts[number].c_str() : "";
}

}  // namespace djinn

// What a program may say about itself (the Python package `djinn`, or any program that finds these by dlsym): labels around parts of its work, and a
// name for its session. Without Djinn in the process the functions are not there, and the program has lost nothing.
#include <cstring>

#include "interpose/batch/session.hpp"
#include "interpose/shadow/module_path.hpp"

namespace djinn {

namespace {
// Labels inside of labels; deeper ones are not followed.
constexpr size_t kLabelsDeep = 64;
struct Labels {
  uint32_t outer[kLabelsDeep];
  size_t depth = 0;
};
Labels& labels() {
  static thread_local Labels l;
  return l;
}

bool sensible(const char* text) {
  size_t n = text ? strnlen(text, wire::kLabelBytesMax + 1) : 0;
  return n > 0 && n <= wire::kLabelBytesMax;
}
}  // namespace

}  // namespace djinn

// From here on this thread's work is `label` (1 to 64 bytes), until the matching end. 0: done; 1: no label, nothing changed but the depth.
DJINN_EXPORT int djinn_phase_begin(const char* label) {
  using namespace djinn;
  Labels& l = labels();
  if (l.depth < kLabelsDeep) l.outer[l.depth] = scope().label;
  ++l.depth;
  if (!sensible(label) || l.depth > kLabelsDeep) return 1;
  scope().label = module_number(label);
  return 0;
}

DJINN_EXPORT void djinn_phase_end(void) {
  using namespace djinn;
  Labels& l = labels();
  if (!l.depth || --l.depth >= kLabelsDeep) return;
  scope().label = l.outer[l.depth];
}

// What the session is called wherever it is shown; "" takes the name away. 0: the server is told, at the latest when the session opens; 1: no name.
DJINN_EXPORT int djinn_session_name(const char* name) {
  using namespace djinn;
  if (!name || (*name && !sensible(name))) return 1;
  name_session(name);
  return 0;
}

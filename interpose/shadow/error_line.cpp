// See error_line.hpp.
#include "interpose/shadow/error_line.hpp"

#include <dlfcn.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>

#include "interpose/batch/configuration.hpp"
#include "interpose/shadow/module_path.hpp"
#include "interpose/shadow/python_line.hpp"

namespace djinn::error_line {

namespace {

struct Layout {
  const char* version;
  size_t current;  // in the thread's state: the frame, or what has it
  bool boxed;
  size_t boxed_current;                // in the latter
  size_t code, previous, instruction;  // in a frame
};
constexpr Layout kLayouts[] = {
    {"3.11.", 56, true, 8, 32, 48, 56},
    {"3.12.", 56, true, 0, 0, 8, 56},
    {"3.13.", 72, false, 0, 0, 8, 56},
};
// Deeper ones are not looked at.
constexpr size_t kFramesMax = 64;
// So many questions, and so many that are not answered in time (20 ms each), before nobody is asked any more.
constexpr int kAsksMax = 1 << 14, kUnansweredMax = 16;

struct Python {
  const Layout* layout = nullptr;
  void* (*this_thread)() = nullptr;  // PyGILState_GetThisThreadState: needs no lock
};
Python python_here;
std::atomic<bool> tried{false};
enum class Lines : uint8_t { unknown, believed, known };  // believed: the layout has not been held against the interpreter's answer yet
std::atomic<Lines> lines{Lines::unknown};
std::atomic<int> asked{0}, unanswered{0};

// What addresses are, for ever (whoever is in here is kept alive): of code, PyTorch's own or the program's; of an instruction, the number of its
// line. One word each, address and meaning, so that it is read and written without a lock.
constexpr size_t kSlots = 1 << 16, kProbes = 64;
constexpr uint64_t kInner = 0xffff, kOwn = 0xfffe, kMeaningMax = 0xfffd;
std::array<std::atomic<uint64_t>, kSlots> slots;

size_t slot_of(const void* address) { return reinterpret_cast<uintptr_t>(address) * 0x9e3779b97f4a7c15u >> 48; }

uint64_t meaning_of(const void* address) {
  auto key = reinterpret_cast<uintptr_t>(address);
  for (size_t i = slot_of(address), n = 0; n < kProbes; n++, i++) {
    uint64_t word = slots[i % kSlots].load(std::memory_order_relaxed);
    if (word >> 16 == key) return word & 0xffff;
    if (!word) break;
  }
  return 0;
}
void remember(const void* address, uint64_t meaning) {
  uint64_t word = reinterpret_cast<uintptr_t>(address) << 16 | meaning;
  for (size_t i = slot_of(address), n = 0; n < kProbes; n++, i++) {
    uint64_t there = 0;
    if (slots[i % kSlots].compare_exchange_strong(there, word, std::memory_order_relaxed) || there >> 16 == word >> 16) return;
  }
}

struct Frame {
  const void *code, *instruction;
};

const void* plain(const void* at) { return *static_cast<const void* const*>(at); }
// For the first time, when the layout is a belief: what cannot be read is null.
const void* careful(const void* at) {
  const void* word = nullptr;
  iovec mine{&word, sizeof word}, theirs{const_cast<void*>(at), sizeof word};
  return process_vm_readv(getpid(), &mine, 1, &theirs, 1, 0) == sizeof word ? word : nullptr;
}

// This thread's frames, innermost first, as long as `each` wants more.
template <class Each>
void walk(const void* (*read)(const void*), Each each) {
  const Layout& l = *python_here.layout;
  auto field = [&](const void* base, size_t offset) { return base ? read(static_cast<const std::byte*>(base) + offset) : nullptr; };
  const void* frame = field(python_here.this_thread(), l.current);
  if (l.boxed) frame = field(frame, l.boxed_current);
  for (size_t n = 0; frame && n < kFramesMax && each(Frame{field(frame, l.code), field(frame, l.instruction)}); n++) frame = field(frame, l.previous);
}

// Mirror: hooks/python/djinn/cli/_record.py.
bool inner(const std::string& file) {
  constexpr std::string_view kInnerFiles[] = {"-packages/torch/", "<frozen", "<djinn>", "/contextlib.py"};
  return std::any_of(std::begin(kInnerFiles), std::end(kInnerFiles), [&](std::string_view part) { return file.find(part) != file.npos; });
}

// Asks the interpreter, and holds the chain against its answer: what it does not have are the frames by which C calls Python.
uint32_t ask() {
  std::array<Frame, kFramesMax> walked;
  size_t count = 0, at = 0;
  walk(lines == Lines::known ? plain : careful, [&](const Frame& f) { return walked[count++] = f, true; });
  if (!count) return 0;
  auto answered = python::Where().answer();
  if (++asked >= kAsksMax || (answered.empty() && ++unanswered >= kUnansweredMax)) lines = Lines::unknown;
  if (answered.empty()) return 0;
  for (const python::Frame& f : answered) {
    while (at < count && walked[at].code != f.code) remember(walked[at++].code, kInner);
    if (at == count) return lines = Lines::unknown, 0;
    if (Lines before = Lines::believed; at == 0) lines.compare_exchange_strong(before, Lines::known);
    bool keep = f.place && f.place <= kMeaningMax, own = keep && !inner(python::place(f.place).file);
    if (keep) remember(walked[at].code, own ? kOwn : kInner);
    if (own) return remember(walked[at].instruction, f.place), f.place;
    if (++at == count) break;
  }
  return 0;
}

}  // namespace

void start() {
  if (tried.exchange(true) || !perf("error_lines")) return;
  auto version = reinterpret_cast<const char* (*)()>(dlsym(RTLD_DEFAULT, "Py_GetVersion"));
  python_here.this_thread = reinterpret_cast<void* (*)()>(dlsym(RTLD_DEFAULT, "PyGILState_GetThisThreadState"));
  if (!version || !python_here.this_thread || strstr(version(), "free-threading")) return;
  for (const Layout& l : kLayouts)
    if (!strncmp(version(), l.version, strlen(l.version))) python_here.layout = &l;
  if (python_here.layout) lines = Lines::believed;
}

uint32_t here() {
  Lines now = lines.load(std::memory_order_acquire);
  if (now != Lines::known) return now == Lines::believed ? ask() : 0;
  uint64_t meaning = 0;
  bool strange = false;
  walk(plain, [&](const Frame& f) {
    meaning = meaning_of(f.code);
    if (meaning == kOwn) meaning = meaning_of(f.instruction);
    strange = !meaning;
    return meaning == kInner;
  });
  if (strange) return ask();
  return meaning == kInner ? 0 : static_cast<uint32_t>(meaning);
}

std::string place(uint32_t module, uint32_t line) {
  std::string all = module_path(module);
  if (!all.empty()) all = " in " + all;
  if (!line) return all;
  python::Place p = python::place(line);
  return all + " (" + p.file + ":" + std::to_string(p.line) + ")";
}

}  // namespace djinn::error_line

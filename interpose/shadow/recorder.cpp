// See recorder.hpp. The buffer's mutex is a leaf: nothing is asked of anybody under it.
#include "interpose/shadow/recorder.hpp"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include <map>
#include <mutex>
#include <unordered_map>
#include <unordered_set>

#include "interpose/batch/configuration.hpp"
#include "interpose/batch/counters.hpp"
#include "interpose/batch/session.hpp"
#include "interpose/shadow/module_path.hpp"
#include "semantic/wire/op.hpp"

namespace djinn::recorder {

namespace {

using record::Kind;
using wire::Opcode;

// Worth a system call, and all that a crash within half a second may lose.
constexpr size_t kWriteBytes = 256u << 10;
// Numbered once and for all; what comes beyond has number 0, "not known". A text is a name, a path or a line's file.
constexpr size_t kTextsMax = 1 << 20, kStacksMax = 1 << 16;
// Where a copy from pageable memory was asked for is found out for those that take longer than finding it out.
constexpr uint64_t kLookBytesMin = 64u << 10;

struct State {
  std::mutex mutex;
  int file = -1;
  std::string path;
  std::vector<std::byte> buffer;
  std::unordered_map<std::string, uint32_t> texts;
  std::unordered_map<const char*, uint32_t> kept_texts;  // of names that are kept for ever
  std::vector<uint32_t> module_texts;                    // by a module's number
  std::map<std::vector<uint32_t>, uint32_t> stacks;
  std::unordered_set<uint32_t> places, threads;  // that are defined
};
State& state() {
  static State* s = new State;
  return *s;
}

struct Here {
  uint32_t thread = 0;
  const char* entry = nullptr;    // the entry point
  const char* last_op = nullptr;  // that was posted
  const char* query = nullptr;    // the op whose reply is waited for
};
Here& here() {
  static thread_local Here h;
  if (!h.thread) h.thread = static_cast<uint32_t>(gettid());
  return h;
}

// ---- under the mutex ----

void close_file(State& s) {
  if (s.file >= 0) close(s.file);
  s.file = -1;
}

void write_out(State& s) {
  for (size_t done = 0; s.file >= 0 && done < s.buffer.size();) {
    ssize_t n = write(s.file, s.buffer.data() + done, s.buffer.size() - done);
    if (n > 0) done += static_cast<size_t>(n);
    else if (n == 0 || errno != EINTR) {
      say(Level::warning, "DJINN_RECORD: %s cannot be written (%s); the program goes on unrecorded", s.path.c_str(), strerror(n ? errno : ENOSPC));
      work::unwatch(work::kRecorder);
      close_file(s);
    }
  }
  s.buffer.clear();
}

template <class Event>
void put(State& s, Kind kind, const Event& event, std::initializer_list<std::string_view> strings = {}) {
  size_t bytes = sizeof event;
  for (auto text : strings) bytes += sizeof(uint64_t) + wire::align8(text.size());
  wire::Writer w(s.buffer);
  w.put(record::EventHeader{static_cast<uint32_t>(kind), static_cast<uint32_t>(bytes)});
  w.put(event);
  for (auto text : strings) w.put_string(text);
}
// An event that the definitions before it belong to.
template <class Event>
void note(State& s, Kind kind, const Event& event, std::initializer_list<std::string_view> strings = {}) {
  put(s, kind, event, strings);
  if (s.buffer.size() >= kWriteBytes) write_out(s);
}

uint32_t text(State& s, std::string_view words) {
  if (words.empty() || s.texts.size() >= kTextsMax) return 0;
  auto [i, isnew] = s.texts.try_emplace(std::string(words), static_cast<uint32_t>(s.texts.size() + 1));
  if (isnew) put(s, Kind::text, record::Text{i->second}, {words});
  return i->second;
}
uint32_t kept_text(State& s, const char* words) {
  if (!words) return 0;
  auto [i, isnew] = s.kept_texts.try_emplace(words, 0);
  if (isnew) i->second = text(s, words);
  return i->second;
}

uint32_t module_text(State& s, uint32_t number) {
  if (!number) return 0;
  if (number >= s.module_texts.size()) s.module_texts.resize(number + 1);
  uint32_t& t = s.module_texts[number];
  return t ? t : t = text(s, module_path(number));
}

uint32_t thread_number(State& s) {
  uint32_t id = here().thread;
  if (!s.threads.insert(id).second) return id;
  char name[16] = "";
  pthread_getname_np(pthread_self(), name, sizeof name);
  put(s, Kind::thread, record::Thread{id}, {name});
  return id;
}

uint32_t stack_number(State& s, const std::vector<python::Frame>& stack) {
  if (stack.empty()) return 0;
  std::vector<uint32_t> frames;
  for (const python::Frame& f : stack) frames.push_back(f.place);
  if (auto i = s.stacks.find(frames); i != s.stacks.end()) return i->second;
  if (s.stacks.size() >= kStacksMax) return 0;
  for (uint32_t number : frames) {
    if (!s.places.insert(number).second) continue;
    python::Place p = python::place(number);
    record::Place event{number, text(s, p.file), text(s, p.function), static_cast<uint64_t>(p.line)};
    put(s, Kind::place, event);
  }
  uint32_t number = s.stacks[frames] = static_cast<uint32_t>(s.stacks.size() + 1);
  wire::Writer w(s.buffer);
  w.put(record::EventHeader{static_cast<uint32_t>(Kind::stack), static_cast<uint32_t>(8 + 8 * frames.size())});
  w.put(record::Stack{number});
  for (uint32_t f : frames) w.put<uint64_t>(f);
  return number;
}

void take_context(State& s, std::span<const std::byte> payload) {
  wire::Reader r(payload);
  auto c = r.get<wire::MeaningContext>();
  auto module = r.get_string(wire::kNameBytesMax), label = r.get_string(wire::kLabelBytesMax);
  record::Context event{c.id, c.phase, text(s, module), text(s, label)};
  put(s, Kind::context, event);
}

void take_step(State& s, std::span<const std::byte> payload) {
  auto m = wire::Reader(payload).get<wire::MeaningStep>();
  note(s, Kind::step, record::Step{work::monotonic(), m.step, m.phase, m.queries, m.keys});
}

wire::op::OpContext context_of(uint32_t opcode, std::span<const std::byte> payload) {
  wire::op::OpContext context{};
  if (opcode == static_cast<uint32_t>(Opcode::meaning_op)) {
    auto m = wire::Reader(payload).get<wire::MeaningOp>();
    return {m.context, m.step};
  }
  if (opcode != static_cast<uint32_t>(Opcode::op_run) && opcode != static_cast<uint32_t>(Opcode::op_query)) return context;
  if (payload.size() < sizeof(wire::op::OpHead) + sizeof context) return context;
  if (wire::Reader(payload).get<wire::op::OpHead>().flags & wire::op::kContextGiven)
    memcpy(&context, payload.data() + payload.size() - sizeof context, sizeof context);
  return context;
}

std::string path_of(std::string pattern) {
  if (size_t at = pattern.find("%p"); at != std::string::npos) pattern.replace(at, 2, std::to_string(getpid()));
  return pattern;
}

// Empty, or why not.
std::string open_file(State& s) {
  s.file = open(s.path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  if (s.file < 0) return strerror(errno);
  if (flock(s.file, LOCK_EX | LOCK_NB) != 0) return close_file(s), "another process writes it: %p in the name is the process's number";
  if (ftruncate(s.file, 0) == 0 || errno == EINVAL) return {};  // a pipe or a device has no length
  std::string why = strerror(errno);
  return close_file(s), why;
}

uint64_t unix_time() {
  timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000000000u + static_cast<uint64_t>(t.tv_nsec);
}

}  // namespace

void start() {
  const Configuration& c = configuration();
  if (c.record.empty()) return;
  State& s = state();
  s.path = path_of(c.record);
  if (auto why = open_file(s); !why.empty())
    return say(Level::warning, "DJINN_RECORD: %s cannot be written (%s); the program goes on unrecorded", s.path.c_str(), why.c_str());
  work::ServerClock clock;
  if (!work::ask_times(work::kRecorder, true, clock)) return;  // lost: that is said elsewhere
  const auto& opened = session()->opened;
  std::lock_guard lock(s.mutex);
  wire::Writer(s.buffer).put(record::Header{record::kMagic, record::kVersion});
  note(s, Kind::session,
       record::Session{work::monotonic(), unix_time(), clock.ahead, clock.round_trip, static_cast<uint64_t>(getpid()), opened.threads,
                       wire::kCreditTickets, wire::kCreditBytes, perf("idle_flush")},
       {program_name(), opened.server_host, c.link});
  write_out(s);
  if (s.file >= 0) work::watch(work::kRecorder);
}

void finish(bool lost) {
  if (!recording()) return;
  work::unwatch(work::kRecorder);
  State& s = state();
  const Counters& c = counters();
  std::lock_guard lock(s.mutex);
  if (!lost)
    note(s, Kind::end, record::End{work::monotonic(), c.ops, c.aborted, c.server_first, c.round_trips, c.stalls, c.posted, c.frames, c.bytes});
  write_out(s);
  close_file(s);
}

// The buffer is the parent's to write, and its mutex may be anybody's; the file's lock would outlive the parent with the child.
void abandon_in_child() {
  work::unwatch(work::kRecorder);
  close_file(state());
  python::abandon_in_child();
}

void tick() {
  if (!recording()) return;
  std::lock_guard lock(state().mutex);
  write_out(state());
}

void posted(uint32_t opcode, Ticket t, std::span<const std::byte> payload, uint64_t bytes) {
  work::Work w;
  const char* name = work::describe(opcode, payload, w) ? w.name : nullptr;
  Here& h = here();
  if (name && w.what == work::What::kernel) h.last_op = name;
  if (opcode == static_cast<uint32_t>(Opcode::op_query)) h.query = name;
  if (name && w.what != work::What::kernel)
    name = w.what == work::What::upload ? "upload" : w.what == work::What::download ? "download" : w.what == work::What::copy ? "copy" : "fill";
  if (opcode == static_cast<uint32_t>(Opcode::meaning_op))
    if (uint64_t op = wire::Reader(payload).get<wire::MeaningOp>().op) name = work::op_name(op - 1);
  auto context = context_of(opcode, payload);
  State& s = state();
  std::lock_guard lock(s.mutex);
  if (opcode == static_cast<uint32_t>(Opcode::meaning_context)) take_context(s, payload);
  if (opcode == static_cast<uint32_t>(Opcode::meaning_step)) take_step(s, payload);
  record::Posted event{
      t, work::monotonic(), thread_number(s), opcode, kept_text(s, name), module_text(s, scope().module), context.context, context.step, bytes};
  note(s, Kind::posted, event);
}

void sent(Ticket first, Ticket last, uint64_t bytes) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  note(s, Kind::sent, record::Sent{work::monotonic(), first, last, bytes});
}

void acknowledged(Ticket t, uint64_t bytes) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  note(s, Kind::acknowledged, record::Acknowledged{work::monotonic(), t, bytes});
}

void timed(std::span<const wire::Timing> timings) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  for (const wire::Timing& t : timings) note(s, Kind::worked, record::Worked{t.ticket, t.begin, t.end});
}

// ---- waits ----

static const char* name_of_call(uint32_t opcode) {
  switch (static_cast<Opcode>(opcode)) {
    case Opcode::lease: return "memory lease";
    case Opcode::memory_info: return "memory info";
    case Opcode::memory_share:
    case Opcode::memory_unshare:
    case Opcode::memory_import: return "memory sharing";
    case Opcode::download: return "download";
    case Opcode::op_query: return here().query;
    default: return nullptr;
  }
}

// The name is kept in the thread meanwhile: its text is found at the end.
record::Waited Wait::begin(record::WaitKind kind, Ticket t, uint32_t opcode) {
  record::Waited w{};
  w.begin = work::monotonic();
  w.ticket = t;
  w.kind = kind;
  w.opcode = opcode;
  return w;
}

void Wait::end() {
  record::Waited& w = noted_->wait;
  w.end = w.kind == record::WaitKind::none ? w.begin : work::monotonic();
  auto frames = noted_->where.answer();
  w.looking = work::monotonic() - w.end;
  const char *called = name_of_call(w.opcode), *name = w.opcode == static_cast<uint32_t>(Opcode::op_query) || !here().entry ? called : here().entry;
  State& s = state();
  std::lock_guard lock(s.mutex);
  w.thread = thread_number(s);
  w.name = kept_text(s, name);
  w.module = module_text(s, scope().module);
  w.stack = stack_number(s, frames);
  note(s, Kind::waited, w);
}

void need_not_wait(Ticket t) {
  if (!here().entry) return;  // Djinn's own question
  Wait wait(record::WaitKind::none, t);
}

void Entry::begin(const char* name) {
  if (here().entry) return;
  here().entry = name;
  mine_ = true;
}
void Entry::end() { here().entry = nullptr; }

void copied(record::Direction direction, uint64_t bytes, bool pinned, bool asynchronous, const char* name) {
  std::vector<python::Frame> frames;
  uint64_t begin = work::monotonic();
  if (direction != record::Direction::on_device && !pinned && bytes >= kLookBytesMin) frames = python::Where().answer();
  uint64_t looking = work::monotonic() - begin;
  State& s = state();
  std::lock_guard lock(s.mutex);
  note(s, Kind::copied,
       record::Copied{begin, bytes, thread_number(s), kept_text(s, name), module_text(s, scope().module), stack_number(s, frames), direction, pinned,
                      asynchronous, 0, looking});
}

void aborted() {
  const djinn_scope& scoped = scope();
  const Here& h = here();
  if (!scoped.abort || !scoped.op || !h.last_op || strcmp(scoped.op, h.last_op)) return;  // the kernel was never asked
  uint64_t begin = work::monotonic();
  auto frames = python::Where().answer();
  uint64_t looking = work::monotonic() - begin;
  State& s = state();
  std::lock_guard lock(s.mutex);
  note(s, Kind::aborted,
       record::Aborted{begin, thread_number(s), kept_text(s, h.last_op), text(s, scoped.why ? scoped.why : ""), module_text(s, scoped.module),
                       stack_number(s, frames), 0, looking});
}

}  // namespace djinn::recorder

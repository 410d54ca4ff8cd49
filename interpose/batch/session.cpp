// See session.hpp. Opening: configuration → server → link → range → hook. Each step that fails says one sentence, once, and leaves "no device".
#include "interpose/batch/session.hpp"

#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>

#include "interpose/batch/configuration.hpp"
#include "interpose/batch/counters.hpp"
#include "interpose/shadow/error.hpp"
#include "interpose/shadow/error_line.hpp"
#include "interpose/shadow/fault.hpp"
#include "interpose/shadow/recorder.hpp"

namespace djinn {

namespace {

enum class Phase : int { closed, open, refused, forked, ended };
std::atomic<Phase> phase{Phase::closed};
std::mutex opening;
SessionState* state = nullptr;
pid_t owner = 0;

constexpr uint64_t kGiB = 1ull << 30;
// How much address space the client offers: room for any machine's memory, small enough for 47-bit address spaces with sanitizers.
// Expandable segments reserve the device's memory and an eighth more for each stream and size class.
#ifdef __SANITIZE_THREAD__
constexpr uint64_t kRangeBytes = 256 * kGiB;
#else
constexpr uint64_t kRangeBytes = 1024 * kGiB;
#endif
// Where: far from heap, libraries and stacks of an ordinary process. No constant works everywhere, so where none does the
// kernel chooses. Thread sanitizer dies of what it does not leave to programs, instead of failing.
#ifdef __SANITIZE_THREAD__
constexpr uint64_t kRangeBases[] = {0x1000000000};
#else
constexpr uint64_t kRangeBases[] = {0x200000000000, 0x300000000000, 0x180000000000, 0x500000000000, 0};
#endif
constexpr unsigned kOpenTimeoutMs = 60000;  // a cold worker loads libtorch
constexpr unsigned kCloseMs = 1000;         // for what has been sent to leave
constexpr unsigned kHeartbeatMs = 1000, kSilenceMs = 30000;

struct Reserved {
  uint64_t address, size;
};

std::vector<Reserved> reserve_ranges() {
  std::vector<Reserved> got;
  for (uint64_t base : kRangeBases) {
    if (!base && !got.empty()) break;
    uint64_t size = kRangeBytes + (base ? 0 : wire::kGranule);
    void* at =
        mmap(reinterpret_cast<void*>(base), size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (base ? MAP_FIXED_NOREPLACE : 0), -1, 0);
    if (at == MAP_FAILED) continue;
    if (base && at != reinterpret_cast<void*>(base)) {
      munmap(at, size);
      continue;
    }
    uint64_t address = reinterpret_cast<uint64_t>(at), aligned = (address + wire::kGranule - 1) / wire::kGranule * wire::kGranule;
    got.push_back({aligned, kRangeBytes});
  }
  return got;
}

// Everything but the session's own range, which may be a part of what was offered.
void release_ranges(const std::vector<Reserved>& all, uint64_t keep, uint64_t keep_bytes) {
  auto release = [](uint64_t begin, uint64_t end) {
    if (begin < end) munmap(reinterpret_cast<void*>(begin), end - begin);
  };
  for (auto& r : all) {
    uint64_t end = r.address + r.size;
    if (!keep_bytes || keep < r.address || keep >= end) {
      release(r.address, end);
      continue;
    }
    release(r.address, keep);
    release(keep + keep_bytes, end);
  }
}

std::string load_link(SessionState& s) {
  std::string path = own_folder() + "/libdjinn_link.so";
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return std::string("cannot load the link library: ") + dlerror();
  auto get = reinterpret_cast<djinn_link_get_fn>(dlsym(library, "djinn_link_get"));
  s.api = get ? get(DJINN_LINK_VERSION) : nullptr;
  return s.api ? std::string() : path + " is of another version";
}

}  // namespace

std::string program_name() {
  char name[256] = "";
  if (FILE* f = fopen("/proc/self/cmdline", "r")) {
    size_t n = fread(name, 1, sizeof name - 1, f);
    for (size_t i = 0; i + 1 < n; i++)
      if (!name[i]) name[i] = ' ';
    fclose(f);
  }
  return name;
}

namespace {

// Those of the server's devices that the program may see, in its order; CUDA ignores everything from the first that does not exist.
std::vector<size_t> visible_devices(size_t count) {
  std::vector<size_t> devices;
  if (const auto& wanted = configuration().visible) {
    for (size_t i = 0; i < wanted->size() && (*wanted)[i] < count; i++) devices.push_back((*wanted)[i]);
  } else {
    for (size_t i = 0; i < count; i++) devices.push_back(i);
  }
  return devices;
}

std::string open_link(SessionState& s, const std::string& endpoint, bool local) {
  auto ranges = reserve_ranges();
  std::vector<uint64_t> offers;
  for (auto& r : ranges) offers.insert(offers.end(), {r.address, r.size});
  auto torch = torch_in_process();
  std::string program = program_name();
  const Configuration& c = configuration();
  djinn_link_config config{};
  config.endpoint = endpoint.c_str();
  config.program = program.c_str();
  config.torch = torch.version.c_str();
  config.torch_directory = torch.directory.c_str();
  config.level = c.level;
  config.ranges = offers.data();
  config.range_count = ranges.size();
  config.open_timeout_ms = kOpenTimeoutMs;
  config.heartbeat_ms = kHeartbeatMs;
  config.lost_ms = kSilenceMs;
  config.emulate = c.link.empty() ? nullptr : c.link.c_str();
  config.check_peer_uid = local;
  djinn_link_events events{};
  events.self = &s.log;
  events.on_frame = [](void* self, const void* frame, size_t size, const djinn_part* bulk, size_t count) {
    static_cast<Log*>(self)->on_frame({static_cast<const std::byte*>(frame), size}, {bulk, count});
  };
  events.on_lost = [](void* self, const char* reason) {
    if (phase.load() != Phase::ended) lose_session(reason);  // first the reason: who wakes up asks for it
    static_cast<Log*>(self)->on_lost();
  };
  events.on_tick = [](void* self) { static_cast<Log*>(self)->on_tick(); };
  char error[1024] = "";
  s.link = s.api->open(&config, &events, &s.opened, error, sizeof error);
  release_ranges(ranges, s.opened.range_address, s.link ? s.opened.range_size : 0);
  if (!s.link) return error;
  s.devices = visible_devices(s.opened.device_count);
  if (s.opened.relayed) say(Level::warning, "the worker cannot be reached directly; data is relayed by the broker at %s", endpoint.c_str());
  return {};
}

void make_arenas(SessionState& s) {
  DeviceArenas::Server server;
  server.map = [](uint64_t address, uint64_t bytes) { post(wire::Opcode::map_memory, wire::MapMemory{address, bytes}); };
  server.unmap = [](uint64_t address, uint64_t bytes) { post(wire::Opcode::unmap_memory, wire::MapMemory{address, bytes}); };
  server.lease = [](size_t device, uint64_t bytes) -> uint64_t {
    Reply r = call(wire::Opcode::lease, wire::Lease{device, bytes});
    return r.status ? 0 : wire::Reader(r.payload).get<wire::LeaseReply>().granted;
  };
  std::vector<DeviceArenas::Visible> visible;
  for (size_t d : s.devices) visible.push_back({d, s.opened.devices[d].lease_bytes});
  s.arenas = new DeviceArenas({s.opened.range_address, s.opened.range_size, s.opened.device_count}, visible, server);
  s.virtual_memory = new VirtualMemory(*s.arenas);
}

// "djinn: 20,145 ops, …": the thousands are separated because people read them.
std::string thousands(uint64_t n) {
  std::string digits = std::to_string(n);
  for (int i = static_cast<int>(digits.size()) - 3; i > 0; i -= 3) digits.insert(static_cast<size_t>(i), ",");
  return digits;
}

void summarise(const SessionState& s) {
  const Counters& c = counters();
  if (!configuration().summary || !c.posted) return;
  fprintf(
      stderr,
      "djinn: %s ops, %s calls, %s messages, %.1f MB, %s round trips (%s stalls); computed by djinn-gpu-server (pid %u, worker %u) on host %s, %s\n",
      thousands(c.ops).c_str(), thousands(c.calls).c_str(), thousands(c.frames).c_str(), static_cast<double>(c.bytes) / 1e6,
      thousands(c.round_trips).c_str(), thousands(c.stalls).c_str(), s.opened.server_pid, s.opened.worker_pid, s.opened.server_host,
      s.device(0).name);
}

struct Name {
  std::mutex mutex;
  std::string text;
};
Name& name() {
  static Name* n = new Name;
  return *n;
}

void tell_name_locked() {
  auto& payload = scratch();
  wire::Writer(payload).put_string(name().text);
  post(static_cast<uint32_t>(wire::Opcode::meaning_name), 0, payload);
}

void tell_name() {
  std::lock_guard lock(name().mutex);
  if (!name().text.empty()) tell_name_locked();
}

void at_exit() {
  if (phase != Phase::open || getpid() != owner) return;
  SessionState& s = *state;
  {
    recorder::Entry entry("the end of the process");
    if (!s.log.lost()) s.log.wait_executed(s.log.last());  // what was posted is the program's work: errors in it are still said
  }
  recorder::finish(s.log.lost());
  summarise(s);
  phase = Phase::ended;
  s.api->close(s.link, kCloseMs);
}

void in_child() {
  if (phase != Phase::open) return;
  state->api->abandon_in_child(state->link);
  phase = Phase::forked;
  recorder::abandon_in_child();
}

// Empty, or why there is no device, and how loudly that is said.
std::string try_open(Level& how) {
  const Configuration& c = configuration();
  if (!c.error.empty()) return c.error;
  auto s = std::make_unique<SessionState>();
  if (auto e = load_link(*s); !e.empty()) return e;
  std::string why, endpoint = c.server.empty() ? find_local_server(why) : c.server;
  if (endpoint.empty()) return why;
  if (auto e = open_link(*s, endpoint, c.server.empty()); !e.empty()) return e;
  if (s->devices.empty()) {
    s->api->close(s->link, kCloseMs);
    s.release();        // the closed link may still know it
    how = Level::info;  // the program's own wish
    return "CUDA_VISIBLE_DEVICES names none of the server's";
  }
  s->log.start(s->api, s->link, s->opened.session, s->opened.incarnation, perf("idle_flush"));
  make_arenas(*s);
  state = s.release();  // for good: CUDA is called from exit handlers
  owner = getpid();
  phase.store(Phase::open, std::memory_order_release);
  pthread_atfork(nullptr, nullptr, in_child);
  atexit(at_exit);
  if (c.debug_fault) watch_faults();
  recorder::start();
  error_line::start();
  tell_name();
  return {};
}

}  // namespace

SessionState* session() { return phase.load(std::memory_order_acquire) == Phase::open ? state : nullptr; }

bool open_session() {
  Phase now = phase.load(std::memory_order_acquire);
  if (now == Phase::open) return true;
  if (now != Phase::closed || (configuration().visible && configuration().visible->empty())) return false;
  std::lock_guard lock(opening);
  if (phase != Phase::closed) return phase == Phase::open;
  Level how = Level::error;
  std::string why = try_open(how);
  if (why.empty()) return true;
  phase = Phase::refused;
  say(how, "no device: %s", why.c_str());
  return false;
}

void name_session(const char* text) {
  Phase now = phase.load(std::memory_order_acquire);
  if (now != Phase::closed && now != Phase::open) return;  // in a forked child another thread of the parent may have the lock
  std::lock_guard lock(name().mutex);
  name().text = text;
  if (session()) tell_name_locked();  // else tell_name() comes after `phase`, and finds it
}

cudaError_t session_error() {
  switch (phase.load()) {
    case Phase::forked: return cudaErrorInitializationError;
    case Phase::open: return !state->log.lost() ? cudaSuccess : sticky_error() ? sticky_error() : lost_error();
    case Phase::ended: return cudaErrorCudartUnloading;  // what CUDA says then, and what PyTorch's destructors expect
    case Phase::closed:
    case Phase::refused: return cudaErrorNoDevice;
  }
  return cudaErrorNoDevice;
}

bool op_level() {
  auto* s = session();
  return s && s->opened.level == 2;
}
bool checking() {
  auto* s = session();
  return s && s->opened.checks;
}

std::string own_folder() {
  Dl_info info{};
  dladdr(reinterpret_cast<void*>(&own_folder), &info);
  std::string path = info.dli_fname ? info.dli_fname : "";
  char real[4096];
  if (realpath(path.c_str(), real)) path = real;
  return path.substr(0, path.rfind('/'));
}

// ---- client.hpp ----

djinn_scope& scope() {
  static thread_local djinn_scope s __attribute__((tls_model("initial-exec"))) = {};
  return s;
}

Work begin_work(const char* name) {
  djinn_scope& s = scope();
  if (s.depth > 0) {
    if (s.id) return Work::scoped;
    ++s.dropped;
    count(counters().dropped);
    return Work::drop;
  }
  if (!open_session() || session()->log.lost()) return Work::refuse;
  count(counters().calls);
  if (work::watched()) work::name_work(name);
  return Work::run;
}

bool abort_scope(const char* name) {
  djinn_scope& s = scope();
  if (s.depth <= 0) return false;
  s.abort = 1;
  s.why = name;
  return true;
}

Ticket post(uint32_t opcode, uint16_t flags, std::span<const std::byte> payload, std::span<const djinn_part> bulk) {
  auto* s = session();
  if (s) return s->log.post(opcode, flags, payload, bulk);
  release(bulk);
  return 0;
}

Reply call(uint32_t opcode, uint16_t flags, std::span<const std::byte> payload, std::span<const djinn_part> bulk) {
  if (auto* s = session()) return s->log.call(opcode, flags, payload, bulk);
  post(opcode, flags, payload, bulk);  // releases the parts
  return {session_error(), {}, {}, "no session"};
}

std::vector<std::byte>& scratch() {
  static thread_local std::vector<std::byte>* buffer = nullptr;  // leaked per thread: CUDA is called from thread exit handlers
  if (!buffer) buffer = new std::vector<std::byte>;
  buffer->clear();
  return *buffer;
}

bool perf(const char* name) { return configuration().switches.on(name); }

void say(Level level, const char* format, ...) {
  if (static_cast<int>(level) > configuration().log_level) return;
  char line[2048];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  fprintf(stderr, "djinn: %s\n", line);
}

void say_absent(const char* function, const char* reason) {
  static std::mutex mutex;
  static auto* said = new std::vector<const char*>;
  {
    std::lock_guard lock(mutex);
    for (const char* s : *said)
      if (!strcmp(s, function)) return;
    said->push_back(function);
  }
  say(Level::warning, "%s%s is not supported: %s", function, error_line::place(scope().module, error_line::here()).c_str(), reason);
}

}  // namespace djinn

DJINN_EXPORT int djinn_client_counters(djinn::CountersBlock* out) {
  if (!out || out->size != sizeof *out) return 1;
  const djinn::Counters& c = djinn::counters();
  *out = {sizeof *out, c.ops,   c.cache_hits,  c.aborted, c.server_first,      c.calls,   c.posted,
          c.frames,    c.bytes, c.round_trips, c.stalls,  c.stall_nanoseconds, c.dropped, c.entry_launches};
  return 0;
}

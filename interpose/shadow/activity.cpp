// See activity.hpp.
#include "interpose/shadow/activity.hpp"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bitset>
#include <cstring>
#include <deque>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>

#include "interpose/batch/session.hpp"
#include "interpose/shadow/device.hpp"

namespace djinn::activity {

namespace {

using wire::Opcode;

// The runtime's calls that are traced; a launch stands for every op, library call and kernel.
struct Traced {
  std::string_view name;
  const char* cupti;
  uint32_t cbid;
};
constexpr Traced kTraced[] = {
    {"cudaMemcpy", "cudaMemcpy_v3020", CUPTI_RUNTIME_TRACE_CBID_cudaMemcpy_v3020},
    {"cudaMemcpyAsync", "cudaMemcpyAsync_v3020", CUPTI_RUNTIME_TRACE_CBID_cudaMemcpyAsync_v3020},
    {"cudaMemcpy2D", "cudaMemcpy2D_v3020", CUPTI_RUNTIME_TRACE_CBID_cudaMemcpy2D_v3020},
    {"cudaMemcpy2DAsync", "cudaMemcpy2DAsync_v3020", CUPTI_RUNTIME_TRACE_CBID_cudaMemcpy2DAsync_v3020},
    {"cudaMemcpyPeer", "cudaMemcpyPeer_v4000", CUPTI_RUNTIME_TRACE_CBID_cudaMemcpyPeer_v4000},
    {"cudaMemcpyPeerAsync", "cudaMemcpyPeerAsync_v4000", CUPTI_RUNTIME_TRACE_CBID_cudaMemcpyPeerAsync_v4000},
    {"cudaMemset", "cudaMemset_v3020", CUPTI_RUNTIME_TRACE_CBID_cudaMemset_v3020},
    {"cudaMemsetAsync", "cudaMemsetAsync_v3020", CUPTI_RUNTIME_TRACE_CBID_cudaMemsetAsync_v3020},
    {"cudaMemset2DAsync", "cudaMemset2DAsync_v3020", CUPTI_RUNTIME_TRACE_CBID_cudaMemset2DAsync_v3020},
    {"cudaLaunchKernel", "cudaLaunchKernel_v7000", CUPTI_RUNTIME_TRACE_CBID_cudaLaunchKernel_v7000},
    {"cudaGraphLaunch", "cudaGraphLaunch_v10000", CUPTI_RUNTIME_TRACE_CBID_cudaGraphLaunch_v10000},
    {"cudaStreamSynchronize", "cudaStreamSynchronize_v3020", CUPTI_RUNTIME_TRACE_CBID_cudaStreamSynchronize_v3020},
    {"cudaEventSynchronize", "cudaEventSynchronize_v3020", CUPTI_RUNTIME_TRACE_CBID_cudaEventSynchronize_v3020},
    {"cudaDeviceSynchronize", "cudaDeviceSynchronize_v3020", CUPTI_RUNTIME_TRACE_CBID_cudaDeviceSynchronize_v3020},
};
constexpr size_t kCbids = CUPTI_RUNTIME_TRACE_CBID_SIZE;

// Records that wait for their times or for a flush; beyond it they are counted as dropped. About 100 bytes each.
constexpr size_t kEntriesMax = 4 << 20;
constexpr uint32_t kStream = 7;

using work::What;

struct Work : work::Work {
  Ticket ticket = 0;
  bool pinned = false;
  uint8_t device = 0;
  uint64_t posted = 0;          // the profiler's clock
  uint64_t begin = 0, end = 0;  // the server's; end 0 = not yet
};
struct Entry {
  uint32_t correlation, thread, cbid;  // cbid 0: calls are not recorded
  uint64_t begin, end;
  uint64_t external[CUPTI_EXTERNAL_CORRELATION_KIND_SIZE];
  uint32_t externals = 0;  // a bit for each that is given
  bool open = false;       // the call has not returned
  std::vector<Work> work;
  bool complete() const {
    return !open && std::all_of(work.begin(), work.end(), [](const Work& w) { return w.end; });
  }
};

struct Moment {
  uint64_t profiler = 0, monotonic = 0;
};

struct State {
  std::mutex mutex;
  std::deque<Entry> entries;
  uint64_t first = 0;                            // number of the first entry
  std::unordered_map<Ticket, uint64_t> waiting;  // ticket → number of its entry
  std::bitset<CUPTI_ACTIVITY_KIND_COUNT> kinds;
  std::bitset<kCbids> silent;
  CUpti_BuffersCallbackRequestFunc request = nullptr;
  CUpti_BuffersCallbackCompleteFunc complete = nullptr;
  Moment started;
  int64_t server_ahead = 0;  // nanoseconds
  size_t dropped = 0;
  uint32_t correlation = 0;
  // the buffer that the next records go to: a profiler that has given none is told nothing
  uint8_t* buffer = nullptr;
  size_t size = 0, records_max = 0, filled = 0, records = 0;

  bool wants(CUpti_ActivityKind k) const { return kinds[static_cast<size_t>(k)]; }
};
State& state() {
  static State* s = new State;
  return *s;
}

std::atomic<CUpti_TimestampCallbackFunc> clock_function{nullptr};

struct Thread {
  uint32_t id = static_cast<uint32_t>(gettid());
  std::array<std::vector<uint64_t>, CUPTI_EXTERNAL_CORRELATION_KIND_SIZE> external;
  std::optional<uint64_t> call;  // number of the entry of the call at hand
  bool pinned = false;
};
Thread& thread() {
  static thread_local Thread t;
  return t;
}

// ---- noting, under the mutex ----

Entry* add_entry(State& s, uint32_t cbid) {
  if (s.entries.size() >= kEntriesMax) return ++s.dropped, nullptr;
  Entry& e = s.entries.emplace_back();
  const Thread& t = thread();
  e.correlation = ++s.correlation;
  e.thread = t.id;
  e.cbid = s.wants(CUPTI_ACTIVITY_KIND_RUNTIME) && !s.silent[cbid] ? cbid : 0;
  e.begin = e.end = now();
  for (size_t k = 0; s.wants(CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION) && k < t.external.size(); k++)
    if (!t.external[k].empty()) {
      e.external[k] = t.external[k].back();
      e.externals |= 1u << k;
    }
  return &e;
}

Entry* entry(State& s, uint64_t number) { return number < s.first || number - s.first >= s.entries.size() ? nullptr : &s.entries[number - s.first]; }

int device_at(uint64_t address) { return std::max(0, session()->arenas->device_of(address)); }

// What a command gives the device to do. False: nothing, or nothing that is recorded.
bool describe(State& s, uint32_t opcode, std::span<const std::byte> payload, Work& w) {
  if (!work::describe(opcode, payload, w)) return false;
  w.device = static_cast<uint8_t>(w.what == What::kernel ? current_device() : device_at(w.address));
  switch (w.what) {
    case What::kernel: return s.wants(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) || s.wants(CUPTI_ACTIVITY_KIND_KERNEL);
    case What::fill: return s.wants(CUPTI_ACTIVITY_KIND_MEMSET);
    case What::upload:
    case What::download:
    case What::copy: return s.wants(CUPTI_ACTIVITY_KIND_MEMCPY);
  }
  return false;
}

// ---- handing over, under the mutex ----

void request_buffer(State& s) {
  s.filled = s.records = 0;
  s.buffer = nullptr;
  if (s.request) s.request(&s.buffer, &s.size, &s.records_max);
}

void complete_buffer(State& s) {
  if (s.buffer && s.complete) s.complete(nullptr, 0, s.buffer, s.size, s.filled);
  s.buffer = nullptr;
}

// An entry's records, side by side: a profiler looks in one buffer for what belongs together.
struct Records {
  std::vector<std::byte> bytes;
  size_t count = 0;
  template <class Record>
  void add(const Record& r) {
    static_assert(sizeof r % 8 == 0);
    auto p = reinterpret_cast<const std::byte*>(&r);
    bytes.insert(bytes.end(), p, p + sizeof r);
    ++count;
  }
};

void put(State& s, const Records& r) {
  bool full = s.buffer && (s.size - s.filled < r.bytes.size() || (s.records_max && s.records_max - s.records < r.count));
  if (full) complete_buffer(s), request_buffer(s);
  if (!s.buffer || s.size < r.bytes.size()) {
    s.dropped += r.count;
    return;
  }
  std::memcpy(s.buffer + s.filled, r.bytes.data(), r.bytes.size());
  s.filled += r.bytes.size();
  s.records += r.count;
}

// The server's time on the profiler's clock, which runs evenly between two moments.
struct ToProfiler {
  Moment a, b;
  int64_t ahead;
  uint64_t operator()(uint64_t server) const {
    double rate = b.monotonic > a.monotonic ? static_cast<double>(b.profiler - a.profiler) / static_cast<double>(b.monotonic - a.monotonic) : 1;
    int64_t since = static_cast<int64_t>(server) - ahead - static_cast<int64_t>(a.monotonic);
    return a.profiler + static_cast<uint64_t>(static_cast<int64_t>(rate * static_cast<double>(since)));
  }
};

template <class Record>
Record record_of(const Work& w, uint32_t correlation, const ToProfiler& time, CUpti_ActivityKind kind) {
  Record r;
  std::memset(&r, 0, sizeof r);
  r.kind = kind;
  r.start = std::max(time(w.begin), w.posted + 1);
  r.end = std::max(r.start, time(w.end));
  r.deviceId = w.device;
  r.contextId = w.device + 1u;
  r.streamId = kStream;
  r.correlationId = correlation;
  return r;
}

void add_work(Records& out, const Work& w, uint32_t correlation, const ToProfiler& time) {
  if (w.what == What::kernel) {
    auto r = record_of<CUpti_ActivityKernel10>(w, correlation, time, CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
    r.name = w.name;
    r.gridX = r.gridY = r.gridZ = r.blockX = r.blockY = r.blockZ = 1;  // an op has no grid
    return out.add(r);
  }
  if (w.what == What::fill) {
    auto r = record_of<CUpti_ActivityMemset4>(w, correlation, time, CUPTI_ACTIVITY_KIND_MEMSET);
    r.bytes = w.bytes;
    r.value = w.value;
    r.memoryKind = CUPTI_ACTIVITY_MEMORY_KIND_DEVICE;
    return out.add(r);
  }
  auto r = record_of<CUpti_ActivityMemcpy6>(w, correlation, time, CUPTI_ACTIVITY_KIND_MEMCPY);
  uint8_t host = w.pinned ? CUPTI_ACTIVITY_MEMORY_KIND_PINNED : CUPTI_ACTIVITY_MEMORY_KIND_PAGEABLE, device = CUPTI_ACTIVITY_MEMORY_KIND_DEVICE;
  r.bytes = w.bytes;
  r.copyCount = 1;
  r.copyKind = w.what == What::upload     ? CUPTI_ACTIVITY_MEMCPY_KIND_HTOD
               : w.what == What::download ? CUPTI_ACTIVITY_MEMCPY_KIND_DTOH
                                          : CUPTI_ACTIVITY_MEMCPY_KIND_DTOD;
  r.srcKind = w.what == What::upload ? host : device;
  r.dstKind = w.what == What::download ? host : device;
  out.add(r);
}

void hand_over(State& s, const Entry& e, const ToProfiler& time) {
  Records out;
  for (uint32_t k = 0; k < CUPTI_EXTERNAL_CORRELATION_KIND_SIZE; k++)
    if (e.externals >> k & 1)
      out.add(CUpti_ActivityExternalCorrelation{CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION, static_cast<CUpti_ExternalCorrelationKind>(k),
                                                e.external[k], e.correlation, 0});
  if (e.cbid)
    out.add(CUpti_ActivityAPI{CUPTI_ACTIVITY_KIND_RUNTIME, e.cbid, e.begin, e.end, static_cast<uint32_t>(getpid()), e.thread, e.correlation, 0});
  for (const Work& w : e.work)
    if (w.end) add_work(out, w, e.correlation, time);
    else ++s.dropped;
  put(s, out);
}

Moment moment() {
  Moment m;
  m.profiler = now();
  m.monotonic = work::monotonic();
  return m;
}

}  // namespace

uint64_t now() {
  if (auto f = clock_function.load(std::memory_order_relaxed)) return f();
  timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000000000u + static_cast<uint64_t>(t.tv_nsec);
}

void Call::begin(const char* name, bool host_pinned) {
  entry_.emplace(name);
  if (!profiling()) return;
  Thread& t = thread();
  if (t.call) return;  // one call inside another is the outer's business
  auto traced = std::find_if(std::begin(kTraced), std::end(kTraced), [&](const Traced& x) { return x.name == name; });
  if (traced == std::end(kTraced)) return;
  State& s = state();
  std::lock_guard lock(s.mutex);
  Entry* e = add_entry(s, traced->cbid);
  if (!e) return;
  e->open = mine_ = true;
  t.pinned = host_pinned;
  t.call = s.first + s.entries.size() - 1;
}

void Call::end() {
  State& s = state();
  std::lock_guard lock(s.mutex);
  if (Entry* e = entry(s, *thread().call)) e->open = false, e->end = now();
  thread().call.reset();
}

void posted(uint32_t opcode, Ticket ticket, std::span<const std::byte> payload) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  Work w;
  w.ticket = ticket;
  if (!describe(s, opcode, payload, w)) return;
  Thread& t = thread();
  w.posted = now();
  w.pinned = t.pinned;
  Entry* e = t.call ? entry(s, *t.call) : nullptr;
  uint64_t number = t.call.value_or(0);
  if (!e) {
    e = add_entry(s, CUPTI_RUNTIME_TRACE_CBID_cudaLaunchKernel_v7000);
    number = s.first + s.entries.size() - 1;
  }
  if (!e) return;
  e->work.push_back(w);
  s.waiting[ticket] = number;
}

void timed(std::span<const wire::Timing> timings) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  for (const wire::Timing& t : timings) {
    auto i = s.waiting.find(t.ticket);
    if (i == s.waiting.end()) continue;
    if (Entry* e = entry(s, i->second))
      for (Work& w : e->work)
        if (w.ticket == t.ticket) w.begin = t.begin, w.end = std::max<uint64_t>(t.end, 1);
    s.waiting.erase(i);
  }
}

// ---- the profiler's side ----

void set_buffers(CUpti_BuffersCallbackRequestFunc request, CUpti_BuffersCallbackCompleteFunc complete) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  s.request = request;
  s.complete = complete;
  if (profiling() && !s.buffer) request_buffer(s);
}

void set_clock(CUpti_TimestampCallbackFunc f) { clock_function = f; }

// The kinds that are recorded, and two of which there is nothing to tell: a driver call that is traced, and the profiler's own overhead.
static bool known(CUpti_ActivityKind kind) {
  switch (kind) {
    case CUPTI_ACTIVITY_KIND_MEMCPY:
    case CUPTI_ACTIVITY_KIND_MEMSET:
    case CUPTI_ACTIVITY_KIND_KERNEL:
    case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL:
    case CUPTI_ACTIVITY_KIND_RUNTIME:
    case CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION:
    case CUPTI_ACTIVITY_KIND_DRIVER:
    case CUPTI_ACTIVITY_KIND_OVERHEAD: return true;
    default: return false;
  }
}

CUptiResult enable(CUpti_ActivityKind kind, bool on) {
  if (!known(kind)) return CUPTI_ERROR_NOT_COMPATIBLE;
  static std::mutex changing;  // never held while a command is noted
  std::lock_guard one(changing);
  if (on && need_context()) return CUPTI_ERROR_NOT_INITIALIZED;
  State& s = state();
  bool any;
  {
    std::lock_guard lock(s.mutex);
    s.kinds[static_cast<size_t>(kind)] = on;
    any = s.kinds.any();
    if (any && !s.buffer) request_buffer(s);
  }
  if (any == profiling()) return CUPTI_SUCCESS;
  work::ServerClock clock;
  if (!session() || !work::ask_times(work::kProfiler, any, clock)) return CUPTI_ERROR_UNKNOWN;
  if (!any) return CUPTI_SUCCESS;
  std::lock_guard lock(s.mutex);
  s.server_ahead = clock.ahead;
  s.started = moment();
  work::watch(work::kProfiler);
  return CUPTI_SUCCESS;
}

CUptiResult enable_call(uint32_t cbid, bool on) {
  if (cbid >= kCbids) return CUPTI_ERROR_INVALID_PARAMETER;
  State& s = state();
  std::lock_guard lock(s.mutex);
  s.silent[cbid] = !on;
  return CUPTI_SUCCESS;
}

CUptiResult flush(bool all) {
  if (all && session()) session()->log.wait_executed(session()->log.last());
  State& s = state();
  std::lock_guard lock(s.mutex);
  ToProfiler time{s.started, moment(), s.server_ahead};
  while (!s.entries.empty() && (all || s.entries.front().complete())) {
    hand_over(s, s.entries.front(), time);
    s.entries.pop_front();
    ++s.first;
  }
  if (all) s.waiting.clear();
  complete_buffer(s);
  if (profiling()) request_buffer(s);
  return CUPTI_SUCCESS;
}

size_t take_dropped() {
  State& s = state();
  std::lock_guard lock(s.mutex);
  return std::exchange(s.dropped, 0);
}

void push_external(CUpti_ExternalCorrelationKind kind, uint64_t id) { thread().external[static_cast<size_t>(kind)].push_back(id); }

bool pop_external(CUpti_ExternalCorrelationKind kind, uint64_t* id) {
  auto& stack = thread().external[static_cast<size_t>(kind)];
  if (stack.empty()) return false;
  if (id) *id = stack.back();
  stack.pop_back();
  return true;
}

const char* name_of_call(uint32_t cbid) {
  for (const Traced& t : kTraced)
    if (t.cbid == cbid) return t.cupti;
  return nullptr;
}

}  // namespace djinn::activity

// The public classes (coordinator.hpp) and the pool of sessions behind them.
#include "hooks/coordinator/coordinator.hpp"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "hooks/coordinator/pool.hpp"

namespace djinn {

using coordinator::Pool;

size_t item_bytes(DType t) {
  switch (t) {
    case DType::uint8:
    case DType::int8:
    case DType::boolean:
    case DType::float8_e5m2:
    case DType::float8_e4m3fn:
    case DType::float8_e5m2fnuz:
    case DType::float8_e4m3fnuz: return 1;
    case DType::int16:
    case DType::uint16:
    case DType::float16:
    case DType::bfloat16: return 2;
    case DType::int32:
    case DType::uint32:
    case DType::float32:
    case DType::complex32: return 4;
    case DType::int64:
    case DType::uint64:
    case DType::float64:
    case DType::complex64: return 8;
    case DType::complex128: return 16;
  }
  return 0;
}

const std::vector<int64_t>& RemoteTensor::sizes() const { return remote_->sizes; }
DType RemoteTensor::dtype() const { return remote_->dtype; }
bool RemoteTensor::conjugate() const { return remote_->flags & wire::op::kConjugate; }
bool RemoteTensor::negative() const { return remote_->flags & wire::op::kNegative; }
const std::string& RemoteTensor::target() const { return remote_->session->target(); }
uint64_t RemoteTensor::version() const { return remote_->version; }
uint64_t RemoteTensor::elements() const {
  uint64_t n = 0;
  coordinator::count_elements(remote_->sizes, n);
  return n;
}
void RemoteTensor::fetch(void* to) const { remote_->session->fetch(*remote_, to); }
std::vector<std::byte> RemoteTensor::fetch() const {
  uint64_t size;  // make() has refused a tensor whose size overflows
  if (!coordinator::packed_bytes(sizes(), item_bytes(dtype()), size)) throw std::length_error("a tensor whose size overflows");
  std::vector<std::byte> bytes(size);
  fetch(bytes.data());
  return bytes;
}

Coordinator::Coordinator(CoordinatorConfiguration configuration) : pool_(std::make_unique<Pool>(std::move(configuration))) {}
Coordinator::~Coordinator() {
  if (pool_ && pool_->foreign()) static_cast<void>(pool_.release());  // a forked child's copy: what its end would wait for is the parent's
}
void Coordinator::connect(const std::string& target) { pool_->session({}, target); }
Values Coordinator::call(const std::string& op, const Values& arguments, const std::string& target, const Keywords& keywords) {
  return pool_->session(op, target)->call(op, arguments, keywords);
}
CoordinatorStatistics Coordinator::statistics(const std::string& target) const { return pool_->statistics(target); }
void Coordinator::close() { pool_->close(); }

namespace coordinator {

namespace {

// Idle sessions are looked for this often, or twice in the time that makes them idle.
constexpr auto kSweepMax = std::chrono::seconds(5);
// Sessions of one coordinator; each has a thread.
constexpr size_t kTargetsMax = 256;

// libdjinn_link.so beside this library. RTLD_LOCAL: its libzmq stays out of the program's global scope.
const djinn_link_api* load_link(const std::string& given, std::string& why) {
  std::string path = given;
  if (path.empty()) {
    Dl_info info{};
    dladdr(reinterpret_cast<void*>(&load_link), &info);
    std::string own = info.dli_fname ? info.dli_fname : "";
    path = own.substr(0, own.rfind('/') + 1) + "libdjinn_link.so";
  }
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return why = std::string("cannot load the link library: ") + dlerror(), nullptr;
  auto get = reinterpret_cast<djinn_link_get_fn>(dlsym(library, "djinn_link_get"));
  auto* api = get ? get(DJINN_LINK_VERSION) : nullptr;
  if (!api) why = path + " is of another version";
  return api;
}

std::string endpoint(const std::string& target) { return target.find("://") == std::string::npos ? "tcp://" + target : target; }

CoordinatorStatistics sum(CoordinatorStatistics a, const CoordinatorStatistics& b) {
  for (auto field : {&CoordinatorStatistics::sessions_opened, &CoordinatorStatistics::operations, &CoordinatorStatistics::round_trips,
                     &CoordinatorStatistics::messages_sent, &CoordinatorStatistics::bytes_sent, &CoordinatorStatistics::messages_received,
                     &CoordinatorStatistics::bytes_received, &CoordinatorStatistics::inputs_sent, &CoordinatorStatistics::input_bytes_sent,
                     &CoordinatorStatistics::inputs_reused, &CoordinatorStatistics::results_fetched, &CoordinatorStatistics::result_bytes_fetched})
    a.*field += b.*field;
  a.connected = b.connected;
  return a;
}

}  // namespace

Pool::Pool(CoordinatorConfiguration configuration) : configuration_(std::move(configuration)), owner_(getpid()), sweeper_([this] { sweep(); }) {}

bool Pool::foreign() const { return owner_ != getpid(); }

// `attempts`: how many opens were over at that moment.
std::shared_ptr<Pool::Place> Pool::place(const std::string& op, const std::string& target, uint64_t& attempts) {
  if (foreign()) throw UnreachableError(op, target, "this process was forked from the one that made the coordinator");
  std::lock_guard lock(mutex_);
  if (closed_) throw UnreachableError(op, target, "the coordinator is closed");
  std::string why;
  if (!api_ && !(api_ = load_link(configuration_.link_library, why))) throw UnreachableError(op, target, why);
  auto found = places_.find(target);
  if (found == places_.end()) {
    // those without a session make room, and what they counted is forgotten
    if (places_.size() >= kTargetsMax) std::erase_if(places_, [](auto& p) { return !p.second->session && p.second.use_count() == 1; });
    if (places_.size() >= kTargetsMax) throw UnreachableError(op, target, "this coordinator has " + std::to_string(kTargetsMax) + " targets already");
    found = places_.emplace(target, std::make_shared<Place>()).first;
  }
  attempts = found->second->attempts;
  return found->second;
}

// The session leaves its place; what it counted stays. The caller closes it, without the lock.
std::shared_ptr<Session> Pool::take(Place& p) {
  auto s = std::exchange(p.session, nullptr);
  p.past = sum(p.past, s->statistics());
  p.past.connected = false;
  return s;
}

std::shared_ptr<Session> Pool::session(const std::string& op, const std::string& given) {
  std::string target = endpoint(given);
  uint64_t seen;
  auto p = place(op, target, seen);
  std::lock_guard opening(p->opening);
  std::shared_ptr<Session> gone;
  {
    std::lock_guard lock(mutex_);
    if (p->session && !p->session->lost()) return p->session->touch(), p->session;
    if (p->attempts != seen && !p->why.empty()) throw UnreachableError(op, target, p->why);
    if (p->session) gone = take(*p);
  }
  if (gone) gone->close({});  // it has a reason already
  return open(op, target, *p);
}

std::shared_ptr<Session> Pool::open(const std::string& op, const std::string& target, Place& p) {
  auto fresh = std::make_shared<Session>(api_, configuration_, target);
  std::string why = fresh->open();
  std::unique_lock lock(mutex_);
  ++p.attempts;
  p.why = why;
  if (!why.empty()) throw UnreachableError(op, target, why);
  ++p.past.sessions_opened;
  if (!closed_) return p.session = fresh;
  lock.unlock();
  fresh->close("the coordinator was closed");
  throw UnreachableError(op, target, "the coordinator is closed");
}

CoordinatorStatistics Pool::statistics(const std::string& target) const {
  if (foreign()) return {};
  std::lock_guard lock(mutex_);
  auto found = places_.find(endpoint(target));
  if (found == places_.end()) return {};
  const Place& p = *found->second;
  return p.session ? sum(p.past, p.session->statistics()) : p.past;
}

void Pool::sweep() {
  const auto pause = std::min<std::chrono::milliseconds>(kSweepMax, configuration_.idle / 2 + std::chrono::milliseconds(1));
  std::unique_lock lock(mutex_);
  while (!closing_.wait_for(lock, pause, [this] { return closed_; })) {
    std::vector<std::shared_ptr<Session>> idle;
    for (auto& [target, p] : places_)
      if (p->session && p->session->idle()) idle.push_back(take(*p));
    lock.unlock();
    for (auto& s : idle) s->close("it was idle");
    idle.clear();
    lock.lock();
  }
}

void Pool::close() {
  if (foreign()) return;
  std::vector<std::shared_ptr<Session>> open;
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    closing_.notify_all();
    for (auto& [target, p] : places_)
      if (p->session) open.push_back(take(*p));
  }
  for (auto& s : open) s->close("the coordinator was closed");
  if (sweeper_.joinable()) sweeper_.join();
}

}  // namespace coordinator

}  // namespace djinn

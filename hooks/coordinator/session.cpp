// See session.hpp. Where tensors lie is decided here and posted; only a call, a fetch and a larger lease wait for the server.
#include "hooks/coordinator/session.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <random>

#include "hooks/coordinator/encode.hpp"
#include "semantic/wire/control.hpp"
#include "semantic/wire/devices.hpp"
#include "semantic/wire/limits.hpp"

namespace djinn::coordinator {

using wire::Opcode;

namespace {

constexpr uint64_t kGiB = 1ull << 30;
// The addresses that are offered, as interpose/batch/session does; but nothing here is ever touched, so nothing is reserved in this process: the
// worker alone must find one of them free.
constexpr uint64_t kRangeBytes = 256 * kGiB;
constexpr uint64_t kRangeBases[] = {0x200000000000, 0x300000000000, 0x180000000000, 0x500000000000};
constexpr unsigned kHeartbeatMs = 1000, kSilenceMs = 30000, kCloseMs = 1000;
// A large input leaves in such pieces: one is on its way while the next is copied.
constexpr size_t kPieceBytes = 4u << 20;
static_assert(kPieceBytes <= wire::kBulkBytesMax);
// Inputs that are kept because equal ones may come again, however small.
constexpr size_t kInputsMax = 4096;

constexpr const char* kForked = "this process was forked from the one that opened the session";

Seed random_seed() {
  std::random_device random;
  Seed seed;
  for (uint64_t& word : seed) word = uint64_t{random()} << 32 | random();
  return seed;
}

std::string lease_words(uint64_t bytes) { return "the server has no memory for a tensor of " + std::to_string(bytes) + " bytes"; }

}  // namespace

Remote::~Remote() {
  if (held) --session->held_;
  session->forget(*this);
}

Session::Session(const djinn_link_api* api, const CoordinatorConfiguration& configuration, std::string target)
    : api_(api),
      configuration_(configuration),
      target_(std::move(target)),
      owner_(getpid()),
      log_(configuration.call_patience),
      seed_(random_seed()) {}

Session::~Session() { close("it was closed"); }

std::string Session::open() {
  std::vector<uint64_t> offers;
  for (uint64_t base : kRangeBases) offers.insert(offers.end(), {base, kRangeBytes});
  djinn_link_config c{};
  c.endpoint = target_.c_str();
  c.program = configuration_.node_id.c_str();
  c.torch = wire::control::kAnyTorch;
  c.level = static_cast<int>(wire::control::Level::op);
  c.ranges = offers.data();
  c.range_count = offers.size() / 2;
  c.open_timeout_ms = static_cast<unsigned>(configuration_.open_patience.count());
  c.heartbeat_ms = kHeartbeatMs;
  c.lost_ms = kSilenceMs;
  c.emulate = configuration_.emulate.empty() ? nullptr : configuration_.emulate.c_str();
  djinn_link_events events{};
  events.self = &log_;
  events.on_frame = [](void* self, const void* frame, size_t size, const djinn_part* bulk, size_t count) {
    static_cast<Log*>(self)->on_frame({static_cast<const std::byte*>(frame), size}, {bulk, count});
  };
  events.on_lost = [](void* self, const char* reason) { static_cast<Log*>(self)->lose(reason); };
  events.on_tick = [](void* self) { static_cast<Log*>(self)->on_tick(); };
  djinn_link_opened opened{};
  char error[1024] = "";
  link_ = api_->open(&c, &events, &opened, error, sizeof error);
  if (!link_) return error;
  log_.start(api_, link_, opened);
  DeviceArena::Server server;
  server.map = [this](uint64_t address, uint64_t bytes) { post(Opcode::map_memory, wire::MapMemory{address, bytes}); };
  server.unmap = [this](uint64_t address, uint64_t bytes) { post(Opcode::unmap_memory, wire::MapMemory{address, bytes}); };
  server.lease = [this](uint64_t bytes) -> uint64_t {
    wire::Lease wanted{0, bytes};
    auto reply = log_.call(Opcode::lease, std::as_bytes(std::span(&wanted, 1)));
    return reply.lost || reply.status ? 0 : wire::Reader(reply.payload).get<wire::LeaseReply>().granted;
  };
  wire::DeviceRanges ranges(opened.range_address, opened.range_size, opened.device_count);
  arena_ = std::make_unique<DeviceArena>(ranges.begin(0), ranges.bytes_each(), opened.devices[0].lease_bytes, server);
  return {};
}

bool Session::foreign() const { return owner_ != getpid(); }

// In a forked child there is nothing to close, and a mutex may be held for ever by a thread that exists in the parent only.
void Session::close(const std::string& why) {
  if (foreign()) return;
  {
    std::lock_guard lock(mutex_);
    if (std::exchange(closed_, true)) return;
  }
  log_.lose(why);
  if (link_) api_->close(link_, kCloseMs);
  forget_inputs();  // they hold this session
}

void Session::touch() {
  std::lock_guard lock(mutex_);
  used_ = Clock::now();
}

bool Session::idle() const {
  if (held_ || busy_) return false;
  std::lock_guard lock(mutex_);
  return Clock::now() - used_ > configuration_.idle;
}

CoordinatorStatistics Session::statistics() const {
  CoordinatorStatistics s;
  s.operations = operations_;
  s.round_trips = log_.round_trips();
  s.inputs_sent = inputs_sent_, s.input_bytes_sent = input_bytes_sent_, s.inputs_reused = inputs_reused_;
  s.results_fetched = fetched_, s.result_bytes_fetched = bytes_fetched_;
  s.connected = !lost();
  if (!link_) return s;
  djinn_link_stats link{};
  api_->stats(link_, &link);
  s.messages_sent = link.messages_sent, s.bytes_sent = link.bytes_sent;
  s.messages_received = link.messages_received, s.bytes_received = link.bytes_received;
  return s;
}

// ---- tensors ----

RemotePointer Session::make(DType dtype, uint16_t flags, std::vector<int64_t> sizes, std::vector<int64_t> strides) {
  auto r = std::make_shared<Remote>();
  r->session = shared_from_this();
  r->dtype = dtype, r->flags = flags;
  r->sizes = std::move(sizes), r->strides = std::move(strides);
  if (!span_bytes(r->sizes, r->strides, item_bytes(dtype), r->bytes)) throw std::invalid_argument("a tensor whose extent overflows");
  std::optional<uint64_t> address = r->bytes ? allocate(r->bytes) : 0;
  if (!address) throw std::length_error(lease_words(r->bytes));
  r->address = *address;
  std::lock_guard lock(ids_mutex_);
  if (free_ids_.empty() && next_id_ >= wire::kTensorIdsMax) throw std::length_error("too many tensors are alive in this session");
  if (free_ids_.empty()) {
    r->id = next_id_++;
  } else {
    r->id = free_ids_.back();
    free_ids_.pop_back();
  }
  return r;
}

// What is kept only because it may come again makes room for what is wanted now.
std::optional<uint64_t> Session::allocate(uint64_t bytes) {
  auto address = arena_->allocate(bytes);
  return address || !forget_inputs() ? address : arena_->allocate(bytes);
}

// False when there were none. Those that a call uses live until it is over.
bool Session::forget_inputs() {
  std::map<InputKey, Input> inputs;  // given back when the lock is free
  std::lock_guard lock(inputs_mutex_);
  inputs.swap(inputs_);
  input_bytes_ = 0;
  return !inputs.empty();
}

void Session::define(const Remote& r) {
  std::vector<std::byte> payload;
  wire::Writer w(payload);
  w.put(wire::op::TensorDefine{r.id, static_cast<uint8_t>(r.sizes.size()), static_cast<uint8_t>(r.dtype), r.flags, r.address, r.bytes, 0});
  for (int64_t n : r.sizes) w.put(n);
  for (int64_t n : r.strides) w.put(n);
  log_.post(Opcode::tensor_define, payload);
}

// The last handle is gone. In ticket order, so whatever uses the place next comes later.
void Session::forget(const Remote& r) {
  if (foreign()) return;
  if (r.id != Remote::kNone) {
    std::vector<std::byte> payload;
    wire::Writer(payload).put_array(std::span<const uint32_t>(&r.id, 1));
    log_.post(Opcode::tensor_forget, payload);
    std::lock_guard lock(ids_mutex_);
    free_ids_.push_back(r.id);
  }
  if (r.address) arena_->release(r.address);
}

void Session::upload(const Remote& r, std::span<const std::byte> bytes) {
  ++inputs_sent_;
  input_bytes_sent_ += bytes.size();
  if (bytes.size() <= wire::kInlineBytesMax) {
    std::vector<std::byte> payload;
    wire::Writer w(payload);
    w.put(wire::Upload{0, r.address, bytes.size(), bytes.size(), 1});
    w.put_bytes(bytes.data(), bytes.size());
    return log_.post(Opcode::upload, payload);
  }
  for (size_t at = 0; at < bytes.size(); at += kPieceBytes) {
    size_t n = std::min(kPieceBytes, bytes.size() - at);
    // a copy: the caller's memory is the caller's again when the call returns, and it may return early
    void* copy = std::malloc(n);
    if (!copy) throw std::bad_alloc();
    std::memcpy(copy, bytes.data() + at, n);
    djinn_part part{copy, n, [](void* p, void*) { std::free(p); }, nullptr};
    wire::Upload u{0, r.address + at, n, n, 1};
    log_.post(Opcode::upload, std::as_bytes(std::span(&u, 1)), &part);
  }
}

void Session::keep_input(InputKey key, const RemotePointer& r) {
  if (r->bytes > configuration_.cached_input_bytes) return;
  std::vector<RemotePointer> gone;  // given back when the lock is free
  std::lock_guard lock(inputs_mutex_);
  if (lost() || inputs_.count(key)) return;  // nobody would take it out again; another thread was faster
  input_bytes_ += r->bytes;
  while (!inputs_.empty() && (input_bytes_ > configuration_.cached_input_bytes || inputs_.size() >= kInputsMax)) {
    auto oldest = std::min_element(inputs_.begin(), inputs_.end(), [](auto& a, auto& b) { return a.second.used < b.second.used; });
    input_bytes_ -= oldest->second.remote->bytes;
    gone.push_back(std::move(oldest->second.remote));
    inputs_.erase(oldest);
  }
  inputs_.insert_or_assign(std::move(key), Input{r, calls_});
}

// Equal numbers are sent once. Nobody can say whether the caller's memory has changed since, so the numbers themselves are looked at, which is
// several times as fast as sending them.
RemotePointer Session::input(const HostTensor& host, bool may_be_shared) {
  size_t item = item_bytes(host.dtype);
  if (!item) throw std::invalid_argument("a dtype that cannot travel (" + std::to_string(static_cast<int>(host.dtype)) + ")");
  if (host.sizes.size() > wire::kRankMax) throw std::invalid_argument("a tensor of more than " + std::to_string(wire::kRankMax) + " dimensions");
  auto strides = host.strides.empty() ? contiguous_strides(host.sizes) : host.strides;
  uint64_t size, extent;
  if (strides.size() != host.sizes.size() || !packed_bytes(host.sizes, item, size))
    throw std::invalid_argument("a tensor whose shape makes no sense");
  if (size > kRangeBytes) throw std::length_error(lease_words(size));
  if (size && !host.data) throw std::invalid_argument("a tensor without memory");
  for (size_t i = 0; i < strides.size(); i++)
    if (host.sizes[i] == 1) strides[i] = std::max<int64_t>(strides[i], 0);  // nobody steps there, whatever a flipped view says
  std::vector<std::byte> packed;
  std::span<const std::byte> bytes(static_cast<const std::byte*>(host.data), size);
  if (!is_dense(host.sizes, strides)) {
    packed.resize(size);
    pack(packed.data(), static_cast<const std::byte*>(host.data), host.sizes, strides, item);
    bytes = packed;
    strides = contiguous_strides(host.sizes);
  }
  if (!span_bytes(host.sizes, strides, item, extent)) throw std::invalid_argument("a tensor whose extent overflows");
  may_be_shared = may_be_shared && configuration_.cached_input_bytes;
  InputKey key(may_be_shared ? fingerprint(bytes, seed_) : Fingerprint{}, host.dtype, host.sizes, strides);
  if (may_be_shared) {
    std::lock_guard lock(inputs_mutex_);
    if (auto known = inputs_.find(key); known != inputs_.end()) {
      known->second.used = calls_;
      ++inputs_reused_;
      return known->second.remote;
    }
  }
  RemotePointer r = make(host.dtype, 0, host.sizes, strides);
  if (!bytes.empty()) upload(*r, bytes);
  define(*r);
  if (may_be_shared) keep_input(std::move(key), r);
  return r;
}

RemotePointer Session::own(const RemoteTensor& tensor) const {
  const RemotePointer& r = tensor.remote();
  if (r->session->foreign()) throw DeadHandleError({}, r->session->target(), kForked);
  if (r->session->lost()) throw DeadHandleError({}, r->session->target(), "the handle is dead: " + r->session->log_.reason());
  if (r->session.get() == this) return r;
  throw DeadHandleError({}, target_, "the handle is of another target (" + r->session->target() + "); fetch it to use it here");
}

// A result that waits in a stash gets a place and a handle.
RemotePointer Session::result(uint64_t stash, uint32_t index, DType dtype, uint16_t flags, std::vector<int64_t> sizes, std::vector<int64_t> strides) {
  RemotePointer r = make(dtype, flags, std::move(sizes), std::move(strides));
  if (r->bytes) post(Opcode::op_take, wire::op::OpTake{stash, index, r->address, r->bytes});
  define(*r);
  return r;
}

RemoteTensor Session::handle(const RemotePointer& r) {
  if (!r->held.exchange(true)) ++held_;
  return RemoteTensor(r);
}

// ---- what waits ----

namespace {

// A session in which something is under way is not idle, and is used from the end of that on.
struct Busy {
  std::atomic<uint64_t>& count;
  explicit Busy(std::atomic<uint64_t>& c) : count(c) { ++count; }
  ~Busy() { --count; }
};

}  // namespace

Values Session::call(const std::string& op, const Values& arguments, const Keywords& keywords) {
  if (foreign()) throw UnreachableError(op, target_, kForked);
  Busy busy(busy_);
  {
    std::lock_guard lock(inputs_mutex_);
    ++calls_;
  }
  Call c(*this, op, arguments, keywords);
  auto reply = log_.call(Opcode::op_call, c.payload());
  touch();
  c.written();
  if (reply.lost) throw UnreachableError(op, target_, reply.text);
  auto drop = [this](uint64_t stash) { post(Opcode::op_drop, wire::Handle{stash}); };
  if (reply.status) {
    if (auto stash = wire::Reader(reply.payload).get<uint64_t>()) drop(stash);
    fail(op, reply.text);
  }
  ++operations_;
  return c.results(reply.payload, drop);
}

void Session::fetch(const Remote& r, void* to) {
  if (foreign()) throw DeadHandleError({}, target_, kForked);
  if (lost()) throw DeadHandleError({}, target_, "the handle is dead: " + log_.reason());
  if (!r.bytes) return;
  Busy busy(busy_);
  bool dense_rows = r.strides == contiguous_strides(r.sizes);
  std::vector<std::byte> packed(dense_rows ? 0 : r.bytes);
  std::span<std::byte> into(dense_rows ? static_cast<std::byte*>(to) : packed.data(), r.bytes);
  wire::Download d{0, r.address, r.bytes, r.bytes, 1};
  auto reply = log_.call(Opcode::download, std::as_bytes(std::span(&d, 1)), into);
  if (reply.lost) throw UnreachableError("fetch", target_, reply.text);
  if (!reply.status && reply.bulk_bytes != r.bytes) reply.status = 1, reply.text = "the server sent less than was asked for";
  if (reply.status) fail("fetch", reply.text);
  if (!dense_rows) pack(static_cast<std::byte*>(to), packed.data(), r.sizes, r.strides, item_bytes(r.dtype));
  ++fetched_;
  bytes_fetched_ += r.bytes;
}

}  // namespace djinn::coordinator

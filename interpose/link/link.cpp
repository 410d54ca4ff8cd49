// See link.hpp.
#include "interpose/link/link.hpp"

#include <pthread.h>

#include "semantic/abi/thread.hpp"

namespace djinn::link {

using namespace std::chrono_literals;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using transport::Message;
using wire::FrameKind;

namespace {

// Nothing that was posted stays unflushed longer than this.
constexpr auto kTick = 500ms;
// What one round of the pump may add to the peer's silence. A round takes half a second at most unless we did not run ourselves (Ctrl-Z, a debugger,
// a laptop's lid): then the peer's silence proves nothing.
constexpr nanoseconds kRoundMax = 1s;
// Pauses between two looks of a driving thread, about a microsecond together: looking takes the socket's lock, which senders want too.
constexpr int kPauses = 20;

}  // namespace

std::string Link::open() {
  std::string error;
  endpoint_ = config_.endpoint ? config_.endpoint : "";
  if (config_.emulate && *config_.emulate) {
    auto emulation = transport::parse_emulation(config_.emulate, error);
    if (!emulation) return error;
    emulated_ = std::make_unique<Emulated>(*emulation);
  }
  error = open_session(context_, config_, session_);
  if (!error.empty()) return error;
  for (auto& op : session_.opened.ops) op_names_.push_back(op.c_str());
  for (auto& d : session_.opened.devices)
    devices_.push_back(
        {d.name.c_str(), d.total_memory, d.lease_bytes, d.major, d.minor, d.multiprocessors, d.threads_per_multiprocessor, d.clock_khz, d.l2_bytes});
  looked_ = ticked_ = pinged_ = Clock::now();
  SignalsBlocked blocked;
  pump_ = std::thread([this] { run(); });
  pthread_setname_np(pump_.native_handle(), "djinn-link");
  return {};
}

void Link::describe(djinn_link_opened& o) const {
  const auto& p = session_.opened;
  o.session = p.session;
  o.range_address = p.range.address;
  o.range_size = p.range.size;
  o.incarnation = p.incarnation;
  o.worker_pid = p.worker_pid;
  o.server_pid = p.server_pid;
  o.threads = p.threads;
  o.level = static_cast<int>(p.level);
  o.checks = p.checks;
  o.computes_kernels = p.computes_kernels;
  o.server_host = p.server_host.c_str();
  o.server_version = p.server_version.c_str();
  o.torch = p.torch.c_str();
  o.endpoint = endpoint_.c_str();
  o.devices = devices_.data();
  o.device_count = devices_.size();
  o.ops = op_names_.data();
  o.op_count = op_names_.size();
  o.relayed = session_.relayed;
}

void Link::declare_lost(const std::string& why) {
  if (closing_ || leaving_ || lost_.exchange(true)) return;
  events_.on_lost(events_.self, sentence(endpoint_, why).c_str());
}

// ---- sending ----

bool Link::send(std::span<const std::byte> frame, std::span<const djinn_part> bulk) {
  if (lost_ || closing_) return release(bulk), false;
  if (emulated_) return send_emulated(frame, bulk, true);
  if (send_now(frame, bulk)) return true;
  declare_lost("the connection broke");
  return false;
}

// Heartbeats and the like take the same way as the program's frames, but roll no dice.
bool Link::send_bare(FrameKind kind) {
  auto frame = bare_frame(session_.opened, kind);
  return emulated_ ? send_emulated(frame, {}, false) : send_now(frame, {});
}

bool Link::send_emulated(std::span<const std::byte> frame, std::span<const djinn_part> bulk, bool faults) {
  Owned owned;
  owned.emplace_back(frame.begin(), frame.end());
  size_t bytes = frame.size();
  for (const djinn_part& p : bulk) {
    auto data = static_cast<const std::byte*>(p.data);
    owned.emplace_back(data, data + p.size);
    bytes += p.size;
  }
  release(bulk);
  {
    std::lock_guard lock(emulated_->mutex);
    transport::Fault fault = faults ? emulated_->dice.roll() : transport::Fault{};
    if (!fault.cut) {
      auto& way = emulated_->outgoing;
      nanoseconds late = fault.slow ? nanoseconds(transport::kSlow) : 0ns;
      if (fault.garbage) {
        Owned bad = owned;
        emulated_->dice.damage(bad[0]);
        way.push(std::move(bad), bytes, std::exchange(late, 0ns));
      }
      if (fault.duplicate) way.push(owned, bytes, std::exchange(late, 0ns));
      way.push(std::move(owned), bytes, late);
      session_.connection->socket.wake();  // the pump sleeps until the next due time that it knows
      return true;
    }
  }
  declare_lost("the emulated network cut the connection");  // first, or the pump would see the end and name it otherwise
  session_.connection->cut();
  return false;
}

// Puts on the real wire what has crossed the emulated one. False when the connection is gone.
bool Link::send_due() {
  std::lock_guard lock(emulated_->mutex);
  while (auto owned = emulated_->outgoing.pop_due()) {
    std::vector<djinn_part> bulk;
    for (size_t i = 1; i < owned->size(); i++) bulk.push_back({(*owned)[i].data(), (*owned)[i].size(), nullptr, nullptr});
    if (!send_now((*owned)[0], bulk)) return false;
  }
  return true;
}

// ---- receiving ----

// What the session's owner wants to see: reports and the refusal that ends a session. True when it was handed over.
bool Link::hand_over(const Message& m) {
  wire::FrameHeader h;
  auto frame = m.part(0);
  bool ours = frame.size() >= sizeof h;
  if (ours) std::memcpy(&h, frame.data(), sizeof h);
  ours = ours && h.magic == wire::kFrameMagic && h.version == wire::kVersion && h.session == session_.opened.session &&
         h.incarnation == session_.opened.incarnation && h.length == frame.size() - sizeof h && h.bulk == m.parts.size() - 1;
  if (ours && h.kind == FrameKind::ping) return send_bare(FrameKind::pong), false;
  if (ours && (h.kind == FrameKind::pong || h.kind == FrameKind::welcome)) return false;
  if (!ours || (h.kind != FrameKind::report && h.kind != FrameKind::refused)) return ++ignored_, false;
  std::vector<djinn_part> bulk;
  bulk.reserve(m.parts.size() - 1);
  uint64_t bytes = frame.size();
  for (size_t i = 1; i < m.parts.size(); i++) {
    auto part = m.part(i);
    bytes += part.size();
    bulk.push_back({part.data(), part.size(), nullptr, nullptr});
  }
  messages_received_.fetch_add(1, std::memory_order_relaxed);
  bytes_received_.fetch_add(bytes, std::memory_order_relaxed);
  events_.on_frame(events_.self, frame.data(), frame.size(), bulk.data(), bulk.size());
  return true;
}

// Delivers everything that is here; how many frames. The caller holds `deliver_`.
int Link::drain() {
  int n = 0;
  while (auto m = session_.connection->socket.receive()) {
    arrivals_.fetch_add(1, std::memory_order_relaxed);
    if (!emulated_) {
      n += hand_over(*m);
      continue;
    }
    size_t bytes = 0;
    for (auto& p : m->parts) bytes += p.size();
    emulated_->incoming.push(std::move(*m), bytes);
  }
  if (emulated_)
    while (auto m = emulated_->incoming.pop_due()) n += hand_over(*m);
  return n;
}

int Link::drive(std::chrono::microseconds time) {
  auto deadline = Clock::now() + time;
  do {
    if (emulated_ && !send_due()) declare_lost("the connection broke");
    if (std::unique_lock lock(deliver_, std::try_to_lock); lock)
      if (int n = drain()) return n;
    for (int i = 0; i < kPauses; i++) __builtin_ia32_pause();
  } while (Clock::now() < deadline && !lost_ && !closing_);
  return 0;
}

// ---- the pump ----

// How long nothing is due.
nanoseconds Link::until_next() {
  nanoseconds sleep = std::min<nanoseconds>(milliseconds(config_.heartbeat_ms), kTick);
  if (!emulated_) return sleep;
  auto sooner = [&](std::optional<Clock::time_point> next) {
    if (next) sleep = std::min<nanoseconds>(sleep, *next - Clock::now());
  };
  std::scoped_lock lock(deliver_, emulated_->mutex);
  sooner(emulated_->outgoing.next());
  sooner(emulated_->incoming.next());
  return sleep;
}

// Signs of life: a message, bytes of a large one, or something still under way in the emulated network (which no peer can hurry).
void Link::watch() {
  auto now = Clock::now();
  auto round = std::min<nanoseconds>(now - looked_, kRoundMax);
  looked_ = now;
  uint64_t arrivals = arrivals_.load(std::memory_order_relaxed);
  silence_ = arrivals == arrivals_seen_ ? silence_ + round : 0ns;
  arrivals_seen_ = arrivals;
  nanoseconds heartbeat = milliseconds(config_.heartbeat_ms);
  if (silence_ < heartbeat / 2) return;
  if (now - pinged_ >= heartbeat) {
    pinged_ = now;
    bool moves = session_.connection->moving();
    if (emulated_) {
      std::scoped_lock lock(deliver_, emulated_->mutex);
      moves |= emulated_->outgoing.next() || emulated_->incoming.next();
    }
    if (moves) silence_ = 0ns;
    heartbeats_.fetch_add(1, std::memory_order_relaxed);
    if (!send_bare(FrameKind::ping)) return declare_lost("the connection broke");
  }
  if (silence_ > milliseconds(config_.lost_ms)) declare_lost("silent for " + std::to_string(silence_ / 1ms) + " ms");
}

void Link::run() {
  Connection& c = *session_.connection;
  while (!closing_ && !lost_) {
    c.socket.wait(until_next(), c.monitor_descriptor());
    bool alive = c.alive();  // asked before receiving: what came before the end is delivered before it is declared
    if (emulated_ && !send_due()) alive = false;
    {
      std::lock_guard lock(deliver_);
      drain();
    }
    if (!alive) return declare_lost(c.why().empty() ? "the connection broke" : c.why() + " (server or worker ended)");
    if (Clock::now() - ticked_ >= kTick) {
      ticked_ = Clock::now();
      events_.on_tick(events_.self);
    }
    watch();
  }
}

djinn_link_stats Link::stats() const {
  djinn_link_stats s{};
  s.messages_sent = session_.connection->socket.messages_sent();
  s.bytes_sent = session_.connection->socket.bytes_sent();
  s.messages_received = messages_received_;
  s.bytes_received = bytes_received_;
  s.heartbeats = heartbeats_;
  s.ignored = ignored_;
  return s;
}

void Link::close(milliseconds patience) {
  if (!pump_.joinable()) return;
  auto deadline = Clock::now() + patience;
  auto under_way = [&] {
    std::lock_guard lock(emulated_->mutex);
    return emulated_->outgoing.next().has_value();
  };
  bool lost = lost_;
  leaving_ = true;  // the worker hangs up when it reads the goodbye: that is no loss
  if (!lost) send_bare(FrameKind::goodbye);
  // what is under way in the emulated network still leaves; the pump sees to it
  while (!lost_ && emulated_ && under_way() && Clock::now() < deadline) std::this_thread::sleep_for(1ms);
  closing_ = true;
  session_.connection->socket.wake();
  pump_.join();
  auto left = std::chrono::duration_cast<milliseconds>(deadline - Clock::now());
  session_.connection->close(lost ? 0 : static_cast<int>(std::max(left, 0ms).count()));
  context_.close();  // waits for what is queued, as long as was just said
}

}  // namespace djinn::link

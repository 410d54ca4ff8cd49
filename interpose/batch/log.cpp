// See log.hpp. Locks: `mutex_` (the batch) may be held while sending; `answers_mutex_` never is; a thread that drives the link holds neither.
#include "interpose/batch/log.hpp"

#include <chrono>

#include "interpose/batch/counters.hpp"
#include "interpose/shadow/error.hpp"
#include "interpose/shadow/event.hpp"

namespace djinn {

using Clock = std::chrono::steady_clock;

namespace {
// Flush rules: enough commands to be worth a message, or bytes that the network can be busy with meanwhile.
constexpr uint32_t kFlushCommands = 128;
constexpr size_t kFlushBytes = 32u << 10;
constexpr uint64_t kFlushBulkBytes = 1u << 20;
// How long a waiting thread looks for its answer itself before it sleeps (a hop through another thread costs about 10 µs).
constexpr unsigned kSpinMicroseconds = 200;

std::span<const std::byte> bytes_of(const djinn_span& s) { return {static_cast<const std::byte*>(s.data), s.size}; }
void release(std::span<const djinn_part> bulk) {
  for (const djinn_part& p : bulk)
    if (p.release) p.release(const_cast<void*>(p.data), p.hint);
}
}  // namespace

Counters& counters() {
  static Counters c;
  return c;
}

void Log::start(const djinn_link_api* api, djinn_link* link, uint64_t session, uint32_t incarnation, bool flush_when_idle) {
  api_ = api;
  link_ = link;
  flush_when_idle_ = flush_when_idle;
  header_.kind = wire::FrameKind::batch;
  header_.session = session;
  header_.incarnation = incarnation;
  frame_.reserve(2 * kFlushBytes);
  frame_.resize(sizeof header_);
}

Ticket Log::append_locked(uint32_t opcode, uint16_t flags, std::span<const std::byte> payload, std::span<const djinn_part> bulk) {
  size_t padded = wire::align8(payload.size());
  // a batch that would grow beyond what a frame may hold leaves first
  if (count_ && (frame_.size() + sizeof(wire::RecordHeader) + padded > wire::kFrameBytesMax || bulk_.size() + bulk.size() > wire::kBulkPartsMax)) flush_locked();
  wire::RecordHeader h;
  h.opcode = opcode;
  h.flags = flags;
  h.bulk = static_cast<uint16_t>(bulk.size());
  h.size = static_cast<uint32_t>(padded);
  size_t at = frame_.size();
  frame_.resize(at + sizeof h + padded);
  std::memcpy(frame_.data() + at, &h, sizeof h);
  if (!payload.empty()) std::memcpy(frame_.data() + at + sizeof h, payload.data(), payload.size());
  for (const djinn_part& p : bulk) {
    bulk_.push_back(p);
    bulk_bytes_ += p.size;
  }
  ++count_;
  count(counters().posted);
  return next_++;
}

void Log::flush_locked() {
  if (!count_) return;
  header_.first_ticket = next_ - count_;
  header_.count = count_;
  header_.length = static_cast<uint32_t>(frame_.size() - sizeof header_);
  header_.bulk = static_cast<uint32_t>(bulk_.size());
  header_.ack = acknowledged_;
  header_.report = reports_;
  std::memcpy(frame_.data(), &header_, sizeof header_);
  uint64_t bytes = frame_.size() + bulk_bytes_;
  sent_ = next_ - 1;
  under_way_.push_back({sent_, bytes});
  under_way_bytes_ += bytes;
  count(counters().frames);
  count(counters().bytes, bytes);
  api_->send(link_, frame_.data(), frame_.size(), bulk_.data(), bulk_.size());  // a lost link says so through on_lost
  frame_.resize(sizeof header_);
  bulk_.clear();
  bulk_bytes_ = 0;
  count_ = 0;
}

void Log::flush_by_rule_locked() {
  if (count_ >= kFlushCommands || frame_.size() >= kFlushBytes || bulk_bytes_ >= kFlushBulkBytes || (flush_when_idle_ && executed(sent_))) flush_locked();
}

// Blocks while what is under way exceeds the window. The lock is released meanwhile, so that reports can be taken.
void Log::reserve_credit(std::unique_lock<std::mutex>& lock, uint64_t bytes) {
  auto settle = [&] {
    while (!under_way_.empty() && executed(under_way_.front().last)) {
      under_way_bytes_ -= under_way_.front().bytes;
      under_way_.pop_front();
    }
    uint64_t tickets = next_ - 1 - acknowledged_;
    // a single record larger than the window may go alone
    return tickets < wire::kCreditTickets && (under_way_bytes_ + bytes <= wire::kCreditBytes || under_way_.empty());
  };
  if (settle() || lost()) return;
  auto begin = Clock::now();
  flush_locked();
  lock.unlock();
  auto free = [&] {
    std::lock_guard again(mutex_);
    return settle();
  };
  wait_until(free);
  lock.lock();
  count(counters().stalls);
  count(counters().stall_nanoseconds, static_cast<uint64_t>((Clock::now() - begin).count()));
}

Ticket Log::post(uint32_t opcode, uint16_t flags, std::span<const std::byte> payload, std::span<const djinn_part> bulk) {
  if (lost()) return release(bulk), 0;
  uint64_t bytes = payload.size();
  for (const djinn_part& p : bulk) bytes += p.size;
  std::unique_lock lock(mutex_);
  reserve_credit(lock, bytes);
  Ticket t = append_locked(opcode, flags, payload, bulk);
  flush_by_rule_locked();
  return t;
}

Ticket Log::post_many(size_t n, const uint32_t* opcodes, const djinn_span* payloads) {
  if (lost()) return 0;
  std::unique_lock lock(mutex_);
  reserve_credit(lock, 0);
  Ticket t = 0;
  for (size_t i = 0; i < n; i++) t = append_locked(opcodes[i], 0, bytes_of(payloads[i]), {});
  flush_by_rule_locked();
  return t;
}

Ticket Log::post_download(std::span<const std::byte> payload, Store store) {
  if (lost()) return 0;
  std::unique_lock lock(mutex_);
  reserve_credit(lock, 0);
  Ticket t = append_locked(static_cast<uint32_t>(wire::Opcode::push_download), 0, payload, {});
  {
    std::lock_guard answers(answers_mutex_);
    stores_.emplace(t, std::move(store));
  }
  flush_by_rule_locked();
  return t;
}

Reply Log::call(uint32_t opcode, uint16_t flags, std::span<const std::byte> payload, std::span<const djinn_part> bulk) {
  Pending pending;
  if (!lost()) {
    std::unique_lock lock(mutex_);
    reserve_credit(lock, payload.size());
    Ticket t = append_locked(opcode, static_cast<uint16_t>(flags | wire::kFlagCall), payload, bulk);
    {
      std::lock_guard answers(answers_mutex_);
      pending_.emplace(t, &pending);
    }
    flush_locked();
    lock.unlock();
    count(counters().round_trips);
    wait_until([&] { return pending.done.load(std::memory_order_acquire); });
    std::lock_guard answers(answers_mutex_);
    pending_.erase(t);
  } else {
    release(bulk);
  }
  if (!pending.done) {
    pending.reply.status = lost_error();
    pending.reply.error = lost_reason();
  }
  return std::move(pending.reply);
}

void Log::flush() {
  std::lock_guard lock(mutex_);
  flush_locked();
}

Ticket Log::last() {
  std::lock_guard lock(mutex_);
  return next_ - 1;
}

bool Log::wait_executed(Ticket t) {
  if (executed(t)) return true;
  flush();
  count(counters().round_trips);
  wait_until([&] { return executed(t); });
  return executed(t);
}

// Spin (driving the link ourselves), then sleep until a report arrives; ends when `done` or when the session is lost.
void Log::wait_until(const std::function<bool()>& done) {
  auto spin_end = Clock::now() + std::chrono::microseconds(kSpinMicroseconds);
  while (!done() && !lost()) {
    if (Clock::now() < spin_end) {
      api_->drive(link_, 20);
      continue;
    }
    std::unique_lock lock(answers_mutex_);
    // `done` may take mutex_, so it is asked without this lock; the time-out covers a report that came in between
    answers_.wait_for(lock, std::chrono::milliseconds(1));
  }
}

void Log::take_reply(wire::Reader& r, const wire::Record& record, std::span<const djinn_part> bulk) {
  auto head = r.get<wire::Reply>();
  if (!r.ok()) return;
  std::lock_guard lock(answers_mutex_);
  auto found = pending_.find(head.ticket);
  if (found == pending_.end()) return;
  Reply& reply = found->second->reply;
  reply.status = head.status;
  size_t n = r.left();
  if (const std::byte* p = r.take(n)) reply.payload.assign(p, p + n);
  for (uint16_t i = 0; i < record.head.bulk; i++) {
    const djinn_part& part = bulk[record.bulk_first + i];
    auto data = static_cast<const std::byte*>(part.data);
    reply.bulk.emplace_back(data, data + part.size);
  }
  if (reply.status) reply.error = latest_error_text();
  found->second->done.store(true, std::memory_order_release);
}

void Log::take_error(wire::Reader& r) {
  auto e = r.get<wire::Error>();
  auto operation = r.get_string(wire::kNameBytesMax);
  auto text = r.get_string(wire::kErrorTextMax);
  if (r.ok()) latch_error(e, operation, text);
}

void Log::on_frame(std::span<const std::byte> frame, std::span<const djinn_part> bulk) {
  wire::FrameHeader h;
  static thread_local std::vector<wire::Record> records;  // one thread at a time, and it keeps its memory
  if (wire::parse_frame(frame, bulk.size(), h, records) != wire::FrameError::none) return;
  for (const wire::Record& record : records) {
    wire::Reader r(record.payload);
    switch (static_cast<wire::ReportOpcode>(record.head.opcode)) {
      case wire::ReportOpcode::reply: take_reply(r, record, bulk); break;
      case wire::ReportOpcode::error: take_error(r); break;
      case wire::ReportOpcode::event_done: {
        auto e = r.get<wire::EventDone>();
        if (r.finished()) event_done(e);
        break;
      }
      case wire::ReportOpcode::pushed: {
        auto p = r.get<wire::Pushed>();
        Store store;
        {
          std::lock_guard lock(answers_mutex_);
          auto found = stores_.find(p.ticket);
          if (!r.finished() || found == stores_.end()) break;
          store = std::move(found->second);
          stores_.erase(found);
        }
        store(bulk.subspan(record.bulk_first, record.head.bulk));
        break;
      }
    }
  }
  if (h.kind == wire::FrameKind::refused) return lose_session("the session was ended by the server");
  Ticket before = acknowledged_.load(std::memory_order_relaxed);
  if (h.ack > before) acknowledged_.store(h.ack, std::memory_order_release);
  {
    std::lock_guard lock(answers_mutex_);
    answers_.notify_all();
  }
  // the server has nothing to do: what waits in the batch may go
  std::lock_guard lock(mutex_);
  reports_ = h.report;
  if (flush_when_idle_ && executed(sent_)) flush_locked();
}

void Log::on_lost() {
  lost_.store(true, std::memory_order_release);
  std::lock_guard lock(answers_mutex_);
  answers_.notify_all();
}

void Log::on_tick() {
  std::lock_guard lock(mutex_);
  flush_locked();
}

}  // namespace djinn

// See log.hpp. Locks: `mutex_` (the batch) may be held while sending; `answers_mutex_` never is; a thread that drives the link holds neither.
#include "interpose/batch/log.hpp"

#include <chrono>
#include <cstdio>
#include <thread>

#include "interpose/batch/counters.hpp"
#include "interpose/shadow/activity.hpp"
#include "interpose/shadow/error.hpp"
#include "interpose/shadow/error_line.hpp"
#include "interpose/shadow/event.hpp"
#include "interpose/shadow/module_path.hpp"
#include "interpose/shadow/recorder.hpp"

namespace djinn {

using Clock = std::chrono::steady_clock;

namespace {
// Flush rules: enough commands to be worth a message, or bytes that the network can be busy with meanwhile.
constexpr uint32_t kFlushCommands = 128;
constexpr size_t kFlushBytes = 32u << 10;
constexpr uint64_t kFlushBulkBytes = 1u << 20;
// With one message under way the server has work, but soon will not: so many commands are worth the next.
constexpr uint32_t kFlushAheadCommands = 16;
// A record alone in its frame.
constexpr size_t kPayloadBytesMax = wire::kFrameBytesMax - sizeof(wire::RecordHeader);
// The wait: look for the answer ourselves, as CUDA does by default (a hop through another thread costs tens of microseconds, and a core that has
// slept is slow for the milliseconds that follow), then sleep until a report or the loss of the session wakes us, and look again now and then in case
// neither does. Where the server may share our core, looking only keeps it from working.
constexpr auto kSpin = std::chrono::microseconds(50000), kSpinFewCores = std::chrono::microseconds(50);
constexpr unsigned kFewCores = 2, kDriveMicroseconds = 20;
constexpr int kLockSpins = 1000;  // about 30 µs
constexpr auto kSleep = std::chrono::milliseconds(100);

// The batch is held for microseconds, by a thread that sends it; to sleep and be woken takes tens of them.
std::unique_lock<std::mutex> lock_soon(std::mutex& mutex) {
  for (int i = 0; i < kLockSpins; i++) {
    if (std::unique_lock lock(mutex, std::try_to_lock); lock) return lock;
    __builtin_ia32_pause();
  }
  return std::unique_lock(mutex);
}

std::vector<wire::Timing> take_timings(wire::Reader& r) {
  std::vector<wire::Timing> all;
  while (r.ok() && r.left() >= sizeof(wire::Timing)) all.push_back(r.get<wire::Timing>());
  return all;
}

// "aten::embedding in transformer.wte (train.py:31)"
std::string with_place(std::string_view operation, Ticket t) {
  return operation.empty() ? std::string{} : std::string(operation) + error_line::place_of(t);
}

// The line that posts it, where it is work of the program's, which may fail; asked without the log's lock, because a new line takes its time. In
// autograd's own threads the hook knows: the line of the forward.
uint32_t line_posting(uint32_t opcode) {
  using O = wire::Opcode;
  bool work = opcode & wire::kGeneratedOpcode;
  for (O o : {O::op_run, O::op_query, O::launch, O::upload, O::download, O::copy, O::fill, O::reduce, O::graph_launch})
    work |= opcode == static_cast<uint32_t>(o);
  if (!work) return 0;
  uint32_t line = error_line::here();
  return line ? line : scope().line;
}

uint64_t bytes_of(std::span<const std::byte> frame, std::span<const djinn_part> bulk) {
  uint64_t bytes = frame.size();
  for (const djinn_part& p : bulk) bytes += p.size;
  return bytes;
}
std::span<const std::byte> bytes_of(const djinn_span& s) { return {static_cast<const std::byte*>(s.data), s.size}; }
}  // namespace

Counters& counters() {
  static Counters c;
  return c;
}

void Log::start(const djinn_link_api* api, djinn_link* link, uint64_t session, uint32_t incarnation, bool flush_when_idle) {
  std::lock_guard lock(mutex_);  // the link may report already
  api_ = api;
  link_ = link;
  flush_when_idle_ = flush_when_idle;
  header_.kind = wire::FrameKind::batch;
  header_.session = session;
  header_.incarnation = incarnation;
  frame_.reserve(2 * kFlushBytes);
  frame_.resize(sizeof header_);
}

// At call level the hook says what this thread's calls are part of; the server is told when it is no longer what it was.
void Log::annotate_locked(uint32_t opcode) {
  bool call = (opcode & wire::kGeneratedOpcode) || opcode == static_cast<uint32_t>(wire::Opcode::launch);
  const djinn_scope& s = scope();
  if (!call || s.run == annotated_) return;
  annotated_ = s.run;
  wire::MeaningOp m{s.annotation, s.context, s.step};
  append_locked(static_cast<uint32_t>(wire::Opcode::meaning_op), 0, std::as_bytes(std::span(&m, 1)), {});
}

Ticket Log::append_locked(uint32_t opcode, uint16_t flags, std::span<const std::byte> payload, std::span<const djinn_part> bulk, uint32_t line) {
  size_t padded = wire::align8(payload.size());
  annotate_locked(opcode);
  // a batch that would grow beyond what a frame may hold leaves first
  if (count_ && (frame_.size() + sizeof(wire::RecordHeader) + padded > wire::kFrameBytesMax || bulk_.size() + bulk.size() > wire::kBulkPartsMax))
    flush_locked();
  wire::RecordHeader h;
  h.opcode = opcode;
  h.flags = flags;
  h.bulk = static_cast<uint16_t>(bulk.size());
  h.size = static_cast<uint32_t>(padded);
  size_t at = frame_.size();
  frame_.resize(at + sizeof h + padded);
  std::memcpy(frame_.data() + at, &h, sizeof h);
  if (!payload.empty()) std::memcpy(frame_.data() + at + sizeof h, payload.data(), payload.size());
  uint64_t bytes = sizeof h + padded;
  for (const djinn_part& p : bulk) {
    bulk_.push_back(p);
    bulk_bytes_ += p.size;
    bytes += p.size;
  }
  ++count_;
  count(counters().posted);
  error_line::note(next_, scope().module, line);
  if (work::names(opcode)) work::take_name(opcode, payload);
  if (uint32_t watched = work::watched()) {
    if (watched & work::kProfiler) activity::posted(opcode, next_, payload);
    if (watched & work::kRecorder) recorder::posted(opcode, next_, payload, bytes);
  }
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
  if (recorder::recording()) recorder::sent(header_.first_ticket, sent_, bytes);
  api_->send(link_, frame_.data(), frame_.size(), bulk_.data(), bulk_.size());  // a lost link says so through on_lost
  frame_.resize(sizeof header_);
  bulk_.clear();
  bulk_bytes_ = 0;
  count_ = 0;
}

// What is only said gives the server nothing to do: it goes along with what comes next.
static bool says_meaning(uint32_t opcode) {
  return opcode >= static_cast<uint32_t>(wire::Opcode::meaning_context) && opcode <= static_cast<uint32_t>(wire::Opcode::meaning_op);
}

void Log::settle_locked() {
  while (!under_way_.empty() && executed(under_way_.front().last)) {
    under_way_bytes_ -= under_way_.front().bytes;
    under_way_.pop_front();
  }
}

bool Log::server_hungry_locked() {
  settle_locked();
  return under_way_.empty() || (under_way_.size() == 1 && count_ >= kFlushAheadCommands);
}

void Log::flush_by_rule_locked(bool work) {
  bool large = count_ >= kFlushCommands || frame_.size() >= kFlushBytes || bulk_bytes_ >= kFlushBulkBytes;
  if (large || (work && flush_when_idle_ && server_hungry_locked())) flush_locked();
}

// Blocks while what is under way exceeds the window. The lock is released meanwhile, so that reports can be taken.
void Log::reserve_credit(std::unique_lock<std::mutex>& lock, uint64_t bytes) {
  auto settle = [&] {
    settle_locked();
    uint64_t tickets = next_ - 1 - acknowledged_;
    // a single record larger than the window may go alone
    return tickets < wire::kCreditTickets && (under_way_bytes_ + bytes <= wire::kCreditBytes || under_way_.empty());
  };
  if (settle() || lost()) return;
  auto begin = Clock::now();
  Ticket next = next_;
  flush_locked();
  lock.unlock();
  auto free = [&] {
    std::lock_guard again(mutex_);
    return settle();
  };
  {
    recorder::Wait wait(record::WaitKind::credit, next);
    wait_until(free);
  }
  lock.lock();
  count(counters().stalls);
  count(counters().stall_nanoseconds, static_cast<uint64_t>((Clock::now() - begin).count()));
}

// What no frame can carry is not sent: the server would end the session over it.
bool Log::fits(uint32_t opcode, size_t payload_bytes) {
  if (payload_bytes <= kPayloadBytesMax) return true;
  char name[32];
  snprintf(name, sizeof name, "command %#x", opcode);
  latch_error({0, cudaErrorInvalidValue, wire::ErrorClass::refused}, name,
              std::to_string(payload_bytes) + " bytes are more than one message may hold");
  return false;
}

Ticket Log::post(uint32_t opcode, uint16_t flags, std::span<const std::byte> payload, std::span<const djinn_part> bulk) {
  if (lost() || !fits(opcode, payload.size())) return release(bulk), 0;
  uint64_t bytes = payload.size();
  for (const djinn_part& p : bulk) bytes += p.size;
  uint32_t line = line_posting(opcode);
  std::unique_lock lock = lock_soon(mutex_);
  reserve_credit(lock, bytes);
  Ticket t = append_locked(opcode, flags, payload, bulk, line);
  flush_by_rule_locked(!says_meaning(opcode));
  return t;
}

Ticket Log::post_many(size_t n, const uint32_t* opcodes, const djinn_span* payloads) {
  if (lost()) return 0;
  for (size_t i = 0; i < n; i++)
    if (!fits(opcodes[i], payloads[i].size)) return 0;
  uint32_t line = n ? line_posting(opcodes[n - 1]) : 0;
  std::unique_lock lock = lock_soon(mutex_);
  reserve_credit(lock, 0);
  Ticket t = 0;
  for (size_t i = 0; i < n; i++) t = append_locked(opcodes[i], 0, bytes_of(payloads[i]), {}, line);
  flush_by_rule_locked(true);
  return t;
}

Ticket Log::post_download(std::span<const std::byte> payload, Store store) {
  if (lost()) return 0;
  uint32_t line = line_posting(static_cast<uint32_t>(wire::Opcode::download));
  std::unique_lock lock = lock_soon(mutex_);
  reserve_credit(lock, 0);
  Ticket t = append_locked(static_cast<uint32_t>(wire::Opcode::push_download), 0, payload, {}, line);
  {
    std::lock_guard answers(answers_mutex_);
    stores_.emplace(t, std::move(store));
  }
  flush_by_rule_locked(true);
  return t;
}

Reply Log::call(std::span<const Request> requests) {
  std::deque<Pending> pending;  // in the order of the requests, which is that of the replies
  std::vector<Ticket> tickets;
  uint64_t bytes = 0;
  bool fit = true;
  for (const Request& r : requests) {
    fit = fit && fits(r.opcode, r.payload.size());
    bytes += r.payload.size();
  }
  if (!fit || lost()) {
    for (const Request& r : requests) release(r.bulk);
    return fit ? Reply{lost_error(), {}, {}, lost_reason()} : Reply{cudaErrorInvalidValue, {}, {}, latest_error_text()};
  }
  std::unique_lock lock = lock_soon(mutex_);
  reserve_credit(lock, bytes);
  for (const Request& r : requests) {
    tickets.push_back(append_locked(r.opcode, static_cast<uint16_t>(r.flags | wire::kFlagCall), r.payload, r.bulk));
    std::lock_guard answers(answers_mutex_);
    pending_.emplace(tickets.back(), &pending.emplace_back(Reply{}, r.store));
  }
  flush_locked();
  lock.unlock();
  count(counters().round_trips);
  {
    recorder::Wait wait(record::WaitKind::reply, tickets.back(), requests.back().opcode);
    wait_until([&] { return pending.back().done.load(std::memory_order_acquire); });
  }
  std::lock_guard answers(answers_mutex_);
  for (Ticket t : tickets) pending_.erase(t);
  if (!pending.back().done) return {lost_error(), {}, {}, lost_reason()};
  for (Pending& p : pending)
    if (p.reply.status) return std::move(p.reply);
  return std::move(pending.back().reply);
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
  if (executed(t)) {
    if (recorder::recording()) recorder::need_not_wait(t);
    return true;
  }
  flush();
  count(counters().round_trips);
  recorder::Wait wait(record::WaitKind::executed, t);
  wait_until([&] { return executed(t); });
  return executed(t);
}

// Ends when `done`, or when the session is lost. `done` is asked without a lock, since it may take one; `seen` makes sure that no report comes
// between its answer and the sleep.
void Log::wait_until(const std::function<bool()>& done) {
  static const auto spin = std::thread::hardware_concurrency() <= kFewCores ? kSpinFewCores : kSpin;
  auto spin_end = Clock::now() + spin;
  for (;;) {
    uint64_t seen = arrivals_.load(std::memory_order_acquire);
    if (done() || lost()) return;
    if (Clock::now() < spin_end) {
      api_->drive(link_, kDriveMicroseconds);
      continue;
    }
    std::unique_lock lock(answers_mutex_);
    if (answers_.wait_for(lock, kSleep, [&] { return arrivals_ != seen || lost(); })) continue;
    lock.unlock();
    api_->drive(link_, 0);  // in case nobody else looks
  }
}

// The waiting caller is told later, when everything that the reply implies holds (on_frame).
bool Log::take_reply(wire::Reader& r, const wire::Record& record, std::span<const djinn_part> bulk, Ticket& ticket) {
  auto head = r.get<wire::Reply>();
  std::string place;
  std::string_view operation, text;
  if (head.status) {
    operation = (place = with_place(r.get_string(wire::kNameBytesMax), head.ticket));
    text = r.get_string(wire::kErrorTextMax);
  }
  if (!r.ok()) return false;
  if (head.status && head.error_class == static_cast<uint32_t>(wire::ErrorClass::sticky))
    latch_error({head.ticket, head.status, wire::ErrorClass::sticky}, operation, text);
  std::lock_guard lock(answers_mutex_);
  auto found = pending_.find(head.ticket);
  if (found == pending_.end()) return false;
  Reply& reply = found->second->reply;
  reply.status = head.status;
  if (head.status) {
    reply.error = error_words(operation, text);
  } else {
    size_t n = r.left();
    const std::byte* p = r.take(n);
    reply.payload.assign(p, p + n);
  }
  auto parts = bulk.subspan(record.bulk_first, record.head.bulk);
  if (found->second->store) {
    found->second->store(parts);
  } else {
    for (const djinn_part& part : parts) {
      auto data = static_cast<const std::byte*>(part.data);
      reply.bulk.emplace_back(data, data + part.size);
    }
  }
  ticket = head.ticket;
  return true;
}

void Log::take_error(wire::Reader& r) {
  auto e = r.get<wire::Error>();
  auto operation = with_place(r.get_string(wire::kNameBytesMax), e.ticket);
  auto text = r.get_string(wire::kErrorTextMax);
  if (!r.ok()) return;
  if (e.error_class == wire::ErrorClass::lost) lose_session(("djinn-gpu-server ended the session: " + error_words(operation, text)).c_str());
  else latch_error(e, operation, text);
}

void Log::take_pushed(wire::Reader& r, std::span<const djinn_part> rows) {
  auto p = r.get<wire::Pushed>();
  if (!r.finished()) return;
  Store store;
  {
    std::lock_guard lock(answers_mutex_);
    auto found = stores_.find(p.ticket);
    if (found == stores_.end()) return;
    store = std::move(found->second);
    stores_.erase(found);
  }
  store(rows);
}

void Log::take_record(const wire::Record& record, std::span<const djinn_part> bulk, std::vector<Ticket>& replied) {
  wire::Reader r(record.payload);
  switch (static_cast<wire::ReportOpcode>(record.head.opcode)) {
    case wire::ReportOpcode::reply:
      if (Ticket t; take_reply(r, record, bulk, t)) replied.push_back(t);
      break;
    case wire::ReportOpcode::error: take_error(r); break;
    case wire::ReportOpcode::event_done:
      if (auto e = r.get<wire::EventDone>(); r.finished()) event_done(e);
      break;
    case wire::ReportOpcode::timings: {
      auto timings = take_timings(r);
      activity::timed(timings);  // also those of the time before a profiler stopped
      if (recorder::recording()) recorder::timed(timings);
      break;
    }
    case wire::ReportOpcode::pushed: take_pushed(r, bulk.subspan(record.bulk_first, record.head.bulk)); break;
  }
}

// First what the records say, then the acknowledgement, then the waiting callers: who sees a reply sees everything before it as executed.
void Log::on_frame(std::span<const std::byte> frame, std::span<const djinn_part> bulk) {
  wire::FrameHeader h;
  std::vector<wire::Record> records;
  std::vector<Ticket> replied;
  if (wire::parse_frame(frame, bulk.size(), h, records) != wire::FrameError::none) return;
  for (const wire::Record& record : records) take_record(record, bulk, replied);
  if (h.kind == wire::FrameKind::refused) {
    lose_session("djinn-gpu-server ended the session");
    return on_lost();
  }
  if (recorder::recording()) recorder::acknowledged(h.ack, bytes_of(frame, bulk));
  if (h.ack > acknowledged_.load(std::memory_order_relaxed)) acknowledged_.store(h.ack, std::memory_order_release);
  {
    std::lock_guard lock(answers_mutex_);
    for (Ticket t : replied)
      if (auto found = pending_.find(t); found != pending_.end()) found->second->done.store(true, std::memory_order_release);
    ++arrivals_;
    answers_.notify_all();
  }
  // the server has nothing to do: what waits in the batch may go
  std::lock_guard lock(mutex_);
  reports_ = h.report;
  if (flush_when_idle_ && server_hungry_locked()) flush_locked();
}

void Log::on_lost() {
  std::lock_guard lock(answers_mutex_);
  lost_.store(true, std::memory_order_release);
  ++arrivals_;
  answers_.notify_all();
}

void Log::on_tick() {
  recorder::tick();
  std::lock_guard lock(mutex_);
  flush_locked();
}

}  // namespace djinn

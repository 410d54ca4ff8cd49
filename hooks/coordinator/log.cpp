// See log.hpp.
#include "hooks/coordinator/log.hpp"

#include <cstring>
#include <utility>

#include "semantic/wire/limits.hpp"

namespace djinn::coordinator {

using wire::ErrorClass;
using namespace std::chrono_literals;

namespace {
// A batch this large leaves although nobody waits: the network has something to do meanwhile.
constexpr size_t kFlushBytes = 32u << 10;
constexpr uint64_t kFlushBulkBytes = 1u << 20;
// The wait: look for the answer ourselves for a moment (a hop through the link's thread costs tens of microseconds), then sleep until a report or the
// loss of the session wakes us, and look again now and then in case neither does.
constexpr auto kSpin = 50us;
constexpr auto kSleep = 100ms;
constexpr unsigned kDriveMicroseconds = 20;

void release(const djinn_part* part) {
  if (part && part->release) part->release(const_cast<void*>(part->data), part->hint);
}

Log::Reply no_answer(const std::string& why) {
  Log::Reply r;
  r.lost = true;
  r.text = why;
  return r;
}
Log::Reply failed(const std::string& why) {
  Log::Reply r;
  r.status = 1;
  r.text = why;
  return r;
}

std::string failure_text(wire::Reader& r) {
  std::string operation(r.get_string(wire::kNameBytesMax)), text(r.get_string(wire::kErrorTextMax));
  return text.empty() ? operation + " failed" : text;
}

}  // namespace

void Log::start(const djinn_link_api* api, djinn_link* link, const djinn_link_opened& opened) {
  std::lock_guard lock(mutex_);  // the link may report already
  api_ = api;
  link_ = link;
  header_.kind = wire::FrameKind::batch;
  header_.session = opened.session;
  header_.incarnation = opened.incarnation;
  frame_.resize(sizeof header_);
}

uint64_t Log::append_locked(wire::Opcode opcode, uint16_t flags, std::span<const std::byte> payload, const djinn_part* part) {
  size_t padded = wire::align8(payload.size());
  if (header_.count && (frame_.size() + sizeof(wire::RecordHeader) + padded > wire::kFrameBytesMax || bulk_.size() >= wire::kBulkPartsMax ||
                        header_.count >= wire::kFrameCommandsMax))
    flush_locked();
  wire::RecordHeader h;
  h.opcode = static_cast<uint32_t>(opcode);
  h.flags = flags;
  h.bulk = part ? 1 : 0;
  h.size = static_cast<uint32_t>(padded);
  size_t at = frame_.size();
  frame_.resize(at + sizeof h + padded);
  std::memcpy(frame_.data() + at, &h, sizeof h);
  if (!payload.empty()) std::memcpy(frame_.data() + at + sizeof h, payload.data(), payload.size());
  if (part) {
    bulk_.push_back(*part);
    bulk_bytes_ += part->size;
  }
  ++header_.count;
  return next_++;
}

void Log::flush_locked() {
  if (!header_.count) return;
  header_.first_ticket = next_ - header_.count;
  header_.length = static_cast<uint32_t>(frame_.size() - sizeof header_);
  header_.bulk = static_cast<uint32_t>(bulk_.size());
  header_.ack = acknowledged_;
  header_.report = reports_;
  std::memcpy(frame_.data(), &header_, sizeof header_);
  uint64_t bytes = frame_.size() + bulk_bytes_;
  under_way_.push_back({next_ - 1, bytes});
  under_way_bytes_ += bytes;
  api_->send(link_, frame_.data(), frame_.size(), bulk_.data(), bulk_.size());  // a lost link says so through on_lost
  frame_.resize(sizeof header_);
  bulk_.clear();
  bulk_bytes_ = 0;
  header_.count = 0;
}

// May so many bytes more be under way? A command larger than the window goes alone.
bool Log::credit_locked(uint64_t bytes) {
  for (; !under_way_.empty() && under_way_.front().last <= acknowledged_; under_way_.pop_front()) under_way_bytes_ -= under_way_.front().bytes;
  return next_ - 1 - acknowledged_ < wire::kCreditTickets && (under_way_bytes_ + bytes <= wire::kCreditBytes || under_way_.empty());
}

void Log::reserve_credit(std::unique_lock<std::mutex>& lock, uint64_t bytes) {
  while (!credit_locked(bytes) && !lost()) {  // another thread may take the credit that this one has waited for
    flush_locked();
    lock.unlock();
    bool free = wait_until([&] {
      std::lock_guard again(mutex_);
      return credit_locked(bytes);
    });
    if (!free) lose("it has executed nothing for " + std::to_string(patience_.count()) + " ms");
    lock.lock();
  }
}

void Log::post(wire::Opcode opcode, std::span<const std::byte> payload, const djinn_part* part) {
  if (lost()) return release(part);
  uint64_t bytes = part ? part->size : 0;
  std::unique_lock lock(mutex_);
  reserve_credit(lock, bytes);
  append_locked(opcode, 0, payload, part);
  if (frame_.size() >= kFlushBytes || bulk_bytes_ >= kFlushBulkBytes) flush_locked();
}

Log::Reply Log::call(wire::Opcode opcode, std::span<const std::byte> payload, std::span<std::byte> into) {
  if (lost()) return no_answer(reason());
  if (payload.size() > wire::kFrameBytesMax - sizeof(wire::RecordHeader)) return failed("the arguments are more than one message may hold");
  Pending p{{}, into};
  std::unique_lock lock(mutex_);
  reserve_credit(lock, 0);
  uint64_t ticket = append_locked(opcode, wire::kFlagCall, payload, nullptr);
  {
    std::lock_guard answers(answers_mutex_);
    pending_.emplace(ticket, &p);
  }
  flush_locked();
  lock.unlock();
  round_trips_.fetch_add(1, std::memory_order_relaxed);
  bool answered = wait_until([&] {
    std::lock_guard answers(answers_mutex_);
    return p.done;
  });
  if (!answered) lose("no answer within " + std::to_string(patience_.count()) + " ms");
  std::lock_guard answers(answers_mutex_);
  pending_.erase(ticket);
  if (!p.done) return no_answer(reason_);
  if (std::string before = std::exchange(posted_failure_, {}); !p.reply.status && !before.empty()) {
    p.reply.status = 1;  // the payload stays: it names a stash that has to be dropped
    p.reply.text = "what was sent before it failed: " + before;
  }
  return std::move(p.reply);
}

// True when `done`, or when the session is lost; false when neither happens in time.
bool Log::wait_until(const std::function<bool()>& done) {
  auto begin = Clock::now(), end = begin + patience_;
  for (auto now = begin; now < end; now = Clock::now()) {
    uint64_t seen = reports_;  // before asking: what comes after the answer ends the sleep
    if (done() || lost()) return true;
    if (now < begin + kSpin) {
      api_->drive(link_, kDriveMicroseconds);
      continue;
    }
    std::unique_lock lock(answers_mutex_);
    answers_.wait_for(lock, kSleep, [&] { return reports_ != seen || lost(); });
  }
  return done() || lost();
}

void Log::lose(const std::string& reason) {
  std::lock_guard lock(answers_mutex_);
  if (!lost_) reason_ = reason;
  lost_.store(true, std::memory_order_release);
  answers_.notify_all();
}

std::string Log::reason() const {
  std::lock_guard lock(answers_mutex_);
  return reason_;
}

// ---- reports ----

void Log::take_reply(const wire::Record& record, std::span<const djinn_part> bulk) {
  wire::Reader r(record.payload);
  auto head = r.get<wire::Reply>();
  std::string text = head.status ? failure_text(r) : "";
  if (!r.ok()) return;
  if (head.status && head.error_class == static_cast<uint32_t>(ErrorClass::sticky)) lose("the session is broken: " + text);
  std::lock_guard lock(answers_mutex_);
  auto found = pending_.find(head.ticket);
  if (found == pending_.end()) return;
  Pending& p = *found->second;
  p.reply.status = head.status;
  p.reply.text = text;
  if (!head.status) {
    size_t n = r.left();
    const std::byte* payload = r.take(n);
    p.reply.payload.assign(payload, payload + n);
    for (const djinn_part& part : bulk.subspan(record.bulk_first, record.head.bulk)) {
      if (part.size > p.into.size() - p.reply.bulk_bytes) {
        p.reply.status = 1, p.reply.text = "the server sent more than was asked for";
        break;
      }
      std::memcpy(p.into.data() + p.reply.bulk_bytes, part.data, part.size);
      p.reply.bulk_bytes += part.size;
    }
  }
  p.done = true;
}

void Log::take_error(const wire::Record& record) {
  wire::Reader r(record.payload);
  auto e = r.get<wire::Error>();
  std::string text = failure_text(r);
  if (!r.ok()) return;
  if (e.error_class == ErrorClass::lost) return lose("djinn-gpu-server ended the session: " + text);
  if (e.error_class == ErrorClass::sticky) return lose("the session is broken: " + text);
  std::lock_guard lock(answers_mutex_);
  if (posted_failure_.empty()) posted_failure_ = text;
}

void Log::take_record(const wire::Record& record, std::span<const djinn_part> bulk) {
  switch (static_cast<wire::ReportOpcode>(record.head.opcode)) {
    case wire::ReportOpcode::reply: return take_reply(record, bulk);
    case wire::ReportOpcode::error: return take_error(record);
    case wire::ReportOpcode::event_done:  // nothing here asks for these
    case wire::ReportOpcode::pushed:
    case wire::ReportOpcode::timings: return;
  }
}

void Log::on_frame(std::span<const std::byte> frame, std::span<const djinn_part> bulk) {
  wire::FrameHeader h;
  std::vector<wire::Record> records;
  if (wire::parse_frame(frame, bulk.size(), h, records) != wire::FrameError::none) return;
  for (const wire::Record& record : records) take_record(record, bulk);
  if (h.kind == wire::FrameKind::refused) return lose("djinn-gpu-server ended the session");
  std::lock_guard lock(answers_mutex_);
  if (h.ack > acknowledged_) acknowledged_ = h.ack;
  reports_ = h.report;
  answers_.notify_all();
}

void Log::on_tick() {
  std::lock_guard lock(mutex_);
  flush_locked();
}

}  // namespace djinn::coordinator

// See report.hpp.
#include "server/session/report.hpp"

#include <cstring>

namespace djinn::server {

using wire::RecordHeader;
using wire::ReportOpcode;

namespace {

// What a part counts in until libzmq releases it.
struct Held {
  std::unique_ptr<std::byte[]> bytes;  // null: borrowed
  size_t size;
  std::atomic<uint64_t>* counters[2];
};

void release_held(void*, void* hint) {
  std::unique_ptr<Held> held(static_cast<Held*>(hint));
  for (auto* counter : held->counters) {
    if (!counter) continue;
    *counter -= held->size;
    counter->notify_all();
  }
}

std::vector<std::byte> words_of(const Failure& f) {
  std::vector<std::byte> rest;
  wire::Writer w(rest);
  w.put_string(std::string_view(f.operation).substr(0, wire::kNameBytesMax));
  w.put_string(std::string_view(f.text).substr(0, wire::kErrorTextMax));
  return rest;
}

}  // namespace

Report::Report(uint64_t session, uint32_t incarnation, Send send) : send_(std::move(send)) {
  header_.kind = wire::FrameKind::report;
  header_.session = session;
  header_.incarnation = incarnation;
  frame_.resize(sizeof header_);
}

// What was never sent is released all the same.
Report::~Report() { release(bulk_); }

template <class Fixed>
void Report::add(ReportOpcode opcode, const Fixed& fixed, std::span<const std::byte> rest, std::span<const djinn_part> bulk) {
  RecordHeader head;
  head.opcode = static_cast<uint32_t>(opcode);
  head.bulk = static_cast<uint16_t>(bulk.size());
  head.size = static_cast<uint32_t>(sizeof fixed + rest.size());
  wire::Writer w(frame_);
  w.put(head);
  w.put(fixed);
  if (!rest.empty()) std::memcpy(w.grow(rest.size()), rest.data(), rest.size());
  bulk_.insert(bulk_.end(), bulk.begin(), bulk.end());
  ++header_.count;
}

void Report::reply(uint64_t ticket, int32_t status, std::span<const std::byte> rest, std::span<const djinn_part> bulk) {
  add(ReportOpcode::reply, wire::Reply{ticket, status, 0}, rest, bulk);
}
void Report::failed_reply(uint64_t ticket, const Failure& f) {
  add(ReportOpcode::reply, wire::Reply{ticket, f.code, static_cast<uint32_t>(f.error_class)}, words_of(f));
}
void Report::event_done(const wire::EventDone& e) { add(ReportOpcode::event_done, e); }
void Report::error(uint64_t ticket, const Failure& f) { add(ReportOpcode::error, wire::Error{ticket, f.code, f.error_class}, words_of(f)); }
void Report::pushed(uint64_t ticket, std::span<const djinn_part> bulk) { add(ReportOpcode::pushed, wire::Pushed{ticket}, {}, bulk); }

bool Report::flush(uint64_t executed) {
  if (!header_.count && executed == acknowledged_) return true;
  ++header_.report;
  header_.ack = acknowledged_ = executed;
  header_.length = static_cast<uint32_t>(frame_.size() - sizeof header_);
  header_.bulk = static_cast<uint32_t>(bulk_.size());
  std::memcpy(frame_.data(), &header_, sizeof header_);
  bool ok = send_(frame_, bulk_);
  frame_.resize(sizeof header_);
  bulk_.clear();
  header_.count = 0;
  return ok;
}

void Report::timings(std::span<const wire::Timing> all) {
  if (!all.empty()) add(wire::ReportOpcode::timings, all.front(), std::as_bytes(all.subspan(1)));
}

djinn_part Report::own(std::unique_ptr<std::byte[]> bytes, size_t size) {
  outstanding_ += size;
  auto* data = bytes.get();
  return {data, size, release_held, new Held{std::move(bytes), size, {&outstanding_, nullptr}}};
}

djinn_part Report::borrow(const std::byte* bytes, size_t size) {
  outstanding_ += size;
  borrowed_ += size;
  return {bytes, size, release_held, new Held{nullptr, size, {&outstanding_, &borrowed_}}};
}

static void await(const std::atomic<uint64_t>& counter, uint64_t at_most) {
  for (uint64_t now = counter; now > at_most; now = counter) counter.wait(now);
}
void Report::await_outstanding(uint64_t at_most) const { await(outstanding_, at_most); }
void Report::await_borrowed() const { await(borrowed_, 0); }

std::vector<std::byte> refused_frame(uint64_t session, uint32_t incarnation, const std::string& text) {
  std::vector<std::byte> frame;
  Report report(session, incarnation, [&](std::span<const std::byte> f, std::span<const djinn_part>) {
    frame.assign(f.begin(), f.end());
    return true;
  });
  report.error(0, {cuda_error::unknown, wire::ErrorClass::lost, "session", text});
  report.flush(0);
  wire::FrameHeader header;
  std::memcpy(&header, frame.data(), sizeof header);
  header.kind = wire::FrameKind::refused;
  header.report = 0;
  std::memcpy(frame.data(), &header, sizeof header);
  return frame;
}

}  // namespace djinn::server

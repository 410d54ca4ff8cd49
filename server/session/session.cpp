// See session.hpp.
#include "server/session/session.hpp"

#include <spdlog/spdlog.h>
#include <time.h>

#include "semantic/wire/archive.hpp"
#include "server/decode/decode.hpp"

namespace djinn::server {

// A report leaves when it is this large, also in the middle of a batch.
constexpr size_t kReportBytes = 256u << 10;

static uint64_t nanoseconds() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000000000u + static_cast<uint64_t>(t.tv_nsec);
}

void Report::add(wire::ReportOpcode op, std::span<const std::byte> payload, std::vector<std::vector<std::byte>> bulk) {
  wire::RecordHeader h;
  h.opcode = static_cast<uint32_t>(op);
  h.bulk = static_cast<uint16_t>(bulk.size());
  h.size = static_cast<uint32_t>(wire::align8(payload.size()));
  auto p = reinterpret_cast<const std::byte*>(&h);
  records_.insert(records_.end(), p, p + sizeof h);
  records_.insert(records_.end(), payload.begin(), payload.end());
  records_.resize(wire::align8(records_.size()));
  for (auto& b : bulk) bulk_.push_back(std::move(b));
  ++count_;
}

std::vector<std::byte> Report::finish(wire::FrameHeader header, std::vector<djinn_part>& bulk) {
  header.kind = wire::FrameKind::report;
  header.count = count_;
  header.length = static_cast<uint32_t>(records_.size());
  header.bulk = static_cast<uint32_t>(bulk_.size());
  std::vector<std::byte> frame(sizeof header + records_.size());
  std::memcpy(frame.data(), &header, sizeof header);
  if (!records_.empty()) std::memcpy(frame.data() + sizeof header, records_.data(), records_.size());
  for (auto& b : bulk_) {
    auto* owner = new std::vector<std::byte>(std::move(b));
    bulk.push_back({owner->data(), owner->size(), [](void*, void* hint) { delete static_cast<std::vector<std::byte>*>(hint); }, owner});
  }
  records_.clear();
  bulk_.clear();
  count_ = 0;
  return frame;
}

Session::Session(Setup setup) : setup_(std::move(setup)) {
  lease = setup_.opened.lease_bytes;
  device_total = setup_.opened.device.total_memory;
  if (!setup_.executor) return;
  host_.version = DJINN_EXECUTOR_VERSION;
  host_.size = sizeof host_;
  host_.session = this;
  host_.memory_live = [](void* s, uint64_t address, uint64_t bytes) -> int { return static_cast<Session*>(s)->device().live(address, bytes); };
  host_.memory_epoch = [](void* s) { return static_cast<Session*>(s)->device().memory_epoch(); };
  host_.range_address = setup_.opened.range.address;
  host_.range_size = setup_.opened.range.size;
  host_.log = [](void*, int level, const char* text) {
    spdlog::log(level <= 0 ? spdlog::level::err : level == 1 ? spdlog::level::warn : level == 2 ? spdlog::level::info : spdlog::level::debug, "{}", text);
  };
  executor_state_ = setup_.executor->open(&host_, static_cast<int>(setup_.opened.threads));
}

Session::~Session() {
  if (executor_state_) setup_.executor->close(executor_state_);
}

void Session::set_threads(unsigned threads) {
  if (executor_state_) setup_.executor->set_threads(executor_state_, static_cast<int>(threads));
}

wire::control::Counters Session::counters() const {
  wire::control::Counters c;
  c.session = setup_.opened.session;
  c.frames = count.frames;
  c.bytes = count.bytes;
  c.commands = count.commands;
  c.ops = count.ops;
  c.calls = count.calls;
  c.launches_validated = count.launches_validated;
  c.violations = count.violations;
  c.launches_refused = count.launches_refused;
  c.errors = count.errors;
  c.execute_nanoseconds = count.execute_nanoseconds;
  c.memory_bytes = count.memory;
  c.memory_peak = count.peak;
  return c;
}

std::vector<std::byte> Session::packed_counters() const { return wire::control::pack(counters()); }

void Session::reply(int32_t status, std::span<const std::byte> payload, std::vector<std::vector<std::byte>> bulk) {
  wire::Reply r{now.ticket, status, 0};
  std::vector<std::byte> bytes(sizeof r + payload.size());
  std::memcpy(bytes.data(), &r, sizeof r);
  if (!payload.empty()) std::memcpy(bytes.data() + sizeof r, payload.data(), payload.size());
  report_.add(wire::ReportOpcode::reply, bytes, std::move(bulk));
  send_report();  // somebody is waiting
}

void Session::fail(const Failure& f) {
  ++count.errors;
  wire::Error e{now.ticket, f.code, f.error_class};
  std::vector<std::byte> payload;
  wire::Writer w(payload);
  w.put(e);
  w.put_string(std::string_view(f.operation).substr(0, wire::kNameBytesMax));
  w.put_string(std::string_view(f.text).substr(0, wire::kErrorTextMax));
  report_.add(wire::ReportOpcode::error, payload);
  if (now.call()) reply(f.code);
}

void Session::malformed(const char* command) { fail({cuda_error::invalid_value, wire::ErrorClass::refused, command, "malformed command"}); }

void Session::send_report() {
  wire::FrameHeader h;
  h.session = setup_.opened.session;
  h.incarnation = setup_.opened.incarnation;
  h.ack = next_ticket_ - 1;
  h.report = ++reports_;
  std::vector<djinn_part> bulk;
  auto frame = report_.finish(h, bulk);
  setup_.send(frame, bulk);
}

void Session::execute(const wire::Record& r) {
  ++count.commands;
  if (auto decode = find_decoder(r.head.opcode)) decode(*this);
  else fail({cuda_error::not_supported, wire::ErrorClass::refused, "opcode " + std::to_string(r.head.opcode), "unknown command"});
  ++next_ticket_;
}

std::string Session::run(const wire::FrameHeader& header, const std::vector<wire::Record>& records, const transport::Message& message) {
  ++count.frames;
  for (auto& p : message.parts) count.bytes += p.size();
  if (header.first_ticket > next_ticket_)
    return "ticket " + std::to_string(next_ticket_) + " is missing: the batch begins with " + std::to_string(header.first_ticket);
  uint64_t begin = nanoseconds(), sent = reports_;
  for (size_t i = 0; i < records.size(); i++) {
    uint64_t ticket = header.first_ticket + i;
    if (ticket < next_ticket_) continue;  // executed already
    now = {ticket, &records[i], &message};
    execute(records[i]);
    if (report_.size() > kReportBytes) send_report();
  }
  now = {};
  count.execute_nanoseconds += nanoseconds() - begin;
  count.memory = device().mapped();
  count.peak = device().peak();
  // the last call of the batch has acknowledged everything already when nothing followed it
  if (reports_ == sent || !report_.empty() || !(records.empty() || (records.back().head.flags & wire::kFlagCall))) send_report();
  return {};
}

}  // namespace djinn::server

// See session.hpp.
#include "server/session/session.hpp"

#include <spdlog/spdlog.h>

#include <chrono>

#include "server/decode/decode.hpp"

namespace djinn::server {

using wire::ErrorClass;

using Clock = std::chrono::steady_clock;

// An acknowledgement of a long batch's first part is not held back for longer than this.
constexpr auto kReportAgeMax = std::chrono::milliseconds(2);

// Times that wait for the next report.
constexpr size_t kTimingsMax = 1024;

static uint64_t since(Clock::time_point begin) { return static_cast<uint64_t>(std::chrono::nanoseconds(Clock::now() - begin).count()); }

void Counts::read(wire::control::Counters& c) const {
  c.frames = frames;
  c.bytes = bytes;
  c.commands = commands;
  c.ops = ops;
  c.calls = calls;
  c.launches_validated = launches_validated;
  c.violations = violations;
  c.launches_refused = launches_refused;
  c.errors = errors;
  c.memory_bytes = memory_bytes;
  c.memory_peak = memory_peak;
  c.execute_nanoseconds = execute_nanoseconds;
}

Session::Session(Setup setup)
    : setup_(std::move(setup)),
      report_(setup_.opened.session, setup_.opened.incarnation, setup_.send),
      ranges_(setup_.opened.range.address, setup_.opened.range.size, setup_.opened.devices.size()) {
  for (const wire::control::Device& d : setup_.opened.devices) holdings_.push_back({d.lease_bytes, 0});
  if (setup_.executor) open_executor();
}

uint64_t Session::busy_nanoseconds() const { return counts_.execute_nanoseconds + since(batch_begun_); }
uint64_t Session::open_nanoseconds() const { return since(opened_at_); }

Session::~Session() {
  if (executor_) setup_.executor->close(executor_);
}

void Session::open_executor() {
  host_.version = DJINN_EXECUTOR_VERSION;
  host_.size = sizeof host_;
  host_.session = this;
  host_.memory_live = [](void* s, uint64_t address, uint64_t bytes) -> int { return static_cast<Session*>(s)->device().live(address, bytes); };
  host_.memory_epoch = [](void* s) { return static_cast<Session*>(s)->device().memory_epoch(); };
  host_.range_address = setup_.opened.range.address;
  host_.range_size = setup_.opened.range.size;
  host_.multiprocessors = setup_.opened.devices.at(0).multiprocessors;  // all devices are alike
  host_.threads_per_multiprocessor = setup_.opened.devices.at(0).threads_per_multiprocessor;
  host_.log = [](void*, int level, const char* text) {
    spdlog::log(level <= 0   ? spdlog::level::err
                : level == 1 ? spdlog::level::warn
                : level == 2 ? spdlog::level::info
                             : spdlog::level::debug,
                "{}", text);
  };
  executor_ = setup_.executor->open(&host_, static_cast<int>(setup_.opened.threads));
  if (!executor_) setup_.no_executor = "libtorch's executor could not be opened";
}

void Session::set_threads(unsigned n) {
  setup_.opened.threads = n;
  if (executor_) setup_.executor->set_threads(executor_, static_cast<int>(n));
}

uint64_t Session::change_lease(size_t device, uint64_t wanted) {
  Holding& h = holdings_[device];
  // memory that is mapped cannot be given back
  ChannelMessage m;
  m.kind = ChannelKind::lease_wanted;
  m.device = device;
  m.number = std::max(wanted, h.mapped);
  if (auto answer = ask_broker(m, ChannelKind::lease_granted)) h.lease = answer->number;
  return h.lease;
}

void Session::memory_changed(size_t which, int64_t bytes) {
  holdings_[which].mapped += static_cast<uint64_t>(bytes);
  counts_.memory_bytes = device().mapped();
  counts_.memory_peak = device().peak();
}

wire::control::Counters Session::counters() const {
  wire::control::Counters c = setup_.who;
  counts_.read(c);
  c.open_nanoseconds = open_nanoseconds();
  c.queued = setup_.queued ? setup_.queued() : 0;
  c.meaning = meaning_.now();
  return c;
}

Failure Session::run_op(const Command& c) {
  if (!executor_) return {cuda_error::not_supported, ErrorClass::refused, "op", "this session has no op level: " + setup_.no_executor};
  djinn_executor_result r{};
  const auto opcode = static_cast<wire::Opcode>(c.head.opcode);
  const bool computes = opcode == wire::Opcode::op_run || opcode == wire::Opcode::op_query || opcode == wire::Opcode::op_call;
  const auto begin = computes ? Clock::now() : Clock::time_point{};
  if (adding()) setup_.executor->graph_add(executor_, in_graph_->graph, c.payload.data(), c.payload.size(), &r);
  else if (launching()) setup_.executor->graph_run(executor_, in_graph_->graph, wire::Reader(c.payload).get<uint64_t>(), &r);
  else setup_.executor->execute(executor_, c.head.opcode, c.ticket, c.payload.data(), c.payload.size(), &r);
  if (r.code) return {r.code, static_cast<ErrorClass>(r.error_class), r.operation ? r.operation : "op", r.text ? r.text : ""};
  const std::span reply(static_cast<const std::byte*>(r.reply), r.reply_size);
  if (adding()) meaning_.kept(in_graph_->graph, c.payload);
  else if (launching()) meaning_.ran_kept(in_graph_->graph, wire::Reader(c.payload).get<uint64_t>(), since(begin));
  else meaning_.executed(opcode, c.payload, reply, computes ? since(begin) : 0);
  if (!reply.empty()) {
    answer.assign(reply.begin(), reply.end());
    answer.resize(wire::align8(answer.size()));
  }
  return {};
}

void Session::drop_graph_ops(uint64_t graph) {
  if (executor_) setup_.executor->graph_drop(executor_, graph);
  meaning_.dropped(graph);
}

void Session::flush_report() {
  report_.timings(timings_);
  timings_.clear();
  report_.flush(executed_);
}

void Session::await_bulk_room() {
  if (report_.outstanding() <= kReportBulkMax) return;
  flush_report();
  report_.await_outstanding(kReportBulkMax);
}

Failure Session::dispatch(const Command& c) {
  // After a sticky error a CUDA context answers nothing but that error.
  if (sticky_ && c.head.opcode != static_cast<uint32_t>(wire::Opcode::counters)) return *sticky_;
  decode::Function function = decode::find(c.head.opcode);
  if (!function)
    return {cuda_error::not_supported, ErrorClass::refused, fmt::format("opcode {:#x}", c.head.opcode), "this server does not know the command"};
  return function(*this, c);
}

// A failure reaches a waiting caller as its reply, everybody else as an error record; a sticky one is repeated to later callers only.
void Session::conclude(const Command& c, Failure f) {
  bool call = c.head.flags & wire::kFlagCall;
  if (f.code) ++counts_.errors;
  if (f.code && f.error_class == ErrorClass::sticky && !sticky_) {
    sticky_ = f;
    spdlog::warn("session {}: {}: {}", setup_.opened.session, f.operation, f.text);
    if (!call) report_.error(c.ticket, f);
  } else if (f.code && !call && !sticky_) {
    report_.error(c.ticket, f);
  }
  if (!call) return;
  if (f.code) {
    release(answer_bulk);
    report_.failed_reply(c.ticket, f);
  } else {
    report_.reply(c.ticket, 0, answer, answer_bulk);
  }
}

// What a profiler of the device sees.
static bool is_work(uint32_t opcode) {
  if (opcode & wire::kGeneratedOpcode) return true;
  switch (static_cast<wire::Opcode>(opcode)) {
    case wire::Opcode::upload:
    case wire::Opcode::download:
    case wire::Opcode::push_download:
    case wire::Opcode::copy:
    case wire::Opcode::fill:
    case wire::Opcode::reduce:
    case wire::Opcode::launch:
    case wire::Opcode::op_run:
    case wire::Opcode::op_query:
    case wire::Opcode::op_call:
    case wire::Opcode::graph_launch: return true;
    default: return false;
  }
}

// False when the session is over.
bool Session::step(const Command& c) {
  answer.clear();
  answer_bulk.clear();
  if (c.head.opcode != static_cast<uint32_t>(wire::Opcode::download)) report_.await_borrowed();  // a download changes nothing
  ++counts_.commands;
  const bool timed = timing_ && is_work(c.head.opcode);
  const uint64_t begin = timed ? device().timestamp(0) : 0;
  const bool meant = meaning_.calls_are_meant() && is_work(c.head.opcode);
  const auto meant_begin = meant ? Clock::now() : Clock::time_point{};
  Failure f = dispatch(c);
  if (meant) meaning_.called(since(meant_begin));
  if (timed) timings_.push_back({c.ticket, begin, device().timestamp(0)});
  if (f.code && f.error_class == ErrorClass::lost) {
    ended_ = f.operation + ": " + f.text;
    return false;
  }
  executed_ = c.ticket;
  bool failed = f.code != 0, call = c.head.flags & wire::kFlagCall;
  conclude(c, std::move(f));
  if (call || report_.full() || timings_.size() >= kTimingsMax || (failed && !sticky_)) flush_report();
  return true;
}

bool Session::execute(Batch& batch) {
  auto reported = batch_begun_ = Clock::now();
  ++counts_.frames;
  counts_.bytes += batch.bytes;
  std::vector<std::span<const std::byte>> bulk;
  for (size_t i = 2; i < batch.message.parts.size(); i++) bulk.push_back(batch.message.part(i));
  bool alive = true;
  for (uint32_t i = batch.skip; alive && i < batch.records.size(); i++) {
    const wire::Record& r = batch.records[i];
    alive = step({batch.header.first_ticket + i, r.head, r.payload, std::span(bulk).subspan(r.bulk_first, r.head.bulk)});
    if ((i & 15) == 15 && Clock::now() - reported > kReportAgeMax) {
      flush_report();
      reported = Clock::now();
    }
  }
  flush_report();
  counts_.execute_nanoseconds += since(batch_begun_);
  return alive;
}

}  // namespace djinn::server

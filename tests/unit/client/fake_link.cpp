// See fake_link.hpp.
#include "tests/unit/client/fake_link.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <thread>

namespace djinn::test {

using wire::Opcode;

namespace {
constexpr int kInvalidValue = 1, kIllegalAddress = 700, kNotSupported = 801;

void release(const djinn_part& p) {
  if (p.release) p.release(const_cast<void*>(p.data), p.hint);
}
uint64_t bytes_of(const Sent& s) {
  uint64_t n = sizeof s.head + s.payload.size();
  for (auto& p : s.parts) n += p.size;
  return n;
}
}  // namespace

FakeLink::~FakeLink() {
  for (auto& s : waiting_)
    for (auto& p : s.parts) release(p);
}

void FakeLink::complain(std::string what) {
  std::lock_guard lock(mutex_);
  complaints_.push_back(std::move(what));
}

// A session begins with nothing, also after another one.
void FakeLink::begin_session() {
  std::scoped_lock lock(deliver_, mutex_);
  lost_ = closed = false;
  next_ticket_ = 1;
  executed_ = reports_ = 0;
  granules_.clear();
}

bool FakeLink::take_frame(std::span<const std::byte> frame, std::span<const djinn_part> bulk) {
  std::lock_guard lock(mutex_);
  wire::FrameHeader h;
  std::vector<wire::Record> records;
  auto e = wire::parse_frame(frame, bulk.size(), h, records);
  if (e != wire::FrameError::none) complaints_.push_back("frame: " + std::string(wire::name(e)));
  if (lost_ || e != wire::FrameError::none) {
    for (auto& p : bulk) release(p);
    return !lost_;
  }
  if (h.first_ticket != next_ticket_)
    complaints_.push_back("first ticket " + std::to_string(h.first_ticket) + " instead of " + std::to_string(next_ticket_));
  frames_.push_back(h);
  for (auto& r : records) {
    Sent s{r.head, next_ticket_++, {r.payload.begin(), r.payload.end()}, {}};
    auto parts = bulk.subspan(r.bulk_first, r.head.bulk);
    s.parts.assign(parts.begin(), parts.end());
    bytes_under_way_ += bytes_of(s);
    seen_.push_back(s);
    waiting_.push_back(std::move(s));
  }
  most_tickets_ = std::max<uint64_t>(most_tickets_, next_ticket_ - 1 - executed_);
  most_bytes_ = std::max(most_bytes_.load(), bytes_under_way_);
  return true;
}

bool FakeLink::step(size_t records) {
  std::lock_guard deliver(deliver_);
  std::deque<Sent> now;
  {
    std::lock_guard lock(mutex_);
    for (; records && !waiting_.empty(); --records) {
      now.push_back(std::move(waiting_.front()));
      waiting_.pop_front();
    }
  }
  if (now.empty()) return false;
  for (Sent& s : now) {
    execute(s);
    for (auto& p : s.parts) release(p);
    std::lock_guard lock(mutex_);
    bytes_under_way_ -= bytes_of(s);
    executed_ = s.ticket;
  }
  wire::FrameHeader h;
  h.kind = wire::FrameKind::report;
  h.ack = executed_;
  h.report = ++reports_;
  h.count = report_count_;
  h.length = static_cast<uint32_t>(report_records_.size());
  h.bulk = static_cast<uint32_t>(report_bulk_.size());
  std::vector<std::byte> frame(sizeof h);
  std::memcpy(frame.data(), &h, sizeof h);
  frame.insert(frame.end(), report_records_.begin(), report_records_.end());
  std::vector<djinn_part> parts;
  for (auto& b : report_bulk_) parts.push_back({b.data(), b.size(), nullptr, nullptr});
  events_.on_frame(events_.self, frame.data(), frame.size(), parts.data(), parts.size());
  report_records_.clear();
  report_bulk_.clear();
  report_count_ = 0;
  return true;
}

template <class Fixed>
void FakeLink::report(wire::ReportOpcode opcode, const Fixed& fixed, std::span<const std::byte> rest, std::vector<std::vector<std::byte>> rows) {
  wire::RecordHeader h;
  h.opcode = static_cast<uint32_t>(opcode);
  h.bulk = static_cast<uint16_t>(rows.size());
  h.size = static_cast<uint32_t>(sizeof fixed + wire::align8(rest.size()));
  wire::Writer w(report_records_);
  w.put(h);
  w.put(fixed);
  if (!rest.empty()) std::memcpy(w.grow(wire::align8(rest.size())), rest.data(), rest.size());
  for (auto& r : rows) report_bulk_.push_back(std::move(r));
  ++report_count_;
}

// As server/session concludes: a failed call says so in its reply, a failed post in an error record.
void FakeLink::execute(Sent& s) {
  std::vector<std::byte> answer;
  std::vector<std::vector<std::byte>> rows;
  Failure f;
  {
    std::lock_guard lock(mutex_);
    auto& scripted = failures_[s.opcode()];
    if (!scripted.empty()) {
      f = scripted.front();
      scripted.pop_front();
    }
  }
  if (!f.code) f = dispatch(s, answer, rows);
  std::vector<std::byte> words;
  wire::Writer w(words);
  w.put_string(f.operation);
  w.put_string(f.text);
  if (s.head.flags & wire::kFlagCall) {
    wire::Reply reply{s.ticket, f.code, f.code ? static_cast<uint32_t>(f.error_class) : 0};
    report(wire::ReportOpcode::reply, reply, f.code ? words : answer, f.code ? std::vector<std::vector<std::byte>>{} : rows);
  } else if (f.code) {
    report(wire::ReportOpcode::error, wire::Error{s.ticket, f.code, f.error_class}, words);
  } else if (s.opcode() == Opcode::push_download) {
    report(wire::ReportOpcode::pushed, wire::Pushed{s.ticket}, {}, rows);
  }
  if (timing_ && (s.opcode() == Opcode::fill || s.opcode() == Opcode::copy || s.opcode() == Opcode::op_run)) {
    uint64_t begin = clock_ += 1000;
    report(wire::ReportOpcode::timings, wire::Timing{s.ticket, begin, clock_ += 1000}, {});
  }
}

Failure FakeLink::dispatch(Sent& s, std::vector<std::byte>& answer, std::vector<std::vector<std::byte>>& rows) {
  wire::Writer w(answer);
  switch (s.opcode()) {
    case Opcode::map_memory:
    case Opcode::unmap_memory: {
      auto m = s.as<wire::MapMemory>();
      if (!m.size || m.address % wire::kGranule || m.size % wire::kGranule) complain("mapping that is not granules");
      for (uint64_t a = m.address; a < m.address + m.size; a += wire::kGranule) {
        bool changed = s.opcode() == Opcode::map_memory ? granules_.try_emplace(a).second : granules_.erase(a) != 0;
        if (!changed) complain("granule mapped twice or unmapped twice");
      }
      for (size_t d = 0; d < devices; d++)
        if (mapped_of(d) > leases_[d]) complain("mapped more than the lease");
      return {};
    }
    case Opcode::memory_create:
    case Opcode::memory_release:
    case Opcode::memory_map:
    case Opcode::memory_unmap:
    case Opcode::memory_access:
    case Opcode::memory_unshare: return {};
    case Opcode::memory_share:
      if (auto [i, isnew] = shared_.try_emplace(s.as<wire::MemoryShare>().secret, s.as<wire::MemoryShare>().size); !isnew) complain("secret taken");
      return {};
    case Opcode::memory_import: {
      auto m = s.as<wire::MemoryImport>();
      auto i = shared_.find(m.secret);
      if (i == shared_.end()) return {400, wire::ErrorClass::refused, "memory_import", "not shared"};
      if (i->second != m.size) complain("imported with another size");
      return {};
    }
    case Opcode::lease: {
      auto [device, bytes] = s.as<wire::Lease>();
      w.put(wire::LeaseReply{leases_.at(device) = std::max(std::min(bytes, memory_total), mapped_of(device))});
      return {};
    }
    case Opcode::timings:
      timing_ = s.as<wire::Timings>().on != 0;
      w.put(wire::TimingsReply{clock_ += 1000});
      return {};
    case Opcode::memory_info: w.put(wire::MemoryInfo{memory_total - mapped_of(s.as<wire::DeviceIndex>().device), memory_total, 0, 0}); return {};
    case Opcode::upload:
    case Opcode::download:
    case Opcode::push_download:
    case Opcode::copy:
    case Opcode::fill: return move_bytes(s, rows);
    case Opcode::stream_create:
      if (!streams_.insert(s.as<wire::StreamCreate>().id).second) complain("stream id taken");
      return {};
    case Opcode::stream_destroy:
      if (!streams_.erase(s.as<wire::Handle>().id)) complain("unknown stream destroyed");
      return {};
    case Opcode::event_record: {
      auto e = s.as<wire::EventRecord>();
      if (!streams_.count(e.stream)) complain("event recorded on an unknown stream");
      if (e.timed) report(wire::ReportOpcode::event_done, wire::EventDone{e.event, s.ticket, clock_ += 1'000'000}, {});
      return {};
    }
    case Opcode::stream_wait:
    case Opcode::event_destroy:
    case Opcode::synchronize: return {};
    case Opcode::graph_add: {
      wire::Reader r(s.payload);
      auto m = r.get<wire::GraphAdd>();
      Sent kept;
      kept.head.opcode = m.opcode;
      kept.head.size = m.size;
      const std::byte* p = r.take(m.size);
      if (!p || !r.finished()) return complain("graph_add of another size than it says"), Failure{kInvalidValue, {}, "graph_add", "malformed"};
      kept.payload.assign(p, p + m.size);
      graphs_[m.graph].push_back(std::move(kept));
      return {};
    }
    case Opcode::graph_launch: {
      auto m = s.as<wire::GraphLaunch>();
      auto g = graphs_.find(m.graph);
      if (g == graphs_.end() || m.first + m.count > g->second.size()) return complain("launch of what no graph has"), Failure{};
      if (!streams_.count(m.stream)) complain("graph launched on an unknown stream");
      for (uint64_t i = m.first; i < m.first + m.count; i++) {
        g->second[i].ticket = s.ticket;
        if (Failure f = dispatch(g->second[i], answer, rows); f.code) return f;
      }
      return {};
    }
    case Opcode::graph_destroy:
      if (!graphs_.erase(s.as<wire::Handle>().id)) complain("unknown graph destroyed");
      return {};
    case Opcode::reduce:
    case Opcode::module_load:
    case Opcode::module_unload:
    case Opcode::kernel_get:
    case Opcode::launch:
    case Opcode::op_define:
    case Opcode::tensor_define:
    case Opcode::tensor_forget:
    case Opcode::op_run:
    case Opcode::op_take:
    case Opcode::op_drop:
    case Opcode::scope:
    case Opcode::meaning_context:
    case Opcode::meaning_step:
    case Opcode::meaning_residency:
    case Opcode::meaning_memory:
    case Opcode::meaning_op:
    case Opcode::meaning_name: return {};
    case Opcode::op_query: answer = s.payload; return {};  // an echo: what the hook's call sends comes back
    case Opcode::op_call: {
      std::lock_guard lock(mutex_);
      auto& scripted = answers_[s.opcode()];
      if (scripted.empty()) break;
      answer = std::move(scripted.front());
      scripted.pop_front();
      return {};
    }
    case Opcode::counters: break;
  }
  return {kNotSupported, wire::ErrorClass::refused, "opcode", "not known here"};
}

// Under `deliver_`, as everything of the worker.
uint64_t FakeLink::mapped_of(size_t device) {
  uint64_t granules = 0;
  for (auto& [address, bytes] : granules_) granules += ranges_.device_of(address) == device;
  return granules * wire::kGranule;
}

bool FakeLink::live(uint64_t address, uint64_t pitch, uint64_t width, uint64_t height) {
  uint64_t last = address + pitch * (height - 1) + width - 1;
  for (uint64_t g = address / wire::kGranule; g <= last / wire::kGranule; g++)
    if (!granules_.count(g * wire::kGranule)) return false;
  return true;
}

void FakeLink::write(uint64_t address, const std::byte* from, size_t n) {
  while (n) {
    uint64_t offset = address % wire::kGranule, part = std::min<uint64_t>(n, wire::kGranule - offset);
    auto& g = granules_[address - offset];
    if (g.empty()) g.resize(wire::kGranule);
    std::memcpy(g.data() + offset, from, part);
    address += part, from += part, n -= part;
  }
}

void FakeLink::read(uint64_t address, std::byte* to, size_t n) {
  while (n) {
    uint64_t offset = address % wire::kGranule, part = std::min<uint64_t>(n, wire::kGranule - offset);
    auto& g = granules_[address - offset];
    if (g.empty()) std::memset(to, 0, part);
    else std::memcpy(to, g.data() + offset, part);
    address += part, to += part, n -= part;
  }
}

Failure FakeLink::move_bytes(Sent& s, std::vector<std::vector<std::byte>>& rows) {
  Failure illegal{kIllegalAddress, wire::ErrorClass::sticky, "copy", "outside live memory"};
  if (s.opcode() == Opcode::upload) {
    wire::Reader r(s.payload);
    auto u = r.get<wire::Upload>();
    std::vector<std::byte> packed;
    if (s.parts.empty()) {
      auto b = r.get_bytes(wire::kInlineBytesMax);
      packed.assign(b.begin(), b.end());
    }
    for (auto& p : s.parts) packed.insert(packed.end(), static_cast<const std::byte*>(p.data), static_cast<const std::byte*>(p.data) + p.size);
    if (!r.finished() || packed.size() != u.width * u.height)
      return complain("upload of another size than it says"), Failure{kInvalidValue, {}, "upload", "malformed"};
    if (!live(u.address, u.pitch, u.width, u.height)) return illegal;
    for (uint64_t row = 0; row < u.height; row++) write(u.address + row * u.pitch, packed.data() + row * u.width, u.width);
  } else if (s.opcode() == Opcode::fill) {
    auto f = s.as<wire::Fill>();
    if (!live(f.address, f.pitch, f.width, f.height)) return illegal;
    std::vector<std::byte> line(f.width);
    for (size_t i = 0; i < f.width; i += f.element) std::memcpy(line.data() + i, &f.value, f.element);
    for (uint64_t row = 0; row < f.height; row++) write(f.address + row * f.pitch, line.data(), f.width);
  } else if (s.opcode() == Opcode::copy) {
    auto c = s.as<wire::Copy>();
    if (!live(c.source, c.source_pitch, c.width, c.height) || !live(c.destination, c.destination_pitch, c.width, c.height)) return illegal;
    std::vector<std::byte> line(c.width);
    for (uint64_t row = 0; row < c.height; row++) {
      read(c.source + row * c.source_pitch, line.data(), c.width);
      write(c.destination + row * c.destination_pitch, line.data(), c.width);
    }
  } else {
    auto d = s.as<wire::Download>();
    if (!live(d.address, d.pitch, d.width, d.height)) return illegal;
    std::vector<std::byte> packed(d.width * d.height);
    for (uint64_t row = 0; row < d.height; row++) read(d.address + row * d.pitch, packed.data() + row * d.width, d.width);
    // two parts where there are enough bytes, cut at an odd place: the client must not rely on rows in whole parts
    size_t cut = packed.size() > 3 ? packed.size() / 2 + 1 : packed.size();
    rows.emplace_back(packed.begin(), packed.begin() + static_cast<ptrdiff_t>(cut));
    if (cut < packed.size()) rows.emplace_back(packed.begin() + static_cast<ptrdiff_t>(cut), packed.end());
  }
  return {};
}

void FakeLink::fail_next(Opcode opcode, Failure f) {
  std::lock_guard lock(mutex_);
  failures_[opcode].push_back(std::move(f));
}

void FakeLink::answer_next(Opcode opcode, std::vector<std::byte> answer) {
  std::lock_guard lock(mutex_);
  answers_[opcode].push_back(std::move(answer));
}

void FakeLink::lose(const char* reason) {
  {
    std::lock_guard lock(mutex_);
    lost_ = true;
  }
  events_.on_lost(events_.self, reason);
}

std::vector<Sent> FakeLink::sent() {
  std::lock_guard lock(mutex_);
  return seen_;
}
std::vector<wire::FrameHeader> FakeLink::frames() {
  std::lock_guard lock(mutex_);
  return frames_;
}
size_t FakeLink::waiting() {
  std::lock_guard lock(mutex_);
  return waiting_.size();
}
size_t FakeLink::mapped() {
  std::lock_guard deliver(deliver_);
  return granules_.size() * wire::kGranule;
}
std::vector<std::string> FakeLink::complaints() {
  std::lock_guard lock(mutex_);
  return complaints_;
}
void FakeLink::clear() {
  std::lock_guard lock(mutex_);
  seen_.clear();
  frames_.clear();
}

// ---- the table ----

FakeLink& the_link();

djinn_link* fake_open(const djinn_link_config* config, const djinn_link_events* events, djinn_link_opened* o, char* error, size_t size) {
  FakeLink& l = the_link();
  if (!l.refuse_open.empty() || !config->range_count) {
    snprintf(error, size, "%s", l.refuse_open.empty() ? "no range offered" : l.refuse_open.c_str());
    return nullptr;
  }
  l.attach(*events);
  l.begin_session();
  static const char* const ops[] = {"aten::add.Tensor", "aten::mm"};
  *o = {};
  o->session = 7;
  o->incarnation = 1;
  o->range_address = config->ranges[0];
  o->range_size = std::min<uint64_t>(config->ranges[1], 4ull << 30);
  l.ranges_ = {o->range_address, o->range_size, l.devices};
  l.leases_.assign(l.devices, l.lease_at_open);
  static std::vector<djinn_link_device> devices;
  devices.assign(l.devices, {"Fake device", l.memory_total, l.lease_at_open, 12, 0, 24, 1536, 2'000'000, 8u << 20});
  o->devices = devices.data();
  o->device_count = devices.size();
  o->worker_pid = 124;
  o->server_pid = 123;
  o->level = config->level ? config->level : l.level;
  o->threads = 1;
  o->server_host = "nowhere";
  o->server_version = "0";
  o->torch = "";
  o->endpoint = "fake";
  o->ops = ops;
  o->op_count = std::size(ops);
  return l.handle();
}

int fake_send(djinn_link* l, const void* frame, size_t size, const djinn_part* bulk, size_t count) {
  return reinterpret_cast<FakeLink*>(l)->take_frame({static_cast<const std::byte*>(frame), size}, {bulk, count});
}

static int fake_drive(djinn_link* l, unsigned) {
  auto& link = *reinterpret_cast<FakeLink*>(l);
  if (link.automatic && link.step()) return 1;
  std::this_thread::yield();
  return 0;
}

static void fake_stats(djinn_link*, djinn_link_stats* s) { *s = {}; }
static void fake_close(djinn_link* l, unsigned) { reinterpret_cast<FakeLink*>(l)->closed = true; }
static void fake_abandon(djinn_link* l) { reinterpret_cast<FakeLink*>(l)->abandoned = true; }

const djinn_link_api* FakeLink::api() {
  static const djinn_link_api table = {DJINN_LINK_VERSION, sizeof(djinn_link_api), fake_open, fake_send, fake_drive, fake_stats, fake_close,
                                       fake_abandon};
  return &table;
}

// Never destroyed: the client's exit handler closes it.
FakeLink& the_link() {
  static FakeLink* l = new FakeLink;
  return *l;
}

}  // namespace djinn::test

extern "C" __attribute__((visibility("default"))) const djinn_link_api* djinn_link_get(uint32_t version) {
  return version == DJINN_LINK_VERSION ? djinn::test::FakeLink::api() : nullptr;
}
extern "C" __attribute__((visibility("default"))) djinn::test::FakeLink* fake_link_instance() { return &djinn::test::the_link(); }

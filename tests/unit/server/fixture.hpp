// A session over a device that counts instead of computing, for tests that call the decoders directly.
#pragma once
#include <map>
#include <set>

#include "server/decode/decode.hpp"
#include "server/execute/blas.hpp"
#include "tests/unit/catch.hpp"

namespace djinn::server::test {

using wire::Opcode;

constexpr uint64_t kBase = 0x100000000000, kLive = 4 * wire::kGranule;
constexpr uint64_t kEach = 1ull << 30;  // addresses of each of two devices

// Live: [kBase, kBase + kLive).
class CountingDevice final : public Device {
 public:
  wire::control::Device describe() const override { return {"counting", 1ull << 30, 0, 12, 0, 4, 1536, 1, 1}; }
  bool reserve(uint64_t, uint64_t) override { return true; }
  std::string map(uint64_t address, uint64_t size) override { return change(address, size, true); }
  std::string unmap(uint64_t address, uint64_t size) override { return change(address, size, false); }
  std::string change(uint64_t address, uint64_t size, bool up) {
    ++calls;
    for (uint64_t a = address; a < address + size; a += wire::kGranule)
      if (granules.count(a) == up || a % wire::kGranule || size % wire::kGranule) return "not so";
    for (uint64_t a = address; a < address + size; a += wire::kGranule) up ? void(granules.insert(a)) : void(granules.erase(a));
    return "";
  }
  std::string create(const wire::MemoryCreate& m) override {
    ++calls;
    return physical.try_emplace(m.handle, Freed{m.device, m.size}).second && m.size % wire::kGranule == 0 ? "" : "not so";
  }
  std::string release(uint64_t handle, Freed& freed) override {
    ++calls;
    auto i = physical.find(handle);
    if (i == physical.end()) return "not so";
    freed = i->second;
    physical.erase(i);
    return "";
  }
  std::string map(const wire::MemoryMap&) override { return ++calls, ""; }
  std::string unmap_virtual(uint64_t, uint64_t, Freed&) override { return ++calls, ""; }
  std::string access(const wire::MemoryAccess&) override { return ++calls, ""; }
  const uint64_t* device_of(uint64_t handle) const override {
    auto i = physical.find(handle);
    return i == physical.end() ? nullptr : &i->second.device;
  }
  int file() const override { return -1; }
  std::string locate(const wire::MemoryShare& m, FilePart& part) const override { return part = {m.address, m.size}, ""; }
  std::string import(const wire::MemoryImport& m, Descriptor, FilePart part) override {
    ++calls;
    return physical.try_emplace(m.handle, Freed{m.device, 0}).second && part.size == m.size ? "" : "not so";
  }
  bool live(uint64_t a, uint64_t n) const override { return !n || (a >= kBase && a - kBase <= kLive && n <= kLive - (a - kBase)); }
  bool live(uint64_t a, uint64_t pitch, uint64_t width, uint64_t height) const override {
    unsigned __int128 extent = height > 1 ? static_cast<unsigned __int128>(pitch) * (height - 1) + width : width;
    return !width || !height || (extent <= kLive && live(a, static_cast<uint64_t>(extent)));
  }
  uint64_t memory_epoch() const override { return 1; }
  uint64_t mapped() const override { return granules.size() * wire::kGranule; }
  uint64_t peak() const override { return mapped(); }
  void upload(const wire::Upload&, std::span<const std::byte> host, uint64_t) override { ++calls, bytes += host.size(); }
  void download(const wire::Download&, uint64_t, std::span<std::byte> host) override { ++calls, bytes += host.size(); }
  const std::byte* host_view(uint64_t, uint64_t) override { return nullptr; }
  const Blas& blas() const override { return cpu_blas(); }
  void copy(const wire::Copy&) override { ++calls; }
  void fill(const wire::Fill&) override { ++calls; }
  void reduce(const wire::Reduce&, std::span<const uint64_t>) override { ++calls; }
  uint64_t timestamp(uint64_t) override { return ++calls; }
  Failure launch(const std::string&, const wire::Launch&, std::span<const std::byte> p) override { return ++calls, bytes += p.size(), Failure{}; }
  uint64_t calls = 0, bytes = 0;
  std::set<uint64_t> granules;
  std::map<uint64_t, Freed> physical;  // by handle
};

struct Fixture {
  CountingDevice device;
  Session session;
  explicit Fixture(wire::control::Level level = wire::control::Level::call, bool checks = false)
      : session([&, this] {
          Session::Setup s;
          s.opened.session = 1;
          s.opened.level = level;
          s.opened.checks = checks;
          s.opened.range = {kBase, 2 * kEach};
          s.opened.devices.resize(2);
          for (auto& d : s.opened.devices) d.lease_bytes = 64 << 20;
          s.device = &device;
          s.send = [](std::span<const std::byte>, std::span<const djinn_part> bulk) {
            for (auto& p : bulk)
              if (p.release) p.release(const_cast<void*>(p.data), p.hint);
            return true;
          };
          s.ask_broker = [this](const ChannelMessage& m, ChannelKind answer) { return ask_broker(m, answer); };
          s.no_executor = "there is none in this test";
          return s;
        }()) {
    session.streams.insert(3);
    device.physical[4] = {1, 0};
    session.modules[5].kernels.insert(6);
    session.kernels[6].module = 5;
  }
  ~Fixture() { drop_answer(); }
  // What a broker would say.
  std::map<wire::Secret, std::pair<uint64_t, uint64_t>> shares{{{1, 2}, {kBase, wire::kGranule}}};  // offset, size
  std::optional<ChannelMessage> ask_broker(const ChannelMessage& m, ChannelKind kind) {
    ChannelMessage answer;
    answer.kind = kind;
    answer.number = m.number;
    if (m.kind == ChannelKind::share && !shares.try_emplace(m.secret, m.offset, m.size).second) answer.text = "taken";
    if (m.kind == ChannelKind::unshare && !shares.erase(m.secret)) answer.text = "nothing";
    if (m.kind == ChannelKind::import_wanted) {
      if (auto i = shares.find(m.secret); i == shares.end()) answer.text = "nothing";
      else std::tie(answer.offset, answer.size) = i->second;
    }
    return answer;
  }
  void drop_answer() {
    for (auto& p : session.answer_bulk) p.release(const_cast<void*>(p.data), p.hint);
    session.answer_bulk.clear();
    session.answer.clear();
  }
  Failure run(Opcode opcode, std::span<const std::byte> payload, std::span<const std::span<const std::byte>> bulk = {},
              uint16_t flags = wire::kFlagCall) {
    drop_answer();
    wire::RecordHeader head;
    head.opcode = static_cast<uint32_t>(opcode);
    head.flags = flags;
    head.bulk = static_cast<uint16_t>(bulk.size());
    head.size = static_cast<uint32_t>(payload.size());
    auto f = decode::find(head.opcode);
    REQUIRE(f);
    return f(session, {1, head, payload, bulk});
  }
  // As a batch of its own, with all that a session does around a command.
  bool execute(Opcode opcode, std::span<const std::byte> payload) {
    Batch batch;
    batch.header.first_ticket = ++tickets;
    wire::RecordHeader head;
    head.opcode = static_cast<uint32_t>(opcode);
    head.size = static_cast<uint32_t>(payload.size());
    batch.records.push_back({head, payload});
    return session.execute(batch);
  }
  uint64_t tickets = 0;
};

}  // namespace djinn::server::test

// Every command through its decoder, on a device that counts instead of computing: right payloads reach it as written, each prefix and each excess of
// one is refused, extents outside live memory never reach it, and noise crashes nothing.
#include <array>
#include <cstring>
#include <random>

#include "tests/unit/server/fixture.hpp"

using namespace djinn;
using namespace djinn::server;
using namespace djinn::server::test;
using wire::ErrorClass;

namespace {

struct Sample {
  Opcode opcode;
  std::vector<std::byte> payload;
};

template <class Fixed>
Sample fixed(Opcode o, const Fixed& f) {
  Sample s{o, {}};
  wire::Writer(s.payload).put(f);
  return s;
}

std::vector<Sample> samples() {
  std::vector<Sample> v = {
      fixed(Opcode::map_memory, wire::MapMemory{kBase, wire::kGranule}),
      fixed(Opcode::unmap_memory, wire::MapMemory{kBase, wire::kGranule}),
      fixed(Opcode::lease, wire::Lease{1, 1 << 20}),
      fixed(Opcode::memory_info, wire::DeviceIndex{1}),
      fixed(Opcode::memory_create, wire::MemoryCreate{2, wire::kGranule, 0}),
      fixed(Opcode::memory_map, wire::MemoryMap{kBase + kEach, wire::kGranule, 4, 0}),
      fixed(Opcode::memory_access, wire::MemoryAccess{kBase + kEach, wire::kGranule, 1}),
      fixed(Opcode::memory_unmap, wire::MapMemory{kBase + kEach, wire::kGranule}),
      fixed(Opcode::memory_share, wire::MemoryShare{{3, 4}, 0, kBase, wire::kGranule}),
      fixed(Opcode::memory_import, wire::MemoryImport{{1, 2}, 11, wire::kGranule, 0}),
      fixed(Opcode::memory_unshare, wire::Secret{1, 2}),
      fixed(Opcode::memory_release, wire::Handle{4}),
      fixed(Opcode::upload, wire::Upload{0, kBase, 20, 20, 1}),
      fixed(Opcode::download, wire::Download{3, kBase, 64, 20, 3}),
      fixed(Opcode::push_download, wire::Download{0, kBase, 64, 20, 3}),
      fixed(Opcode::copy, wire::Copy{0, kBase, 64, kBase + 4096, 32, 20, 3}),
      fixed(Opcode::fill, wire::Fill{0, kBase, 64, 20, 3, 9, 4}),
      fixed(Opcode::reduce, wire::Reduce{0, kBase, 10, wire::ReduceType::float32, wire::ReduceOperation::sum}),
      fixed(Opcode::stream_create, wire::StreamCreate{9, 0, 0}),
      fixed(Opcode::stream_destroy, wire::Handle{3}),
      fixed(Opcode::stream_wait, wire::StreamWait{0, 8}),
      fixed(Opcode::event_record, wire::EventRecord{8, 0, 1}),
      fixed(Opcode::event_destroy, wire::Handle{8}),
      fixed(Opcode::synchronize, wire::Handle{wire::kAllStreams}),
      fixed(Opcode::module_load, wire::ModuleLoad{7, 0, {0, 0}}),
      fixed(Opcode::module_unload, wire::Handle{5}),
      fixed(Opcode::kernel_get, wire::KernelGet{10, 5}),
      fixed(Opcode::launch, wire::Launch{6, 0, {1, 2, 3}, {32, 2, 1}, 0, 0}),
      {Opcode::counters, {}},
      fixed(Opcode::timings, wire::Timings{1}),
  };
  for (Sample& s : v) {
    if (s.opcode == Opcode::upload) wire::Writer(s.payload).put_bytes("01234567890123456789", 20);
    if (s.opcode == Opcode::reduce) wire::Writer(s.payload).put_array(std::span<const uint64_t>(std::array{kBase, kBase + 4096}));
    if (s.opcode == Opcode::kernel_get) wire::Writer(s.payload).put_string("name");
    if (s.opcode == Opcode::launch) wire::Writer(s.payload).put_bytes("0123456789", 10);
  }
  return v;
}

}  // namespace

TEST_CASE("decode: every command is accepted as written; every prefix, every excess and stray bulk ends the session") {
  for (const Sample& s : samples()) {
    INFO("opcode " << std::hex << static_cast<uint32_t>(s.opcode));
    Fixture f;
    for (size_t n = 0; n < s.payload.size(); n += 8) {
      Failure bad = f.run(s.opcode, std::span(s.payload).first(n));
      CHECK(bad.error_class == ErrorClass::lost);
      CHECK(bad.code != 0);
    }
    auto longer = s.payload;
    longer.resize(longer.size() + 8);
    CHECK(f.run(s.opcode, longer).error_class == ErrorClass::lost);
    std::vector<std::byte> stray(8);
    std::span<const std::byte> parts[] = {stray};
    CHECK(f.run(s.opcode, s.payload, parts).error_class == ErrorClass::lost);
    CHECK(f.device.calls == 0);
    if (s.opcode == Opcode::unmap_memory) REQUIRE_FALSE(f.run(Opcode::map_memory, s.payload));
    Failure good = f.run(s.opcode, s.payload);
    INFO(good.operation << ": " << good.text);
    CHECK(good.code == 0);
  }
}

TEST_CASE("decode: extents outside live memory are a sticky illegal address and never reach the device") {
  Fixture f;
  uint64_t end = kBase + kLive;
  auto illegal = [&](const Sample& s) {
    Failure e = f.run(s.opcode, s.payload);
    CHECK(e.code == cuda_error::illegal_address);
    CHECK(e.error_class == ErrorClass::sticky);
  };
  for (uint64_t a : {uint64_t{0}, kBase - 1, end - 19, end, ~uint64_t{0}}) {
    illegal(fixed(Opcode::download, wire::Download{0, a, 0, 20, 1}));
    illegal(fixed(Opcode::push_download, wire::Download{0, a, 0, 20, 1}));
    illegal(fixed(Opcode::copy, wire::Copy{0, a, 0, kBase, 0, 20, 1}));
    illegal(fixed(Opcode::copy, wire::Copy{0, kBase, 0, a, 0, 20, 1}));
    illegal(fixed(Opcode::fill, wire::Fill{0, a, 0, 20, 1, 0, 1}));
    auto u = fixed(Opcode::upload, wire::Upload{0, a, 20, 20, 1});
    wire::Writer(u.payload).put_bytes("01234567890123456789", 20);
    illegal(u);
  }
  illegal(fixed(Opcode::download, wire::Download{0, kBase, ~0ull / 2, 8, 5}));
  illegal(fixed(Opcode::fill, wire::Fill{0, kBase, 1 << 20, 8, 1 << 20, 0, 1}));
  illegal(fixed(Opcode::copy, wire::Copy{0, kBase, kLive, kBase, 8, 8, 2}));
  CHECK(f.device.calls == 0);
}

TEST_CASE("decode: sizes that are no sizes") {
  Fixture f;
  auto u = fixed(Opcode::upload, wire::Upload{0, kBase, 1ull << 32, 1ull << 32, 1ull << 32});
  wire::Writer(u.payload).put_bytes("", 0);
  CHECK(f.run(Opcode::upload, u.payload).error_class == ErrorClass::lost);  // 2^64 bytes are 0 bytes to a multiplication
  u = fixed(Opcode::upload, wire::Upload{0, kBase, 8, 8, 2});
  wire::Writer(u.payload).put_bytes("01234567", 8);
  CHECK(f.run(Opcode::upload, u.payload).error_class == ErrorClass::lost);
  auto d = fixed(Opcode::download, wire::Download{0, kBase, 0, 0, ~0ull});
  CHECK(f.run(Opcode::download, d.payload).code == 0);
  CHECK(f.run(Opcode::download, fixed(Opcode::download, wire::Download{0, kBase, 0, 8, 1}).payload, {}, 0).code == cuda_error::invalid_value);
  for (uint32_t element : {0u, 3u, 8u})
    CHECK(f.run(Opcode::fill, fixed(Opcode::fill, wire::Fill{0, kBase, 0, 24, 1, 0, element}).payload).code == cuda_error::invalid_value);
  CHECK(f.run(Opcode::fill, fixed(Opcode::fill, wire::Fill{0, kBase, 0, 6, 1, 0, 4}).payload).code == cuda_error::invalid_value);
  CHECK(f.run(Opcode::fill, fixed(Opcode::fill, wire::Fill{0, kBase + 2, 0, 8, 1, 0, 4}).payload).code == cuda_error::invalid_value);
}

TEST_CASE("decode: handles must be known, and new ones must be new") {
  Fixture f;
  auto code = [&](const Sample& s) { return f.run(s.opcode, s.payload).code; };
  const int32_t unknown = cuda_error::invalid_resource_handle, invalid = cuda_error::invalid_value;
  CHECK(code(fixed(Opcode::stream_destroy, wire::Handle{77})) == unknown);
  CHECK(code(fixed(Opcode::stream_destroy, wire::Handle{0})) == unknown);
  CHECK(code(fixed(Opcode::stream_create, wire::StreamCreate{3, 0, 0})) == invalid);
  CHECK(code(fixed(Opcode::stream_create, wire::StreamCreate{0, 0, 0})) == invalid);
  CHECK(code(fixed(Opcode::stream_create, wire::StreamCreate{wire::kAllStreams, 0, 0})) == invalid);
  CHECK(code(fixed(Opcode::synchronize, wire::Handle{77})) == unknown);
  CHECK(code(fixed(Opcode::stream_wait, wire::StreamWait{77, 1})) == unknown);
  CHECK(code(fixed(Opcode::event_record, wire::EventRecord{1, 77, 0})) == unknown);
  CHECK(code(fixed(Opcode::event_record, wire::EventRecord{0, 0, 0})) == invalid);
  CHECK(code(fixed(Opcode::fill, wire::Fill{77, kBase, 0, 8, 1, 0, 1})) == unknown);
  CHECK(code(fixed(Opcode::module_unload, wire::Handle{77})) == unknown);
  CHECK(code(fixed(Opcode::module_load, wire::ModuleLoad{5, 0, {0, 0}})) == invalid);
  Sample k = fixed(Opcode::kernel_get, wire::KernelGet{10, 77});
  wire::Writer(k.payload).put_string("x");
  CHECK(code(k) == unknown);
  REQUIRE(code(fixed(Opcode::module_unload, wire::Handle{5})) == 0);
  Sample l = fixed(Opcode::launch, wire::Launch{6, 0, {1, 1, 1}, {1, 1, 1}, 0, 0});
  wire::Writer(l.payload).put_bytes("", 0);
  CHECK(code(l) == unknown);  // its module is gone
}

TEST_CASE("decode: launches outside CUDA's limits are refused") {
  Fixture f;
  struct Shape {
    uint32_t grid[3], block[3];
  };
  for (Shape s : {Shape{{0, 1, 1}, {1, 1, 1}}, Shape{{1, 1, 1}, {1, 0, 1}}, Shape{{1, 65536, 1}, {1, 1, 1}}, Shape{{1, 1, 1}, {2048, 1, 1}},
                  Shape{{1, 1, 1}, {1, 1, 65}}, Shape{{1, 1, 1}, {512, 4, 1}}, Shape{{0x80000000, 1, 1}, {1, 1, 1}}}) {
    Sample l = fixed(Opcode::launch, wire::Launch{6, 0, {s.grid[0], s.grid[1], s.grid[2]}, {s.block[0], s.block[1], s.block[2]}, 0, 0});
    wire::Writer(l.payload).put_bytes("", 0);
    CHECK(f.run(l.opcode, l.payload).code == cuda_error::invalid_value);
  }
  CHECK(f.device.calls == 0);
}

TEST_CASE("decode: memory within the lease only, of the device whose addresses they are") {
  Fixture f;
  auto map = [&](uint64_t address, uint64_t bytes) {
    return f.run(Opcode::map_memory, fixed(Opcode::map_memory, wire::MapMemory{address, bytes}).payload).code;
  };
  for (uint64_t at : {kBase, kBase + kEach}) {
    CHECK(map(at, (64 << 20) + wire::kGranule) == cuda_error::memory_allocation);
    CHECK(map(at, ~0ull) == cuda_error::invalid_value);
    CHECK(map(at, 60 << 20) == 0);
    CHECK(map(at + (60 << 20), 6 << 20) == cuda_error::memory_allocation);
    CHECK(map(at + (60 << 20), 4 << 20) == 0);
  }
  for (size_t device : {0u, 1u}) CHECK(f.session.holding(device).mapped == 64 << 20);
  CHECK(map(kBase + kEach - wire::kGranule, 2 * wire::kGranule) == cuda_error::invalid_value);  // of both
  CHECK(map(kBase + 2 * kEach, wire::kGranule) == cuda_error::invalid_value);                   // of neither
  CHECK(f.run(Opcode::unmap_memory, fixed(Opcode::unmap_memory, wire::MapMemory{kBase + kEach, 64 << 20}).payload).code == 0);
  CHECK(f.session.holding(0).mapped == 64 << 20);
  CHECK(f.session.holding(1).mapped == 0);
}

TEST_CASE("decode: leases and memory by device, and no device beyond the last") {
  Fixture f;
  CHECK(f.run(Opcode::lease, fixed(Opcode::lease, wire::Lease{1, 100 << 20}).payload).code == 0);
  CHECK(f.session.holding(0).lease == 64 << 20);
  CHECK(f.session.holding(1).lease == 100 << 20);
  CHECK(f.run(Opcode::lease, fixed(Opcode::lease, wire::Lease{2, 1 << 20}).payload).code == cuda_error::invalid_value);
  CHECK(f.run(Opcode::lease, fixed(Opcode::lease, wire::Lease{~0ull, 1 << 20}).payload).code == cuda_error::invalid_value);
  CHECK(f.run(Opcode::memory_info, fixed(Opcode::memory_info, wire::DeviceIndex{2}).payload).code == cuda_error::invalid_value);
}

TEST_CASE("decode: a reduction names known types, live arrays, and not more of them than there are devices") {
  Fixture f;
  auto run = [&](wire::Reduce r, std::vector<uint64_t> sources) {
    Sample s = fixed(Opcode::reduce, r);
    wire::Writer(s.payload).put_array(std::span<const uint64_t>(sources));
    return f.run(s.opcode, s.payload).code;
  };
  using enum wire::ReduceOperation;
  using Type = wire::ReduceType;
  CHECK(run({0, kBase, 10, Type::float32, sum}, {kBase, kBase + 4096}) == 0);
  CHECK(run({0, kBase, 0, Type::float32, sum}, {1 << 20}) == 0);  // nothing lies anywhere
  f.device.calls = 0;
  CHECK(run({0, kBase, 10, Type(10), sum}, {kBase}) == cuda_error::invalid_value);
  CHECK(run({0, kBase, 10, Type::float32, wire::ReduceOperation(5)}, {kBase}) == cuda_error::invalid_value);
  CHECK(run({0, kBase, 10, Type::float32, sum}, {}) == cuda_error::invalid_value);
  CHECK(run({0, kBase, ~0ull, Type::float32, sum}, {kBase}) == cuda_error::invalid_value);
  CHECK(run({0, kBase + 2, 10, Type::float32, sum}, {kBase}) == cuda_error::invalid_value);
  CHECK(run({9, kBase, 10, Type::float32, sum}, {kBase}) == cuda_error::invalid_resource_handle);
  CHECK(run({0, kBase, 10, Type::float32, sum}, {kBase, kBase + kLive - 39}) == cuda_error::illegal_address);
  CHECK(run({0, kBase + kLive, 10, Type::float32, sum}, {kBase}) == cuda_error::illegal_address);
  CHECK(run({0, kBase, 10, Type::float32, sum}, std::vector<uint64_t>(wire::kReduceSourcesMax + 1, kBase)) ==
        cuda_error::unknown);  // ends the session
  CHECK(f.device.calls == 0);
}

TEST_CASE("decode: physical memory within the lease of its device, mapped among that device's addresses only") {
  Fixture f;
  auto code = [&](Opcode o, const auto& fixed_part) { return f.run(o, fixed(o, fixed_part).payload).code; };
  CHECK(code(Opcode::memory_create, wire::MemoryCreate{9, (64 << 20) + wire::kGranule, 0}) == cuda_error::memory_allocation);
  CHECK(code(Opcode::memory_create, wire::MemoryCreate{9, ~0ull, 0}) == cuda_error::memory_allocation);
  CHECK(code(Opcode::memory_create, wire::MemoryCreate{9, wire::kGranule, 2}) == cuda_error::invalid_value);
  CHECK(f.device.calls == 0);
  REQUIRE(code(Opcode::memory_create, wire::MemoryCreate{9, 64 << 20, 0}) == 0);
  CHECK(f.session.holding(0).mapped == 64 << 20);
  CHECK(code(Opcode::map_memory, wire::MapMemory{kBase, wire::kGranule}) == cuda_error::memory_allocation);  // one lease for both kinds
  CHECK(code(Opcode::memory_map, wire::MemoryMap{kBase + kEach, wire::kGranule, 9, 0}) == cuda_error::invalid_value);
  CHECK(code(Opcode::memory_map, wire::MemoryMap{kBase + kEach - wire::kGranule, 2 * wire::kGranule, 9, 0}) == cuda_error::invalid_value);
  CHECK(code(Opcode::memory_map, wire::MemoryMap{kBase, wire::kGranule, 8, 0}) == cuda_error::invalid_resource_handle);
  CHECK(code(Opcode::memory_map, wire::MemoryMap{kBase, wire::kGranule, 9, 0}) == 0);
  CHECK(code(Opcode::memory_access, wire::MemoryAccess{kBase, wire::kGranule, 2}) == cuda_error::invalid_value);
  CHECK(code(Opcode::memory_release, wire::Handle{9}) == 0);
  CHECK(f.session.holding(0).mapped == 0);
  CHECK(code(Opcode::memory_release, wire::Handle{9}) == cuda_error::invalid_value);
}

TEST_CASE("decode: ops without an executor are refused with the reason") {
  Fixture f;
  Failure e = f.run(Opcode::op_run, std::vector<std::byte>(16));
  CHECK(e.code == cuda_error::not_supported);
  CHECK(e.text.find("there is none in this test") != std::string::npos);
}

TEST_CASE("decode: noise crashes nothing and never passes the checks") {
  std::mt19937_64 dice(11);
  auto all = samples();
  Fixture f;
  for (int i = 0; i < 200000; i++) {
    Sample s = all[dice() % all.size()];
    for (int flips = static_cast<int>(dice() % 4); flips > 0 && !s.payload.empty(); flips--)
      s.payload[dice() % s.payload.size()] = std::byte(dice() & 0xff);
    if (dice() % 8 == 0) s.payload.resize(dice() % 12 * 8);
    std::vector<std::byte> part(dice() % 64);
    std::span<const std::byte> parts[] = {part};
    f.run(s.opcode, s.payload, std::span(parts).first(dice() % 4 == 0));
    f.session.report().flush(static_cast<uint64_t>(i));
  }
  for (size_t device : {0u, 1u}) CHECK(f.session.holding(device).mapped <= f.session.holding(device).lease);
}

TEST_CASE("decode: shared memory is imported with its secret, size and device only, and not after it is withdrawn") {
  Fixture f;
  auto code = [&](Opcode o, const auto& fixed_part) { return f.run(o, fixed(o, fixed_part).payload).code; };
  CHECK(code(Opcode::memory_share, wire::MemoryShare{{5, 6}, 0, kBase + 2 * kEach, wire::kGranule}) == cuda_error::invalid_value);
  CHECK(code(Opcode::memory_share, wire::MemoryShare{{5, 6}, 77, 0, 0}) == cuda_error::invalid_resource_handle);
  REQUIRE(code(Opcode::memory_share, wire::MemoryShare{{5, 6}, 0, kBase, wire::kGranule}) == 0);
  CHECK(code(Opcode::memory_share, wire::MemoryShare{{5, 6}, 0, kBase, wire::kGranule}) == cuda_error::invalid_resource_handle);
  CHECK(code(Opcode::memory_import, wire::MemoryImport{{5, 7}, 11, wire::kGranule, 0}) == cuda_error::invalid_resource_handle);
  CHECK(code(Opcode::memory_import, wire::MemoryImport{{5, 6}, 11, 2 * wire::kGranule, 0}) == cuda_error::invalid_value);
  CHECK(code(Opcode::memory_import, wire::MemoryImport{{5, 6}, 11, wire::kGranule, 1}) == cuda_error::invalid_value);
  REQUIRE(code(Opcode::memory_import, wire::MemoryImport{{5, 6}, 11, wire::kGranule, 0}) == 0);
  CHECK(f.session.holding(0).mapped == 0);  // it is its owner's
  CHECK(code(Opcode::memory_unshare, wire::Secret{5, 6}) == 0);
  CHECK(code(Opcode::memory_import, wire::MemoryImport{{5, 6}, 12, wire::kGranule, 0}) == cuda_error::invalid_resource_handle);
}

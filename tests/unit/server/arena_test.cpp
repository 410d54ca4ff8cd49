// The CPU device's memory: what is reserved, mapped, live, and given back.
#include <sys/mman.h>

#include <cstring>
#include <memory>

#include "server/execute/cpu/arena.hpp"
#include "tests/unit/catch.hpp"

using djinn::server::Arena;
using djinn::wire::kGranule;

namespace {
// Somewhere free in this process, found by asking for it.
uint64_t free_range(uint64_t size) {
  void* p = mmap(nullptr, size + kGranule, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  REQUIRE(p != MAP_FAILED);
  munmap(p, size + kGranule);
  return (reinterpret_cast<uint64_t>(p) + kGranule - 1) / kGranule * kGranule;
}
char* at(uint64_t a) { return reinterpret_cast<char*>(a); }
}  // namespace

TEST_CASE("arena: reserves whole granules where nothing lies") {
  uint64_t size = 64 * kGranule, base = free_range(size);
  Arena a, b, c;
  CHECK_FALSE(a.reserve(base + 4096, size));
  CHECK_FALSE(a.reserve(base, size - 1));
  CHECK_FALSE(a.reserve(base, 0));
  CHECK_FALSE(a.reserve(~0ull / kGranule * kGranule, 4 * kGranule));
  REQUIRE(a.reserve(base, size));
  CHECK_FALSE(a.reserve(base + size, size));  // once
  CHECK_FALSE(b.reserve(base, size));         // taken
  CHECK_FALSE(b.reserve(base + size - kGranule, 2 * kGranule));
  CHECK(c.reserve(base + size, kGranule));
}

TEST_CASE("arena: memory is mapped once, live while it is, and zero when it comes back") {
  uint64_t size = 64 * kGranule, base = free_range(size);
  Arena a;
  REQUIRE(a.reserve(base, size));
  CHECK_FALSE(a.live(base, 1));
  REQUIRE(a.map(base + kGranule, 4 * kGranule) == "");
  CHECK(a.mapped() == 4 * kGranule);
  CHECK(a.live(base + kGranule, 4 * kGranule));
  CHECK_FALSE(a.live(base + kGranule, 4 * kGranule + 1));
  CHECK_FALSE(a.live(base + kGranule - 1, 2));
  CHECK(a.live(base, 0));
  std::memset(at(base + kGranule), 7, 4 * kGranule);
  CHECK(a.map(base + 4 * kGranule, 2 * kGranule) != "");
  CHECK(a.mapped() == 4 * kGranule);
  uint64_t epoch = a.epoch();
  REQUIRE(a.unmap(base + 2 * kGranule, kGranule) == "");
  CHECK(a.epoch() != epoch);
  CHECK_FALSE(a.live(base + kGranule, 3 * kGranule));
  CHECK(a.live(base + 3 * kGranule, 2 * kGranule));
  CHECK(a.unmap(base + 2 * kGranule, kGranule) != "");
  CHECK(a.unmap(base + kGranule, 4 * kGranule) != "");  // all or nothing
  REQUIRE(a.map(base + 2 * kGranule, kGranule) == "");
  CHECK(*at(base + 2 * kGranule) == 0);
  CHECK(*at(base + kGranule) == 7);
  CHECK(a.peak() == 4 * kGranule);
}

TEST_CASE("arena: nothing outside the range and nothing that overflows is live or mappable") {
  uint64_t size = 8 * kGranule, base = free_range(size);
  Arena a;
  REQUIRE(a.reserve(base, size));
  REQUIRE(a.map(base, size) == "");
  for (uint64_t address : {uint64_t{0}, base - 1, base + size, ~uint64_t{0}}) CHECK_FALSE(a.live(address, 1));
  CHECK_FALSE(a.live(base, ~0ull));
  CHECK_FALSE(a.live(base + 1, ~0ull));
  CHECK_FALSE(a.live(base, size + 1));
  CHECK(a.map(base + size, kGranule) != "");
  CHECK(a.unmap(base - kGranule, kGranule) != "");
  CHECK(a.unmap(base, ~0ull - kGranule + 1) != "");
  CHECK(a.unmap(base, kGranule / 2) != "");
}

TEST_CASE("arena: extents of rows") {
  uint64_t size = 2 * kGranule, base = free_range(size);
  Arena a;
  REQUIRE(a.reserve(base, size));
  REQUIRE(a.map(base, kGranule) == "");
  CHECK(a.live(base, 1024, 100, kGranule / 1024));
  CHECK_FALSE(a.live(base, 1024, 100, kGranule / 1024 + 1));
  CHECK_FALSE(a.live(base, 99, 100, 2));  // rows that overlap
  CHECK(a.live(base, 0, 100, 1));
  CHECK(a.live(0, 0, 0, 5));
  CHECK(a.live(0, 0, 5, 0));
  CHECK_FALSE(a.live(base, ~0ull / 2, 8, 5));
  CHECK_FALSE(a.live(base, ~0ull, ~0ull, ~0ull));
}

TEST_CASE("arena: physical memory shows wherever it is mapped and accessible") {
  uint64_t size = 16 * kGranule, base = free_range(size);
  Arena a;
  Arena::Freed freed;
  REQUIRE(a.reserve(base, size));
  REQUIRE(a.create(7, 2 * kGranule, 1) == "");
  CHECK(a.mapped() == 2 * kGranule);
  CHECK(*a.device_of(7) == 1);
  CHECK(a.device_of(8) == nullptr);
  REQUIRE(a.map(base, 2 * kGranule, 7, 0) == "");
  REQUIRE(a.map(base + 4 * kGranule, kGranule, 7, kGranule) == "");
  CHECK(a.mapped() == 2 * kGranule);
  CHECK_FALSE(a.live(base, 1));  // not before access is given
  REQUIRE(a.access(base, 2 * kGranule, true) == "");
  REQUIRE(a.access(base + 4 * kGranule, kGranule, true) == "");
  CHECK(a.live(base, 2 * kGranule));
  CHECK_FALSE(a.live(base, 2 * kGranule + 1));
  *at(base + kGranule + 5) = 42;
  CHECK(*at(base + 4 * kGranule + 5) == 42);
  uint64_t epoch = a.epoch();
  REQUIRE(a.access(base, 2 * kGranule, false) == "");
  CHECK(a.epoch() != epoch);
  CHECK_FALSE(a.live(base, 1));
  REQUIRE(a.unmap_virtual(base, 2 * kGranule, freed) == "");
  REQUIRE(a.release(7, freed) == "");
  CHECK(freed.bytes == 0);  // still mapped once
  CHECK(*at(base + 4 * kGranule + 5) == 42);
  CHECK(a.map(base, kGranule, 7, 0) != "");
  CHECK(a.release(7, freed) != "");
  REQUIRE(a.unmap_virtual(base + 4 * kGranule, kGranule, freed) == "");
  CHECK(freed.bytes == 2 * kGranule);
  CHECK(freed.device == 1);
  CHECK(a.mapped() == 0);
  REQUIRE(a.create(7, 2 * kGranule, 0) == "");
  REQUIRE(a.map(base, 2 * kGranule, 7, 0) == "");
  REQUIRE(a.access(base, 2 * kGranule, true) == "");
  CHECK(*at(base + kGranule + 5) == 0);  // nothing of the memory before it
}

TEST_CASE("arena: what is no mapping of physical memory is refused and changes nothing") {
  uint64_t size = 16 * kGranule, base = free_range(size);
  Arena a;
  Arena::Freed freed;
  REQUIRE(a.reserve(base, size));
  for (uint64_t bytes : {uint64_t{0}, kGranule / 2, size + kGranule, ~uint64_t{0}}) CHECK(a.create(7, bytes, 0) != "");
  CHECK(a.create(0, kGranule, 0) != "");
  REQUIRE(a.create(7, 4 * kGranule, 0) == "");
  CHECK(a.create(7, kGranule, 0) != "");
  CHECK(a.create(8, size, 0) != "");  // more than the file has left
  CHECK(a.mapped() == 4 * kGranule);
  CHECK(a.map(base, 4 * kGranule, 8, 0) != "");
  CHECK(a.map(base, 4 * kGranule, 7, kGranule) != "");
  CHECK(a.map(base, kGranule, 7, 5) != "");
  CHECK(a.map(base, kGranule, 7, ~uint64_t{0} - kGranule + 1) != "");
  CHECK(a.map(base - kGranule, kGranule, 7, 0) != "");
  REQUIRE(a.map(base + kGranule, kGranule) == "");
  CHECK(a.map(base, 4 * kGranule, 7, 0) != "");  // something lies there
  REQUIRE(a.map(base + 2 * kGranule, 2 * kGranule, 7, 0) == "");
  CHECK(a.map(base + 3 * kGranule, kGranule) != "");        // and now here
  CHECK(a.unmap(base + 2 * kGranule, 2 * kGranule) != "");  // not of this kind
  CHECK(a.unmap_virtual(base + kGranule, kGranule, freed) != "");
  CHECK(a.unmap_virtual(base + 2 * kGranule, kGranule, freed) != "");  // half a mapping
  CHECK(a.access(base + 3 * kGranule, kGranule, true) != "");
  CHECK(a.access(base + 2 * kGranule, 3 * kGranule, true) != "");  // a gap
  CHECK_FALSE(a.live(base + 2 * kGranule, 1));
  CHECK(a.live(base + kGranule, kGranule));
  CHECK(a.mapped() == 5 * kGranule);
  CHECK(freed.bytes == 0);
}

TEST_CASE("arena: the file behind handles joins what is given back") {
  uint64_t size = 8 * kGranule, base = free_range(size);
  Arena a;
  Arena::Freed freed;
  REQUIRE(a.reserve(base, size));
  for (uint64_t round = 0; round < 3; round++) {
    for (uint64_t h = 1; h <= 4; h++) REQUIRE(a.create(h, 2 * kGranule, 0) == "");
    CHECK(a.create(5, kGranule, 0) != "");
    for (uint64_t h : {2, 4, 3, 1}) REQUIRE(a.release(h, freed) == "");
    REQUIRE(a.create(6, size, 0) == "");
    REQUIRE(a.release(6, freed) == "");
  }
  CHECK(a.mapped() == 0);
}

TEST_CASE("arena: memory of another session shows at one's own addresses, is not counted, and stays when its owner goes") {
  uint64_t size = 16 * kGranule, base = free_range(size);
  auto owner = std::make_unique<Arena>();
  REQUIRE(owner->reserve(base, size));
  REQUIRE(owner->map(base + kGranule, 2 * kGranule) == "");
  *at(base + 2 * kGranule) = 42;
  Arena::FilePart part;
  CHECK(owner->locate(0, base, kGranule, part) != "");  // not mapped
  CHECK(owner->locate(0, base + kGranule + 1, kGranule, part) != "");
  CHECK(owner->locate(9, 0, 0, part) != "");
  REQUIRE(owner->locate(0, base + kGranule, 2 * kGranule, part) == "");

  uint64_t there = free_range(size);
  Arena importer;
  Arena::Freed freed;
  using djinn::server::Descriptor;
  REQUIRE(importer.reserve(there, size));
  CHECK(importer.import(7, 0, Descriptor(), part) != "");
  CHECK(importer.import(7, 0, Descriptor::duplicate(owner->file()), {part.offset + 1, part.size}) != "");
  CHECK(importer.import(7, 0, Descriptor::duplicate(owner->file()), {part.offset, 0}) != "");
  REQUIRE(importer.import(7, 0, Descriptor::duplicate(owner->file()), part) == "");
  CHECK(importer.import(7, 0, Descriptor::duplicate(owner->file()), part) != "");  // the handle is taken
  CHECK(importer.locate(7, 0, 0, part) != "");                                     // not one's own
  REQUIRE(importer.map(there, 2 * kGranule, 7, 0) == "");
  REQUIRE(importer.access(there, 2 * kGranule, true) == "");
  CHECK(*at(there + kGranule) == 42);
  *at(there) = 7;
  CHECK(*at(base + kGranule) == 7);
  CHECK(importer.mapped() == 0);
  owner.reset();
  CHECK(*at(there) == 7);
  REQUIRE(importer.release(7, freed) == "");
  REQUIRE(importer.unmap_virtual(there, 2 * kGranule, freed) == "");
  CHECK(freed.bytes == 0);
  CHECK_FALSE(importer.live(there, 1));
}

// The client's allocator: CUDA's rules, which granules it asks for and gives back, and what it does when the server refuses.
#include "interpose/shadow/arena.hpp"

#include <random>
#include <set>

#include "semantic/wire/limits.hpp"
#include "tests/unit/catch.hpp"

using djinn::DeviceArena;
using djinn::wire::kGranule;

namespace {

constexpr uint64_t kBase = 0x200000000000;

// A server of which the arena sees only what it may: mapped granules and a lease.
struct Rig {
  explicit Rig(uint64_t granules, uint64_t lease = ~0ull, uint64_t most = ~0ull) : memory(most), arena(kBase, granules * kGranule, lease, server()) {}
  DeviceArena::Server server() {
    return {[this](uint64_t a, uint64_t n) { change(a, n, true); }, [this](uint64_t a, uint64_t n) { change(a, n, false); },
            [this](uint64_t wanted) {
              ++leases;
              return leased = std::max<uint64_t>(std::min(wanted, memory), mapped.size() * kGranule);
            }};
  }
  void change(uint64_t address, uint64_t bytes, bool up) {
    REQUIRE(address % kGranule == 0);
    REQUIRE(bytes % kGranule == 0);
    REQUIRE(bytes > 0);
    ++messages;
    for (uint64_t g = address; g < address + bytes; g += kGranule) REQUIRE((up ? mapped.insert(g).second : mapped.erase(g) == 1));
  }
  std::set<uint64_t> mapped;
  uint64_t memory, leased = 0;
  int leases = 0, messages = 0;
  DeviceArena arena;
};

}  // namespace

TEST_CASE("allocations are aligned to 256 bytes and disjoint") {
  Rig rig(4);
  auto a = rig.arena.allocate(1), b = rig.arena.allocate(257), c = rig.arena.allocate(1);
  REQUIRE((a && b && c));
  for (auto p : {*a, *b, *c}) CHECK(p % 256 == 0);
  CHECK(*b >= *a + 256);
  CHECK(*c >= *b + 512);
  CHECK(rig.arena.allocated() == 256 + 512 + 256);
}

TEST_CASE("small allocations share a granule, which is mapped once and unmapped with the last") {
  Rig rig(4);
  auto a = rig.arena.allocate(1000), b = rig.arena.allocate(1000);
  CHECK(rig.mapped == std::set<uint64_t>{kBase});
  CHECK(rig.messages == 1);
  CHECK(rig.arena.release(*a));
  CHECK(rig.mapped.size() == 1);
  CHECK(rig.arena.release(*b));
  CHECK(rig.mapped.empty());
  CHECK(rig.arena.mapped() == 0);
}

TEST_CASE("large allocations begin on a granule and give their memory back whole") {
  Rig rig(16);
  auto small = rig.arena.allocate(256), large = rig.arena.allocate(3 * kGranule + 5);
  REQUIRE((small && large));
  CHECK(*large % kGranule == 0);
  CHECK(rig.mapped.size() == 5);
  CHECK(rig.arena.release(*large));
  CHECK(rig.mapped == std::set<uint64_t>{*small / kGranule * kGranule});
}

TEST_CASE("freed neighbours join, and the best fit is taken") {
  Rig rig(8);
  std::vector<uint64_t> blocks;
  for (int i = 0; i < 8; i++) blocks.push_back(rig.arena.allocate(kGranule).value());
  CHECK_FALSE(rig.arena.allocate(256));
  for (int i : {3, 1, 2}) CHECK(rig.arena.release(blocks[static_cast<size_t>(i)]));
  CHECK(rig.arena.release(blocks[6]));
  CHECK(rig.arena.allocate(kGranule) == blocks[6]);  // the hole of one, not the hole of three
  CHECK(rig.arena.allocate(3 * kGranule) == blocks[1]);
}

TEST_CASE("sizes that cannot be had are refused and change nothing") {
  Rig rig(4);
  CHECK_FALSE(rig.arena.allocate(~0ull));
  CHECK_FALSE(rig.arena.allocate(~0ull - 255));
  CHECK_FALSE(rig.arena.allocate(4 * kGranule + 1));
  CHECK(rig.messages == 0);
  CHECK(rig.arena.allocate(4 * kGranule) == kBase);
}

TEST_CASE("within the lease nobody is asked; beyond it the server is; a refusal leaves everything as it was") {
  Rig rig(1024, 4 * kGranule, 100 * kGranule);
  auto first = rig.arena.allocate(4 * kGranule);
  CHECK(rig.leases == 0);
  auto second = rig.arena.allocate(kGranule);
  REQUIRE((first && second));
  CHECK(rig.leases > 0);
  int messages = rig.messages;
  CHECK_FALSE(rig.arena.allocate(200 * kGranule));
  CHECK(rig.messages == messages);
  CHECK(rig.arena.mapped() == 5 * kGranule);
  CHECK(rig.mapped.size() * kGranule <= rig.leased);
  CHECK(rig.arena.allocate(95 * kGranule));  // to the last granule of what there is
  CHECK_FALSE(rig.arena.allocate(kGranule));
  CHECK(rig.arena.release(*first));
  CHECK(rig.arena.allocate(4 * kGranule));
}

TEST_CASE("a lease that lies idle goes back") {
  Rig rig(4096, 8ull << 30, 8ull << 30);
  auto p = rig.arena.allocate(4ull << 30);
  REQUIRE(p);
  CHECK(rig.arena.release(*p));
  CHECK(rig.leases == 1);
  CHECK(rig.leased < 1ull << 30);
}

TEST_CASE("only the first byte of a live allocation can be freed, once; any of its bytes finds it") {
  Rig rig(4);
  uint64_t p = rig.arena.allocate(1000).value();
  CHECK_FALSE(rig.arena.release(p + 256));
  CHECK_FALSE(rig.arena.release(p - 256));
  CHECK_FALSE(rig.arena.release(0));
  auto found = rig.arena.find(p + 999);
  REQUIRE(found);
  CHECK(found->address == p);
  CHECK(found->bytes >= 1000);
  CHECK_FALSE(rig.arena.find(p + 1024));
  CHECK_FALSE(rig.arena.find(kBase - 1));
  CHECK(rig.arena.release(p));
  CHECK_FALSE(rig.arena.find(p));
  CHECK_FALSE(rig.arena.release(p));
}

TEST_CASE("whatever is allocated and freed: no overlap, exactly the granules in use are mapped, everything comes back") {
  constexpr uint64_t kGranules = 64;
  Rig rig(kGranules);
  std::mt19937_64 dice(11);
  std::map<uint64_t, uint64_t> live;
  size_t refused = 0;
  for (int round = 0; round < 20000; round++) {
    if (live.empty() || dice() % 100 < 55) {
      uint64_t bytes = dice() % 4 ? 1 + dice() % 100'000 : 1 + dice() % (6 * kGranule);
      auto p = rig.arena.allocate(bytes);
      if (!p) {
        ++refused;
        continue;
      }
      auto next = live.lower_bound(*p);
      REQUIRE((next == live.end() || *p + bytes <= next->first));
      REQUIRE((next == live.begin() || std::prev(next)->first + std::prev(next)->second <= *p));
      REQUIRE(*p + bytes <= kBase + kGranules * kGranule);
      live[*p] = bytes;
    } else {
      auto i = std::next(live.begin(), static_cast<ptrdiff_t>(dice() % live.size()));
      REQUIRE(rig.arena.release(i->first));
      live.erase(i);
    }
    if (round % 500) continue;
    std::set<uint64_t> used;
    for (auto [p, n] : live)
      for (uint64_t g = p / kGranule; g <= (p + n - 1) / kGranule; g++) used.insert(g * kGranule);
    // an allocation is rounded up to 256 bytes, which never reaches another granule
    REQUIRE(rig.mapped == used);
  }
  CHECK(refused > 0);
  for (auto [p, n] : live) REQUIRE(rig.arena.release(p));
  CHECK(rig.mapped.empty());
  CHECK(rig.arena.allocated() == 0);
  CHECK(rig.arena.allocate(kGranules * kGranule) == kBase);
}

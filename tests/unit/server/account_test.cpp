// Leases and shares of threads: the sum of what is promised never exceeds what there is.
#include <random>

#include "semantic/wire/limits.hpp"
#include "server/broker/account.hpp"
#include "tests/unit/catch.hpp"

using djinn::server::Account;
constexpr uint64_t kMiB = 1 << 20;
using Leases = std::vector<uint64_t>;

TEST_CASE("account: first leases shrink as memory gets short, and come back") {
  Account a(600 * kMiB, 1, 6);
  CHECK(a.open(1) == Leases{256 * kMiB});
  CHECK(a.open(2) == Leases{172 * kMiB});
  CHECK(a.open(3) == Leases{86 * kMiB});
  CHECK(a.leased() == 514 * kMiB);
  a.close(1);
  a.close(1);
  a.close(99);
  CHECK(a.leased() == 258 * kMiB);
  CHECK(a.change(99, 0, kMiB) == 0);
}

TEST_CASE("account: more is granted whole or not at all, less always") {
  Account a(600 * kMiB, 1, 6);
  a.open(1);
  CHECK(a.change(1, 0, 601 * kMiB) == 256 * kMiB);
  CHECK(a.change(1, 0, ~0ull) == 256 * kMiB);
  CHECK(a.change(1, 0, 600 * kMiB) == 600 * kMiB);
  CHECK(a.open(2) == Leases{0});
  CHECK(a.change(2, 0, 2 * kMiB) == 0);
  CHECK(a.change(1, 0, 0) == 0);
  CHECK(a.change(2, 0, 2 * kMiB) == 2 * kMiB);
}

TEST_CASE("account: threads are shared, and nobody gets none") {
  Account a(1 << 30, 1, 6);
  CHECK(a.share() == 6);
  for (uint64_t id = 1; id <= 4; id++) a.open(id);
  CHECK(a.share() == 1);
  a.close(1);
  a.close(2);
  CHECK(a.share() == 3);
  for (uint64_t id = 10; id < 30; id++) a.open(id);
  CHECK(a.share() == 1);
}

TEST_CASE("account: the invariant holds under any sequence") {
  std::mt19937_64 dice(5);
  Account a(1000 * kMiB, 2, 3);
  std::map<uint64_t, Leases> held;
  for (int i = 0; i < 20000; i++) {
    uint64_t id = dice() % 20;
    size_t device = dice() % 2;
    if (!held.count(id)) held[id] = a.open(id);
    else if (dice() % 4 == 0) a.close(id), held.erase(id);
    else held[id][device] = a.change(id, device, dice() % 600 * kMiB);
    for (device = 0; device < 2; device++) {
      uint64_t sum = 0;
      for (auto& [k, v] : held) sum += v[device];
      REQUIRE(sum == a.leased(device));
      REQUIRE(sum <= a.memory());
    }
    REQUIRE(a.leased() == a.leased(0) + a.leased(1));
  }
}

TEST_CASE("account: each device's memory is its own") {
  Account a(600 * kMiB, 2, 6);
  CHECK(a.open(1) == Leases{256 * kMiB, 256 * kMiB});
  CHECK(a.change(1, 1, 600 * kMiB) == 600 * kMiB);
  CHECK(a.open(2) == Leases{172 * kMiB, 0});
  CHECK(a.change(2, 0, 344 * kMiB) == 344 * kMiB);
  CHECK(a.change(2, 2, kMiB) == 0);  // there is none
  a.close(1);
  CHECK(a.leased(0) == 344 * kMiB);
  CHECK(a.leased(1) == 0);
}

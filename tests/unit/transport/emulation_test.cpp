// The emulated network: what it is told, what it refuses, and that one seed replays one sequence of faults.
#include "semantic/transport/emulation.hpp"

#include "tests/unit/catch.hpp"

using namespace djinn::transport;
using namespace std::chrono_literals;

static Emulation good(std::string_view text) {
  std::string error;
  auto e = parse_emulation(text, error);
  INFO(text << ": " << error);
  REQUIRE(e);
  return *e;
}

TEST_CASE("an emulation is read") {
  Emulation e = good("rtt=1.5ms,bandwidth=10Gbit,seed=18446744073709551615,cut=0.25,slow=1,duplicate=0,garbage=0.001");
  CHECK(e.rtt == 1500us);
  CHECK(e.bits_per_second == 1e10);
  CHECK(e.seed == ~0ull);
  CHECK(e.cut == 0.25);
  CHECK(e.slow == 1);
  CHECK(e.duplicate == 0);
  CHECK(e.garbage == 0.001);
  CHECK(good("rtt=100us").rtt == 100us);
  CHECK(good("rtt=2s").rtt == 2s);
  CHECK(good("bandwidth=64Kbit").bits_per_second == 64e3);
  CHECK(good("bandwidth=1.5Mbit").bits_per_second == 1.5e6);
  CHECK(good("").rtt == 0ns);
}

TEST_CASE("a malformed emulation is refused by name") {
  for (const char* part : {"rtt",
                           "rtt=",
                           "rtt=1",
                           "rtt=1m",
                           "rtt=-1ms",
                           "rtt=nanms",
                           "rtt=infs",
                           "rtt=61s",
                           "rtt=1e300s",
                           "bandwidth=1",
                           "bandwidth=0Gbit",
                           "bandwidth=1GByte",
                           "bandwidth=1e-9Kbit",
                           "seed=-1",
                           "seed=1.5",
                           "seed=",
                           "seed=18446744073709551616",
                           "cut=1.1",
                           "cut=-0.1",
                           "cut=0.1x",
                           "cut=nan",
                           "jitter=1ms",
                           "=1",
                           "Cut=1",
                           " cut=1"}) {
    std::string error;
    CHECK_FALSE(parse_emulation(std::string("slow=0.5,") + part, error));
    INFO(error);
    CHECK(error.find(std::string("'") + part + "'") != std::string::npos);
  }
  std::string error;
  CHECK_FALSE(parse_emulation("rtt=1ms,", error));
  CHECK_FALSE(parse_emulation(",rtt=1ms", error));
}

TEST_CASE("one seed replays one sequence, another another") {
  auto sequence = [](Emulation e, uint64_t seed) {
    e.seed = seed;
    Dice dice(e);
    std::vector<Fault> faults;
    for (int i = 0; i < 1000; i++) faults.push_back(dice.roll());
    return faults;
  };
  Emulation e = good("cut=0.1,slow=0.2,duplicate=0.3,garbage=0.4");
  auto a = sequence(e, 7);
  CHECK(a == sequence(e, 7));
  CHECK_FALSE(a == sequence(e, 8));
  auto rate = [&](bool Fault::*which) { return std::count_if(a.begin(), a.end(), [&](const Fault& f) { return f.*which; }) / 1000.0; };
  CHECK(rate(&Fault::cut) == Approx(0.1).margin(0.05));
  CHECK(rate(&Fault::slow) == Approx(0.2).margin(0.05));
  CHECK(rate(&Fault::duplicate) == Approx(0.3).margin(0.06));
  CHECK(rate(&Fault::garbage) == Approx(0.4).margin(0.06));
  // another probability for one fault leaves the others where they were
  Emulation without = e;
  without.slow = 0;
  auto b = sequence(without, 7);
  for (size_t i = 0; i < a.size(); i++) {
    CHECK_FALSE(b[i].slow);
    CHECK(b[i].duplicate == a[i].duplicate);
  }
}

TEST_CASE("damage damages, and the same seed the same way") {
  for (size_t size : {1, 2, 64, 5000}) {
    std::vector<std::byte> a(size), b(size), zero(size);
    Dice one(good("seed=3")), two(good("seed=3"));
    one.damage(a);
    two.damage(b);
    CHECK(a == b);
    if (size == 1) CHECK_FALSE(a == zero);
  }
  Dice dice(good("seed=3"));
  dice.damage({});
}

TEST_CASE("a pipe keeps order, delays, and serialises bytes") {
  Pipe<int> pipe(good("rtt=40ms,bandwidth=8Mbit"));
  auto start = Clock::now();
  pipe.push(1, 20000);  // 20 ms on the wire
  pipe.push(2, 0, 50ms);
  pipe.push(3, 0);
  REQUIRE(pipe.next());
  CHECK(*pipe.next() - start >= 40ms);
  CHECK_FALSE(pipe.pop_due());
  std::vector<int> order;
  while (pipe.next()) {
    auto due = *pipe.next();
    while (Clock::now() < due) {}
    order.push_back(*pipe.pop_due());
  }
  CHECK(order == std::vector<int>{1, 2, 3});
  CHECK(Clock::now() - start >= 70ms);  // slow for one is slow for those behind it
}

// The emulated network in the link: what it delays it delays by as much as was asked, and its faults are those of the seed.
#include "semantic/transport/emulation.hpp"

#include "tests/unit/catch.hpp"
#include "tests/unit/link/client.hpp"

using namespace djinn;
using namespace djinn::test;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

TEST_CASE("an emulated round trip takes at least as long as was asked") {
  Peer peer(Peer::Network::ipc);
  Client c;
  c.config.emulate = "rtt=20ms";
  REQUIRE(c.open(peer));
  bool driven = GENERATE(true, false);
  for (uint64_t i = 1; i <= 5; i++) {
    auto start = Clock::now();
    REQUIRE(c.send(i));
    REQUIRE((driven ? c.drive_frames(i) : c.wait_frames(i)));
    CHECK(Clock::now() - start >= 20ms);
    CHECK(Clock::now() - start < 2s);
  }
}

TEST_CASE("messages overlap on an emulated network: ten take one round trip, not ten") {
  Peer peer(Peer::Network::ipc);
  Client c;
  c.config.emulate = "rtt=200ms";
  REQUIRE(c.open(peer));
  auto start = Clock::now();
  for (uint64_t i = 1; i <= 10; i++) REQUIRE(c.send(i));
  REQUIRE(c.wait_frames(10));
  CHECK(Clock::now() - start >= 200ms);
  CHECK(Clock::now() - start < 1s);
}

TEST_CASE("bytes take their time on an emulated network, and are released at once") {
  Peer peer(Peer::Network::ipc);
  Client c;
  c.config.emulate = "bandwidth=80Mbit";
  REQUIRE(c.open(peer));
  Buffer b(500000);
  auto start = Clock::now();
  REQUIRE(c.send(1, {b.part()}));
  CHECK(b.released == 1);
  REQUIRE(c.wait_frames(1));
  CHECK(Clock::now() - start >= 100ms);  // 50 ms there, 50 ms back
  CHECK(c.frame(0).bulk.at(0).size() == 500000);
}

TEST_CASE("a transfer that takes longer than the peer may be silent is no loss") {
  Peer peer(Peer::Network::ipc);
  Client c;
  c.config.emulate = "bandwidth=8Mbit";
  c.config.heartbeat_ms = 50;
  c.config.lost_ms = 200;
  REQUIRE(c.open(peer));
  Buffer b(500000);
  REQUIRE(c.send(1, {b.part()}));
  REQUIRE(c.wait_frames(1));
  CHECK(c.losses() == 0);
}

TEST_CASE("the faults are those of the seed") {
  auto run = [](const std::string& text) {
    Peer peer(Peer::Network::tcp);
    Client c;
    c.config.emulate = text.c_str();
    c.config.heartbeat_ms = 10;  // heartbeats come when they come, and must not roll the dice
    c.config.lost_ms = 10000;
    REQUIRE(c.open(peer));
    for (uint64_t i = 1; i <= 60; i++) REQUIRE(c.send(i));
    REQUIRE(c.send(1000));
    auto arrived = [&] {
      auto t = peer.tickets();
      return !t.empty() && t.back() == 1000;
    };
    for (auto end = Clock::now() + 10s; !arrived() && Clock::now() < end;) std::this_thread::yield();
    return peer.tickets();
  };
  std::string error;
  transport::Dice dice(*transport::parse_emulation("seed=7,duplicate=0.3", error));
  std::vector<uint64_t> expected;
  for (uint64_t i = 1; i <= 61; i++) expected.insert(expected.end(), dice.roll().duplicate ? 2 : 1, i == 61 ? 1000 : i);
  CHECK(expected.size() > 65);
  auto first = run("seed=7,duplicate=0.3");
  if (expected.size() > first.size()) expected.resize(first.size());  // a copy of the last may still be under way
  CHECK(first == expected);
  auto other = run("seed=8,duplicate=0.3");
  CHECK_FALSE(first == other);
}

TEST_CASE("garbage comes before the message, not instead of it") {
  Peer peer(Peer::Network::tcp);
  Client c;
  c.config.emulate = "garbage=1,seed=3";
  REQUIRE(c.open(peer));
  for (uint64_t i = 1; i <= 20; i++) REQUIRE(c.send(i));
  REQUIRE(c.wait_frames(20));
  CHECK(peer.count("batch") >= 20);
  CHECK(peer.wait_for("malformed"));
}

TEST_CASE("slow delays by fifty milliseconds") {
  Peer peer(Peer::Network::tcp);
  Client c;
  c.config.emulate = "slow=1";
  REQUIRE(c.open(peer));
  auto start = Clock::now();
  REQUIRE(c.send(1));
  REQUIRE(c.drive_frames(1));
  CHECK(Clock::now() - start >= 50ms);
}

TEST_CASE("a cut ends the connection for both sides") {
  Peer peer(GENERATE(Peer::Network::tcp, Peer::Network::ipc));
  Client c;
  c.config.emulate = "cut=1";
  REQUIRE(c.open(peer));
  Buffer b(10);
  CHECK_FALSE(c.send(1, {b.part()}));
  CHECK(b.released == 1);
  REQUIRE(c.wait_lost());
  CHECK(c.lost_reason().find("emulated network cut") != std::string::npos);
  CHECK(peer.wait_for("disconnected"));
  CHECK(peer.count("batch") == 0);
}

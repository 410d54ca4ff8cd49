// Frames through an open link: bulk parts without a copy and released exactly once, delivery by the pump and by a driving thread, heartbeats, what is
// not ours ignored and counted, many threads at once, and the time of a round trip.
#include <filesystem>
#include <fstream>
#include <iostream>

#include "tests/unit/catch.hpp"
#include "tests/unit/link/client.hpp"

using namespace djinn;
using namespace djinn::test;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

TEST_CASE("a frame with bulk parts comes back whole, released once") {
  Peer peer(GENERATE(Peer::Network::tcp, Peer::Network::ipc));
  Client c;
  REQUIRE(c.open(peer));
  Buffer big(8 << 20, 'b'), small(3, 's');
  REQUIRE(c.send(1, {big.part(), small.part()}));
  REQUIRE(c.wait_frames(1));
  auto f = c.frame(0);
  REQUIRE(f.bulk.size() == 2);
  CHECK(std::memcmp(f.bulk[0].data(), big.bytes.data(), big.bytes.size()) == 0);
  CHECK(f.bulk[1].size() == 3);
  CHECK(big.wait_released());
  CHECK(small.wait_released());
  c.close();
  CHECK(big.released == 1);
}

TEST_CASE("a driving thread delivers what it waits for, in order") {
  Peer peer(Peer::Network::ipc);
  Client c;
  REQUIRE(c.open(peer));
  for (uint64_t i = 1; i <= 500; i++) {
    REQUIRE(c.send(i));
    if (i % 3 == 0) REQUIRE(c.drive_frames(i));
  }
  REQUIRE(c.drive_frames(500));
  for (uint64_t i = 0; i < 500; i++) {
    wire::FrameHeader h;
    std::memcpy(&h, c.frame(i).frame.data(), sizeof h);
    REQUIRE(h.report == i + 1);
  }
  auto s = c.stats();
  CHECK(s.messages_sent >= 501);
  CHECK(s.messages_received == 500);
  CHECK(s.bytes_received > 500 * sizeof(wire::FrameHeader));
  CHECK(s.ignored == 0);
}

TEST_CASE("driving an idle link takes as long as it was told") {
  Peer peer(Peer::Network::ipc);
  Client c;
  REQUIRE(c.open(peer));
  auto start = Clock::now();
  CHECK(link_api()->drive(c.link, 3000) == 0);
  CHECK(Clock::now() - start >= 3ms);
}

TEST_CASE("many threads send and drive at once") {
  Peer peer(Peer::Network::ipc);
  Client c;
  REQUIRE(c.open(peer));
  constexpr uint64_t kEach = 500, kThreads = 4;
  std::vector<std::thread> threads;
  std::atomic<int> failures{0};
  for (uint64_t t = 0; t < kThreads; t++)
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < kEach; i++) {
        Buffer b(100);
        if (!c.send(1 + t * kEach + i, {b.part()})) ++failures;
        if (i % 2) link_api()->drive(c.link, 20);
        if (!b.wait_released()) ++failures;
      }
    });
  for (auto& t : threads) t.join();
  CHECK(failures == 0);
  CHECK(c.wait_frames(kEach * kThreads));
}

TEST_CASE("an idle link is kept alive, both ways, and ticks") {
  Peer peer(Peer::Network::tcp);
  Client c;
  c.config.heartbeat_ms = 20;
  c.config.lost_ms = 10000;
  REQUIRE(c.open(peer));
  CHECK(peer.wait_for("ping", 5));
  peer.send(bytes_of(peer.header(wire::FrameKind::ping)));
  CHECK(peer.wait_for("pong"));
  CHECK(c.stats().heartbeats >= 5);
  for (auto end = Clock::now() + 5s; c.ticks < 2 && Clock::now() < end;) std::this_thread::yield();
  CHECK(c.ticks >= 2);
  CHECK(c.frames() == 0);
  CHECK(c.stats().ignored == 0);
  CHECK(c.losses() == 0);
}

TEST_CASE("what is no frame of this session is ignored and counted") {
  Peer peer(Peer::Network::tcp);
  Client c;
  REQUIRE(c.open(peer));
  Bytes good = peer.report();
  auto changed = [&](auto change) {
    Bytes b = good;
    wire::FrameHeader h;
    std::memcpy(&h, b.data(), sizeof h);
    change(h);
    std::memcpy(b.data(), &h, sizeof h);
    return b;
  };
  peer.send({});
  peer.send(Bytes(1, std::byte{1}));
  peer.send(Bytes(10000, std::byte{0xff}));
  peer.send(Bytes(good.begin(), good.end() - 8));
  peer.send(good, {Bytes(10)});
  peer.send(changed([](auto& h) { h.magic++; }));
  peer.send(changed([](auto& h) { h.version++; }));
  peer.send(changed([](auto& h) { h.session++; }));
  peer.send(changed([](auto& h) { h.incarnation++; }));
  peer.send(changed([](auto& h) { h.kind = wire::FrameKind::batch; }));
  peer.send(changed([](auto& h) { h.kind = wire::FrameKind::hello; }));
  peer.send(changed([](auto& h) { h.kind = wire::FrameKind(77); }));
  peer.send(good);
  REQUIRE(c.wait_frames(1));
  CHECK(c.frame(0).frame == good);
  CHECK(c.frames() == 1);
  CHECK(c.stats().ignored == 12);
  CHECK(c.losses() == 0);
}

TEST_CASE("a refusal in mid-session reaches the session's owner before the loss") {
  Peer peer(Peer::Network::tcp);
  Client c;
  REQUIRE(c.open(peer));
  Bytes refused = peer.report();
  wire::FrameHeader h;
  std::memcpy(&h, refused.data(), sizeof h);
  h.kind = wire::FrameKind::refused;
  std::memcpy(refused.data(), &h, sizeof h);
  peer.send(refused);
  peer.wait_for("never", 1, 50ms);  // gives it time to leave before the sockets close
  peer.stop();
  REQUIRE(c.wait_lost());
  REQUIRE(c.frames() == 1);
  CHECK(c.frame(0).frame == refused);
}

TEST_CASE("the pump has a name and takes no signals") {
  Peer peer(Peer::Network::tcp);
  Client c;
  REQUIRE(c.open(peer));
  int found = 0;
  for (auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string name, line, blocked;
    std::getline(std::ifstream(task.path() / "comm"), name);
    if (name != "djinn-link") continue;
    ++found;
    std::ifstream status(task.path() / "status");
    while (std::getline(status, line))
      if (line.rfind("SigBlk:", 0) == 0) blocked = line.substr(line.find_first_of("0123456789abcdef", 7));
    // SIGHUP, SIGINT, SIGTERM, SIGCHLD, SIGALRM; not KILL and STOP, which nobody can block
    uint64_t mask = std::strtoull(blocked.c_str(), nullptr, 16);
    for (int s : {1, 2, 14, 15, 17}) CHECK((mask >> (s - 1) & 1) == 1);
  }
  CHECK(found == 1);
}

TEST_CASE("only djinn_link_get is exported") {
  FILE* nm = popen("nm -D --defined-only " DJINN_LINK_LIBRARY " 2>/dev/null", "r");
  REQUIRE(nm);
  char line[1000];
  std::vector<std::string> ours;
  while (fgets(line, sizeof line, nm)) {
    std::string s = line;
    if (s.find("djinn") != std::string::npos) ours.push_back(s);
  }
  if (pclose(nm) != 0) {
    WARN("nm is not here: not checked");
    return;
  }
  REQUIRE(ours.size() == 1);
  CHECK(ours[0].find(" T djinn_link_get\n") != std::string::npos);
}

// How long a round trip takes, driven by the waiting thread and left to the pump: `link_test "[bench]"` prints it; here it only has to be a round
// trip and not a time-out.
TEST_CASE("a round trip is fast", "[bench]") {
  Peer peer(Peer::Network::ipc);
  Client c;
  REQUIRE(c.open(peer));
  uint64_t sent = 0;
  for (bool driven : {true, false}) {
    std::vector<double> us;
    for (int i = 0; i < 3000; i++) {
      auto start = Clock::now();
      REQUIRE(c.send(++sent));
      while (driven && c.frames() < sent) link_api()->drive(c.link, 20);
      REQUIRE(c.wait_frames(sent));
      us.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
    }
    std::sort(us.begin(), us.end());
    std::cout << (driven ? "driven" : "pumped") << " round trip over ipc: median " << us[us.size() / 2] << " us, 10 % below " << us[us.size() / 10]
              << " us\n";
    CHECK(us[us.size() / 2] < 5000);
  }
}

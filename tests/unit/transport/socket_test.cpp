// The socket that several threads use: messages whole and in order, bulk parts without a copy and released exactly once whatever happens, a wait that
// misses nothing although other threads consume the edges of the event descriptor.
#include "semantic/transport/socket.hpp"

#include <unistd.h>

#include <chrono>
#include <thread>

#include "tests/unit/catch.hpp"

using namespace djinn::transport;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

namespace {

using Bytes = std::vector<std::byte>;
Bytes text(const std::string& s) { return {reinterpret_cast<const std::byte*>(s.data()), reinterpret_cast<const std::byte*>(s.data() + s.size())}; }
std::string text(std::span<const std::byte> s) { return {reinterpret_cast<const char*>(s.data()), s.size()}; }

// A buffer that counts its releases.
struct Buffer {
  explicit Buffer(size_t n, char c = 'x') : bytes(n, c) {}
  djinn_part part() {
    return {bytes.data(), bytes.size(), [](void*, void* hint) { ++static_cast<Buffer*>(hint)->released; }, this};
  }
  bool wait_released() {
    auto end = Clock::now() + 5s;
    while (released == 0 && Clock::now() < end) std::this_thread::yield();
    return released == 1;
  }
  std::string bytes;
  std::atomic<int> released{0};
};

struct Pair {
  Pair() : dealer(context, Socket::Kind::dealer), router(context, Socket::Kind::router) {
    REQUIRE(router.bind("tcp://127.0.0.1:0").empty());
    REQUIRE(dealer.connect(router.endpoint()).empty());
  }
  static Message next(Socket& s) {
    for (auto end = Clock::now() + 5s; Clock::now() < end; s.wait(1000))
      if (auto m = s.receive()) return std::move(*m);
    FAIL("nothing came");
    return {};
  }
  Bytes introduce() {
    dealer.send({}, text("hello"));
    auto part = next(router);
    return {part.part(0).begin(), part.part(0).end()};
  }
  zmq::context_t context{1};
  Socket dealer, router;
};

}  // namespace

TEST_CASE("messages travel whole, with their bulk parts, both ways") {
  Pair p;
  Buffer big(5 << 20, 'b'), small(1, 's'), empty(0);
  djinn_part parts[] = {big.part(), small.part(), empty.part(), {"static", 6, nullptr, nullptr}};
  REQUIRE(p.dealer.send({}, text("frame"), parts));
  Message m = Pair::next(p.router);
  REQUIRE(m.parts.size() == 6);
  CHECK(text(m.part(1)) == "frame");
  CHECK(text(m.part(2)) == big.bytes);
  CHECK(text(m.part(3)) == "s");
  CHECK(m.part(4).empty());
  CHECK(text(m.part(5)) == "static");
  CHECK(m.part(6).empty());
  CHECK(big.wait_released());
  CHECK(small.wait_released());
  CHECK(empty.wait_released());
  Buffer answer(100000, 'a');
  djinn_part one[] = {answer.part()};
  REQUIRE(p.router.send(m.part(0), text("report"), one));
  Message back = Pair::next(p.dealer);
  REQUIRE(back.parts.size() == 2);
  CHECK(text(back.part(1)) == answer.bytes);
  CHECK(answer.wait_released());
  CHECK(p.dealer.messages_sent() == 1);
  CHECK(p.dealer.bytes_sent() == 5 + big.bytes.size() + 1 + 6);
}

TEST_CASE("a message to a peer that is not there fails and releases") {
  Pair p;
  Buffer b(10);
  djinn_part parts[] = {b.part()};
  CHECK_FALSE(p.router.send(text("nobody"), text("frame"), parts));
  CHECK(b.released == 1);
}

TEST_CASE("a closed socket sends and receives nothing, and releases") {
  Pair p;
  p.dealer.close(0);
  p.dealer.close(0);
  Buffer b(10);
  djinn_part parts[] = {b.part()};
  CHECK_FALSE(p.dealer.send({}, text("frame"), parts));
  CHECK(b.released == 1);
  CHECK_FALSE(p.dealer.receive());
  CHECK_FALSE(p.dealer.readable());
  p.dealer.wait(1000);  // returns at once
}

TEST_CASE("what was queued and never left is released when the context ends") {
  Buffer b(10);
  {
    zmq::context_t context(1);
    Socket s(context, Socket::Kind::dealer);
    REQUIRE(s.connect("tcp://127.0.0.1:9").empty());
    djinn_part parts[] = {b.part()};
    s.send({}, text("frame"), parts);
    s.close(0);
  }
  CHECK(b.wait_released());
}

TEST_CASE("wake ends a wait, and so does input elsewhere") {
  Pair p;
  std::thread waker([&] { p.dealer.wake(); });
  p.dealer.wait(60000);
  waker.join();
  int fds[2];
  REQUIRE(pipe(fds) == 0);
  REQUIRE(write(fds[1], "x", 1) == 1);
  p.dealer.wait(60000, fds[0]);
  close(fds[0]);
  close(fds[1]);
  auto start = Clock::now();
  p.dealer.wait(2ms);
  CHECK(Clock::now() - start >= 2ms);
}

// Senders consume the edges of the descriptor on which the receiver sleeps. Were one lost, the receiver would sit out its minute.
TEST_CASE("a sleeping receiver misses nothing while other threads send") {
  Pair p;
  Bytes identity = p.introduce();
  constexpr int kMessages = 3000, kSenders = 3;
  std::thread echo([&] {
    for (int i = 0; i < kMessages * kSenders; i++) {
      Message m = Pair::next(p.router);
      p.router.send(m.part(0), m.part(1));
    }
  });
  std::vector<std::thread> senders;
  for (int t = 0; t < kSenders; t++)
    senders.emplace_back([&, t] {
      for (int i = 0; i < kMessages; i++) p.dealer.send({}, text(std::to_string(t) + ":" + std::to_string(i)));
    });
  std::vector<int> next(kSenders);
  auto start = Clock::now();
  for (int got = 0; got < kMessages * kSenders;) {
    auto m = p.dealer.receive();
    if (!m) {
      p.dealer.wait(60000);
      continue;
    }
    std::string s = text(m->part(0));
    int t = s[0] - '0';
    REQUIRE(s.substr(2) == std::to_string(next[static_cast<size_t>(t)]++));  // in order, per sender
    ++got;
  }
  CHECK(Clock::now() - start < 30s);
  echo.join();
  for (auto& t : senders) t.join();
}

TEST_CASE("errors of binding and connecting are clauses that name the endpoint") {
  Pair p;
  Socket other(p.context, Socket::Kind::router);
  CHECK(other.bind(p.router.endpoint()).find(p.router.endpoint()) != std::string::npos);
  CHECK(p.router.endpoint().rfind("tcp://127.0.0.1:", 0) == 0);
  CHECK(other.connect("nonsense").find("nonsense") != std::string::npos);
}

// Opening a session: over both networks, directly and relayed, and every way in which it can fail, each with one sentence that names the endpoint.
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>

#include "tests/unit/catch.hpp"
#include "tests/unit/link/client.hpp"

using namespace djinn;
using namespace djinn::test;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

namespace {

size_t threads() { return static_cast<size_t>(std::distance(std::filesystem::directory_iterator("/proc/self/task"), {})); }

std::string refusal(const std::string& endpoint, unsigned timeout_ms = 5000) {
  Client c;
  c.config.open_timeout_ms = timeout_ms;
  CHECK_FALSE(c.open(endpoint));
  INFO(c.error);
  CHECK(c.error.find(endpoint) != std::string::npos);
  CHECK(c.error.find('\n') == std::string::npos);
  return c.error;
}

std::string refusal(Peer& peer, unsigned timeout_ms = 5000) {
  peer.start();
  return refusal(peer.endpoint, timeout_ms);
}

bool contains(const std::string& text, const std::string& part) {
  UNSCOPED_INFO("looking for \"" << part << "\" in \"" << text << '"');
  return text.find(part) != std::string::npos;
}

// A listening TCP socket that is no ZeroMQ, and what it says to whoever connects.
struct Stranger {
  explicit Stranger(std::string says) : fd(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in a{};
    socklen_t n = sizeof a;
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(fd, reinterpret_cast<sockaddr*>(&a), n) != 0 || listen(fd, 5) != 0 || getsockname(fd, reinterpret_cast<sockaddr*>(&a), &n) != 0)
      std::abort();
    endpoint = "tcp://127.0.0.1:" + std::to_string(ntohs(a.sin_port));
    if (!says.empty())
      thread = std::thread([this, says] {
        for (int c; (c = accept(fd, nullptr, nullptr)) >= 0; ::close(c))
          if (write(c, says.data(), says.size()) < 0) break;
      });
  }
  ~Stranger() {
    shutdown(fd, SHUT_RDWR);
    if (thread.joinable()) thread.join();
    ::close(fd);
  }
  int fd;
  std::string endpoint;
  std::thread thread;
};

}  // namespace

TEST_CASE("loading the link starts nothing") {
  size_t before = threads();
  REQUIRE(link_api());
  CHECK(threads() == before);
}

TEST_CASE("a session opens") {
  Peer peer(GENERATE(Peer::Network::tcp, Peer::Network::ipc));
  Client c;
  INFO(c.error);
  REQUIRE(c.open(peer));
  CHECK(peer.count("hello") == 1);
  CHECK(peer.last_open().program == "link_test");
  CHECK(peer.last_open().pid == static_cast<uint32_t>(getpid()));
  REQUIRE(peer.last_open().ranges.size() == 1);
  CHECK(peer.last_open().ranges[0].size == 1ull << 36);
  CHECK(c.opened.session == 77);
  CHECK(c.opened.range_address == 0x200000000000);
  CHECK(c.opened.level == 2);
  REQUIRE(c.opened.device_count == 2);
  CHECK(c.opened.devices[0].name == std::string("Test device"));
  CHECK(c.opened.devices[0].lease_bytes == 1 << 30);
  CHECK(c.opened.devices[1].lease_bytes == 1 << 29);
  CHECK(c.opened.server_host == std::string("test-host"));
  CHECK(c.opened.endpoint == peer.endpoint);
  REQUIRE(c.opened.op_count == 2);
  CHECK(c.opened.ops[1] == std::string("aten::mm"));
  CHECK_FALSE(c.opened.relayed);
  c.close();
  CHECK(peer.wait_for("goodbye"));
  CHECK(c.losses() == 0);
}

TEST_CASE("the front door opens sessions too") {
  Peer peer(Peer::Network::tcp);
  Client c;
  peer.start();
  REQUIRE(c.open(peer.front_door));
  CHECK_FALSE(c.opened.relayed);
}

TEST_CASE("a worker that cannot be reached is reached through the front door") {
  Peer peer(Peer::Network::tcp);
  SECTION("nobody listens") { peer.opened.endpoint = "tcp://127.0.0.1:1"; }
  SECTION("it is silent for two seconds") { peer.opened.endpoint = peer.endpoint; }
  SECTION("its name does not exist") { peer.opened.endpoint = "tcp://no-such-host.invalid:5557"; }
  SECTION("nor can the front door: the place where we came in is tried") {
    peer.opened.endpoint = "tcp://127.0.0.1:1";
    peer.opened.front_door = "tcp://127.0.0.1:2";
    peer.endpoint = peer.front_door;
  }
  if (peer.opened.endpoint == peer.endpoint)  // the control port of this peer welcomes as well: make it silent
    peer.answer_hello = [&, first = std::make_shared<std::atomic<bool>>(true)](const wire::FrameHeader&) {
      return first->exchange(false) ? Bytes() : bytes_of(peer.header(wire::FrameKind::welcome));
    };
  Client c;
  bool ok = c.open(peer);
  INFO(c.error);
  REQUIRE(ok);
  CHECK(c.opened.relayed);
  REQUIRE(c.send(1));
  CHECK(c.wait_frames(1));
}

TEST_CASE("a worker on every address is reached where its broker was") {
  Peer peer(Peer::Network::tcp);
  peer.opened.endpoint.replace(6, 9, "0.0.0.0");
  Client c;
  REQUIRE(c.open(peer));
  CHECK_FALSE(c.opened.relayed);
}

TEST_CASE("a name with several addresses is tried at each") {
  Peer peer(Peer::Network::tcp);  // listens on 127.0.0.1 only; localhost may be ::1 first
  std::string endpoint = peer.endpoint;
  endpoint.replace(6, 9, "localhost");
  peer.start();
  Client c;
  bool ok = c.open(endpoint);
  INFO(c.error);
  CHECK(ok);
}

TEST_CASE("endpoints that are none") {
  CHECK(contains(refusal("nonsense"), "tcp://HOST:PORT"));
  CHECK(contains(refusal("tcp://127.0.0.1:99999"), "port"));
  CHECK(contains(refusal("ipc://relative"), "absolute"));
  CHECK(contains(refusal("tcp://no-such-host.invalid:5555"), "cannot be resolved"));
}

TEST_CASE("nobody listens: said at once") {
  auto start = Clock::now();
  CHECK(contains(refusal("tcp://127.0.0.1:1", 60000), "nobody listens"));
  CHECK(contains(refusal("ipc:///tmp/djinn-no-such-socket", 60000), "nobody listens"));
  CHECK(Clock::now() - start < 5s);
}

TEST_CASE("who listens is no djinn-gpu-server") {
  SECTION("it says something else") {
    Stranger http("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
    CHECK(contains(refusal(http.endpoint, 60000), "does not speak ZeroMQ"));
  }
  SECTION("it says nothing") {
    Stranger silent("");
    CHECK(contains(refusal(silent.endpoint, 200), "no answer within 200 ms"));
  }
  SECTION("it speaks ZeroMQ, but not our protocol") {
    Peer peer(Peer::Network::tcp);
    peer.answer_open = [](auto&) { return Bytes(100, std::byte{7}); };
    CHECK(contains(refusal(peer), "does not speak Djinn's protocol"));
  }
}

TEST_CASE("the server says no") {
  Peer peer(Peer::Network::tcp);
  SECTION("with a reason") {
    peer.answer_open = [](auto&) { return control::encode(control::Kind::refused, control::Refused{"no room for you"}); };
    CHECK(contains(refusal(peer), "refused: no room for you"));
  }
  SECTION("it is of another version") {
    peer.answer_open = [](auto&) {
      control::ControlHeader h;
      h.version = 9;
      h.kind = control::Kind::refused;
      return bytes_of(h);
    };
    CHECK(contains(refusal(peer), "speaks protocol version 9, this client speaks 1"));
  }
  SECTION("its answer is cut short") {
    peer.answer_open = [&](auto&) {
      Bytes b = control::encode(control::Kind::opened, peer.opened);
      b.resize(b.size() - 8);
      return b;
    };
    CHECK(contains(refusal(peer), "malformed answer"));
  }
  SECTION("it does not answer") {
    peer.answer_open = [](auto&) { return Bytes(); };
    CHECK(contains(refusal(peer, 200), "no answer within 200 ms"));
  }
}

TEST_CASE("the worker says no") {
  Peer peer(Peer::Network::tcp);
  peer.opened.front_door = "tcp://127.0.0.1:1";
  SECTION("it is of another version") {
    peer.answer_hello = [&](auto&) {
      auto h = peer.header(wire::FrameKind::welcome);
      h.version = 9;
      return bytes_of(h);
    };
    CHECK(contains(refusal(peer), "speaks protocol version 9"));
  }
  SECTION("it answers for another session") {
    peer.answer_hello = [&](auto&) {
      auto h = peer.header(wire::FrameKind::welcome);
      h.session++;
      return bytes_of(h);
    };
    CHECK(contains(refusal(peer), "another session"));
  }
  SECTION("the broker names an endpoint that is none") {
    peer.opened.endpoint = "garbage";
    peer.answer_hello = [&](auto&) { return bytes_of(peer.header(wire::FrameKind::pong)); };  // nor is the control port a front door
    CHECK(contains(refusal(peer), "'garbage'"));
  }
}

TEST_CASE("an emulated network that is none is refused before anything is opened") {
  Peer peer(Peer::Network::tcp);
  Client c;
  c.config.emulate = "rtt=1parsec";
  CHECK_FALSE(c.open(peer));
  CHECK(contains(c.error, "'rtt=1parsec'"));
  CHECK(peer.count("open") == 0);
}

TEST_CASE("the peer's user is checked on ipc, and is never right on tcp") {
  Client ok, wrong;
  ok.config.check_peer_uid = wrong.config.check_peer_uid = 1;
  Peer ipc(Peer::Network::ipc);
  CHECK(ok.open(ipc));
  Peer tcp(Peer::Network::tcp);
  CHECK_FALSE(wrong.open(tcp));
  CHECK(contains(wrong.error, "user"));
}

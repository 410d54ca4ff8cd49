// Endpoints: what users write comes back as they wrote it, what cannot be used is refused with its own text in the error.
#include "semantic/transport/endpoint.hpp"

#include "tests/unit/catch.hpp"

using djinn::transport::Endpoint;
using djinn::transport::parse_endpoint;

static Endpoint good(const std::string& text) {
  std::string error;
  auto e = parse_endpoint(text, error);
  INFO(text << ": " << error);
  REQUIRE(e);
  CHECK(e->text() == text);
  return *e;
}

static std::string bad(const std::string& text) {
  std::string error;
  CHECK_FALSE(parse_endpoint(text, error));
  INFO(error);
  CHECK(error.find("'" + text.substr(0, 200)) != std::string::npos);
  return error;
}

TEST_CASE("endpoints that can be used") {
  Endpoint e = good("tcp://gpu.example:5555");
  CHECK(e.host == "gpu.example");
  CHECK(e.port == 5555);
  CHECK_FALSE(e.is_loopback());
  CHECK(good("tcp://127.0.0.1:0").is_loopback());
  CHECK(good("tcp://localhost:1").is_loopback());
  CHECK(good("tcp://[::1]:5555").is_loopback());
  CHECK_FALSE(good("tcp://[fe80::1]:5555").is_loopback());
  CHECK_FALSE(good("tcp://0.0.0.0:65535").is_loopback());
  CHECK(good("ipc:///run/djinn/socket").is_loopback());
}

TEST_CASE("endpoints that cannot") {
  for (const char* text : {"", "gpu:5555", "udp://gpu:5555", "tcp://", "tcp://gpu", "tcp://:5555", "tcp://gpu:", "tcp://gpu:http", "tcp://gpu:65536",
                           "tcp://gpu:-1", "tcp://gpu:5555/", "tcp://a b:5555", "tcp://::1:5555", "tcp://a;b:1", "ipc://", "ipc://relative"})
    bad(text);
  CHECK(bad("ipc:///" + std::string(120, 'x')).find("too long") != std::string::npos);
  CHECK(bad("tcp://gpu:5555x").find("port") != std::string::npos);
}

TEST_CASE("siblings") {
  CHECK(good("tcp://[::1]:5555").sibling(5556, "front").text() == "tcp://[::1]:5556");
  CHECK(good("ipc:///tmp/s").sibling(5556, "front").text() == "ipc:///tmp/s.front");
}

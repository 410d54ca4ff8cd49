// What a failed op says, and what its consumers say.
#include "tests/unit/aten/client.hpp"
#include "tests/unit/catch.hpp"

using namespace djinn::aten_test;

namespace {
constexpr uint32_t kRefused = 1, kException = 2, kSticky = 3;

Result bad_embedding(Client& c, const Tensor& out) {
  return c.run("aten::embedding", "", {c.put(at::randn({4, 3})), c.put(at::tensor({0, 9}, at::kLong)), -1, false, false}, {out});
}
}  // namespace

TEST_CASE("aten: a bad index names the op and what was wrong") {
  Client c;
  auto r = bad_embedding(c, c.empty({2, 3}, at::kFloat));
  CHECK(r.code == 710);
  CHECK(r.error_class == kSticky);  // a device-side assertion
  CHECK(r.operation == "aten::embedding");
  CHECK(r.text.rfind("index out of range", 0) == 0);
}

TEST_CASE("aten: consumers of a failed op report that op, until the memory is written anew") {
  Client c;
  Tensor out = c.empty({2, 3}, at::kFloat), y = c.empty({2, 3}, at::kFloat), z = c.empty({2, 3}, at::kFloat);
  REQUIRE(bad_embedding(c, out).code == 710);
  auto r = c.run("aten::add", "Tensor", {out, out, 1}, {y});
  CHECK(r.code == 710);
  CHECK(r.operation == "aten::embedding");
  CHECK(c.run("aten::relu", "", {y}, {z}).operation == "aten::embedding");
  SECTION("by an upload that this library does not hear of") {
    out.fill_(1);
    CHECK(c.run("aten::add", "Tensor", {out, out, 1}, {y}).code == 0);
    CHECK(at::equal(y, at::full({2, 3}, 2.0)));
    CHECK(c.run("aten::relu", "", {y}, {z}).code == 0);
  }
  SECTION("by an op that does not read it") {
    CHECK(c.run("aten::zero_", "", {out}, {Out::aliases(0)}).code == 0);
    CHECK(c.run("aten::add", "Tensor", {out, out, 1}, {y}).code == 0);
  }
}

TEST_CASE("aten: an in-place argument that failed half way is known by its content") {
  Client c;
  Tensor x = c.put(at::zeros({4})), y = c.empty({4}, at::kFloat);
  c10::List<std::optional<Tensor>> index;
  index.push_back(c.put(at::tensor({0, 9}, at::kLong)));
  auto r = c.run("aten::index_put_", "", {x, index, c.put(at::ones({2})), false}, {Out::aliases(0)});
  REQUIRE(r.code == 710);
  CHECK(c.run("aten::neg", "", {x}, {y}).code == 710);
  x.fill_(3);
  CHECK(c.run("aten::neg", "", {x}, {y}).code == 0);
}

TEST_CASE("aten: ops outside the list are refused by name") {
  Client c;
  auto r = c.run("aten::from_file", "", {"/etc/passwd", IValue(), 8, IValue(), IValue(), IValue(), IValue()}, {c.empty({8}, at::kByte)});
  CHECK(r.code == 801);
  CHECK(r.error_class == kRefused);
  CHECK(r.operation == "aten::from_file");
  CHECK(r.text.find("opens a file") != std::string::npos);
  CHECK(c.run("aten::no_such_op", "", {}, {}).code == 801);
  CHECK(c.run("aten::set_", "source_Tensor", {c.put(at::ones({2})), c.put(at::ones({2}))}, {Out::aliases(0)}).code == 801);
  // and the session lives
  Tensor y = c.empty({2}, at::kFloat);
  CHECK(c.run("aten::neg", "", {c.put(at::ones({2}))}, {y}).code == 0);
}

TEST_CASE("aten: argument checks that the client's shape cache skipped are reported here") {
  Client c;
  auto r = c.run("aten::mm", "", {c.put(at::ones({2, 3})), c.put(at::ones({2, 3}))}, {c.empty({2, 3}, at::kFloat)});
  CHECK(r.code == 999);
  CHECK(r.error_class == kException);
  CHECK(r.text.find("cannot be multiplied") != std::string::npos);
}

TEST_CASE("aten: memory that is not the session's is an illegal address, also after unmapping") {
  Client c;
  Tensor foreign = at::from_blob(c.base() + Client::kArena - 512, {64}, at::kDouble);  // 512 bytes: fits
  Tensor beyond = at::from_blob(c.base() + Client::kArena - 504, {64}, at::kDouble);
  Tensor out = c.empty({64}, at::kDouble);
  CHECK(c.run("aten::neg", "", {foreign}, {out}).code == 0);
  auto r = c.run("aten::neg", "", {beyond}, {out});
  CHECK(r.code == 700);
  CHECK(r.error_class == kSticky);
  CHECK(c.run("aten::neg", "", {out}, {beyond}).code == 700);
  c.shrink(Client::kArena - 4096);
  CHECK(c.run("aten::neg", "", {foreign}, {out}).code == 700);
}

TEST_CASE("aten: LinAlgError travels with its class") {
  Client c;
  Tensor info = c.empty({}, at::kInt);
  info.fill_(2);
  auto r = c.run("aten::_linalg_check_errors", "", {info, "linalg.inv", true}, {});
  CHECK(r.code == 999);
  CHECK(r.text.rfind("LinAlgError: ", 0) == 0);
}

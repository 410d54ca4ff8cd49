// Ops of CUDA graphs in the executor: kept with the descriptions that they had, run again on what the memory holds then.
#include "tests/unit/aten/client.hpp"
#include "tests/unit/catch.hpp"

using namespace djinn;
using namespace djinn::aten_test;

TEST_CASE("graph: an added op is not run; each run computes with the memory's contents of the time") {
  Client c;
  Tensor x = c.put(at::full({4}, 2.0)), y = c.put(at::zeros({4}));
  auto record = c.record("aten::add", "Tensor", {x, x, 1}, {y});
  REQUIRE(c.graph_add(7, record).code == 0);
  CHECK(close(y, at::zeros({4})));
  for (double value : {2.0, 5.0}) {
    x.fill_(value);
    REQUIRE(c.graph_run(7, 0).code == 0);
    CHECK(close(y, at::full({4}, 2 * value)));
  }
}

TEST_CASE("graph: descriptions that the client forgets or defines anew stay what they were") {
  Client c;
  Tensor x = c.put(at::full({4}, 3.0)), y = c.put(at::zeros({4})), z = c.put(at::zeros({4}));
  auto first = c.record("aten::mul", "Tensor", {x, x}, {y}), second = c.record("aten::mul", "Tensor", {y, x}, {z});
  REQUIRE(c.graph_add(1, first).code == 0);
  for (uint32_t id = 0; id < 6; id++) REQUIRE(c.execute(wire::Opcode::tensor_define, c.definition(c.put(at::ones({2, 2})), id)).code == 0);
  // the same ids, other tensors: the second record's own are gone too
  CHECK(c.graph_add(1, second).code == 0);
  REQUIRE(c.graph_run(1, 0).code == 0);
  CHECK(close(y, at::full({4}, 9.0)));
  Tensor w = c.put(at::zeros({4}));
  REQUIRE(c.graph_add(1, c.record("aten::mul", "Tensor", {y, x}, {w})).code == 0);
  REQUIRE(c.graph_run(1, 2).code == 0);
  CHECK(close(w, at::full({4}, 27.0)));
  CHECK(close(z, at::zeros({4})));
}

TEST_CASE("graph: a session's record cannot name what only a graph has, and runs among graphs are told apart") {
  Client c;
  Tensor x = c.put(at::ones({4}));
  REQUIRE(c.graph_add(1, c.record("aten::add_", "Scalar", {x, 1, 1}, {Out::aliases(0)})).code == 0);
  REQUIRE(c.graph_add(2, c.record("aten::mul_", "Scalar", {x, 3}, {Out::aliases(0)})).code == 0);
  CHECK(c.graph_run(1, 0).code == 0);
  CHECK(c.graph_run(2, 0).code == 0);
  CHECK(close(x, at::full({4}, 6.0)));
  for (auto [graph, index] : {std::pair<uint64_t, uint64_t>{1, 1}, {3, 0}, {2, ~0ull}}) CHECK(c.graph_run(graph, index).code == 1);
  c.graph_drop(1);
  CHECK(c.graph_run(1, 0).code == 1);
  CHECK(c.graph_run(2, 0).code == 0);
  c.graph_drop(9);  // nothing
}

TEST_CASE("graph: memory is checked when an op is added and whenever it runs") {
  Client c;
  Tensor x = c.put(at::ones({4})), far = c.empty({1 << 20}, at::kFloat);
  auto record = c.record("aten::fill_", "Scalar", {far, 1}, {Out::aliases(0)});
  REQUIRE(c.graph_add(1, record).code == 0);
  c.shrink(4096);
  CHECK(c.graph_run(1, 0).code == 700);
  CHECK(c.graph_add(1, record).code == 700);
}

TEST_CASE("graph: malformed records are refused when they are added") {
  Client c;
  Tensor x = c.put(at::ones({4})), y = c.like(x);
  auto good = c.record("aten::add", "Tensor", {x, x, 1}, {y});
  for (size_t n = 0; n < good.size(); n += 8) CHECK(c.graph_add(1, {good.begin(), good.begin() + static_cast<ptrdiff_t>(n)}).code != 0);
  auto longer = good;
  longer.resize(longer.size() + 8);
  CHECK(c.graph_add(1, longer).code != 0);
  CHECK(c.graph_add(1, std::vector<std::byte>(good.begin(), good.end() - 3)).code != 0);
  CHECK(c.graph_run(1, 0).code == 1);  // none was kept
}

TEST_CASE("graph: a generator in memory is read when the op runs") {
  Client c;
  Tensor state = c.put(at::tensor({11, 0}, at::kLong)), y = c.empty({64}, at::kFloat), expected = c.empty({64}, at::kFloat);
  uint64_t at = reinterpret_cast<uint64_t>(state.data_ptr());
  auto record = [&](uint64_t seed, uint64_t offset) {
    auto b = c.record("aten::uniform_", "", {y, 0.0, 1.0, IValue()}, {Out::aliases(0)}, 0);
    auto* head = reinterpret_cast<OpHead*>(b.data());
    head->flags = kHasGenerator | kGeneratorInMemory;
    wire::Writer(b).put(GeneratorInMemory{seed, offset, 8, 12});
    return b;
  };
  REQUIRE(c.graph_add(1, record(at, at + 8)).code == 0);
  for (int64_t offset : {0, 40}) {
    state[1] = offset;
    REQUIRE(c.graph_run(1, 0).code == 0);
    Generator g{11, static_cast<uint64_t>(offset) + 8, static_cast<uint64_t>(offset) + 12};
    REQUIRE(c.run("aten::uniform_", "", {expected, 0.0, 1.0, IValue()}, {Out::aliases(0)}, kHasGenerator, g).code == 0);
    CHECK(at::equal(y, expected));
  }
  CHECK(c.graph_add(1, record(at + 4, at)).code == 700);
  CHECK(c.graph_add(1, record(at, 0x1000)).code == 700);
  auto bare = record(at, at + 8);
  reinterpret_cast<OpHead*>(bare.data())->flags = kGeneratorInMemory;
  CHECK(c.graph_add(1, bare).code == 1);
}

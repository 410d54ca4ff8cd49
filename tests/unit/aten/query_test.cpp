// Server-first ops: reply, take, drop.
#include "tests/unit/aten/client.hpp"
#include "tests/unit/catch.hpp"

using namespace djinn::aten_test;
using djinn::wire::Opcode;
using djinn::wire::Reader;
using djinn::wire::Writer;

namespace {

struct Head {
  uint64_t stash, count;
};

Result take(Client& c, uint64_t stash, uint64_t index, const Tensor& to) {
  std::vector<std::byte> b;
  Writer w(b);
  w.put(OpTake{stash, index, reinterpret_cast<uint64_t>(to.data_ptr()), to.nbytes()});
  return c.execute(Opcode::op_take, b);
}
Result drop(Client& c, uint64_t stash) {
  std::vector<std::byte> b;
  Writer(b).put(djinn::wire::Handle{stash});
  return c.execute(Opcode::op_drop, b);
}

}  // namespace

TEST_CASE("aten: nonzero, taken and dropped") {
  Client c;
  Tensor a = at::tensor({0, 3, 0, 5}, at::kLong), x = c.put(a);
  auto r = c.query("aten::nonzero", "", {x}, 1);
  REQUIRE(r.code == 0);
  Reader in(r.reply);
  auto h = in.get<Head>();
  CHECK(h.count == 1);
  uint64_t w = in.get<uint64_t>();
  CHECK(tag_of(w) == Tag::tensor);
  CHECK(a_of(w) == 2);
  CHECK(b_of(w) == static_cast<uint16_t>(at::kLong));
  int64_t rows = in.get<int64_t>(), columns = in.get<int64_t>(), s0 = in.get<int64_t>(), s1 = in.get<int64_t>();
  CHECK(in.finished());
  CHECK(rows == 2);
  CHECK(columns == 1);
  Tensor out = c.strided({rows, columns}, {s0, s1}, at::kLong);
  Tensor wrong = c.empty({7}, at::kLong);
  CHECK(take(c, h.stash, 0, wrong).code == 1);
  CHECK(take(c, h.stash, 1, out).code == 1);
  CHECK(take(c, h.stash + 1, 0, out).code == 1);
  REQUIRE(take(c, h.stash, 0, out).code == 0);
  CHECK(at::equal(out, at::nonzero(a)));
  CHECK(drop(c, h.stash).code == 0);
  CHECK(drop(c, h.stash).code == 1);
  CHECK(take(c, h.stash, 0, out).code == 1);
}

TEST_CASE("aten: host results come in the reply") {
  Client c;
  Tensor x = c.put(at::ones({3}));
  auto r = c.query("aten::equal", "", {x, x}, 1);
  REQUIRE(r.code == 0);
  Reader in(r.reply);
  CHECK(in.get<Head>().stash == 0);
  uint64_t w = in.get<uint64_t>();
  CHECK(tag_of(w) == Tag::boolean);
  CHECK(a_of(w) == 1);
}

TEST_CASE("aten: out= of a server-first op is an empty host tensor, an in-place result is an alias") {
  Client c;
  Tensor x = c.put(at::tensor({1.0f, -1.0f}));
  auto r = c.query("aten::nonzero", "out", {x, at::empty({0}, at::kLong)}, 1);
  REQUIRE(r.text == "");
  Reader in(r.reply);
  in.get<Head>();
  CHECK(tag_of(in.get<uint64_t>()) == Tag::tensor);
  r = c.query("aten::abs_", "", {x}, 1);
  REQUIRE(r.text == "");
  Reader in2(r.reply);
  CHECK(in2.get<Head>().stash == 0);
  CHECK(in2.get<uint64_t>() == word(Tag::alias));
  CHECK(at::equal(x, at::ones({2})));
}

TEST_CASE("aten: sparse tensors in arguments and replies") {
  Client c;
  Tensor dense = at::tensor({0.f, 2.f, 3.f, 0.f}).view({2, 2});
  Tensor x = c.put(dense);
  auto r = c.query("aten::_to_sparse", "", {x, IValue(), IValue(), IValue()}, 1);
  REQUIRE(r.text == "");
  Reader in(r.reply);
  auto h = in.get<Head>();
  uint64_t w = in.get<uint64_t>();
  REQUIRE(tag_of(w) == Tag::sparse_tensor);
  CHECK(id_of(w) == 2);
  CHECK(in.get<int64_t>() == 2);
  CHECK(in.get<int64_t>() == 2);
  auto member = [&](at::ScalarType type) {
    uint64_t m = in.get<uint64_t>();
    REQUIRE(tag_of(m) == Tag::tensor);
    std::vector<int64_t> sizes(a_of(m)), strides(a_of(m));
    for (auto& s : sizes) s = in.get<int64_t>();
    for (auto& s : strides) s = in.get<int64_t>();
    Tensor t = c.strided(sizes, strides, type);
    REQUIRE(take(c, h.stash, id_of(m), t).code == 0);
    return t;
  };
  Tensor indices = member(at::kLong), values = member(at::kFloat);
  CHECK(in.finished());
  CHECK(at::equal(values, at::tensor({2.f, 3.f})));
  Tensor sparse = at::_sparse_coo_tensor_unsafe(indices, values, {2, 2}, std::nullopt, std::nullopt, std::nullopt, std::nullopt, true);
  Tensor out = c.empty({2, 2}, at::kFloat), m = c.put(at::randn({2, 2}));
  r = c.run("aten::mm", "", {sparse, m}, {out});
  REQUIRE(r.text == "");
  CHECK(close(out, at::mm(dense, m)));
}

// Ops called by name: which overload is found, composite ops and views, what is refused, and records that no client of ours writes.
#include <random>

#include "tests/unit/aten/client.hpp"
#include "tests/unit/catch.hpp"

using namespace djinn::aten_test;
using djinn::wire::Opcode;
using djinn::wire::Reader;
using djinn::wire::Writer;

namespace {

using Keywords = std::vector<std::pair<std::string, IValue>>;

std::vector<std::byte> record(Client& c, const std::string& name, const std::vector<IValue>& arguments, const Keywords& keywords = {}) {
  std::vector<std::byte> b;
  Writer w(b);
  w.put(OpCall{static_cast<uint32_t>(arguments.size()), static_cast<uint32_t>(keywords.size())});
  w.put_string(name);
  for (const auto& a : arguments) c.value(w, a);
  for (const auto& [key, a] : keywords) w.put_string(key), c.value(w, a);
  return b;
}

Result call(Client& c, const std::string& name, const std::vector<IValue>& arguments, const Keywords& keywords = {}) {
  return c.execute(Opcode::op_call, record(c, name, arguments, keywords));
}

// The first result, taken into the arena; the stash is dropped.
Tensor first(Client& c, const Result& r) {
  INFO(r.text);
  REQUIRE(r.code == 0);
  Reader in(r.reply);
  uint64_t stash = in.get<uint64_t>(), count = in.get<uint64_t>(), w = in.get<uint64_t>();
  REQUIRE(count >= 1);
  if (tag_of(w) == Tag::list) w = in.get<uint64_t>();
  REQUIRE(tag_of(w) == Tag::tensor);
  std::vector<int64_t> sizes(a_of(w)), strides(a_of(w));
  for (auto& s : sizes) s = in.get<int64_t>();
  for (auto& s : strides) s = in.get<int64_t>();
  REQUIRE(in.ok());
  Tensor t = c.strided(sizes, strides, static_cast<at::ScalarType>(b_of(w) & 0xff));
  std::vector<std::byte> take, drop;
  Writer(take).put(
      OpTake{stash, id_of(w), reinterpret_cast<uint64_t>(t.data_ptr()), at::detail::computeStorageNbytes(sizes, strides, t.element_size())});
  REQUIRE(c.execute(Opcode::op_take, take).text == "");
  Writer(drop).put(djinn::wire::Handle{stash});
  REQUIRE(c.execute(Opcode::op_drop, drop).text == "");
  return t;
}

}  // namespace

TEST_CASE("aten call: the overload is found by its arguments") {
  Client c;
  Tensor a = at::randn({3, 4}), b = at::randn({3, 4}), x = c.put(a), y = c.put(b);
  CHECK(at::equal(first(c, call(c, "aten::add", {x, y})), a + b));
  CHECK(at::equal(first(c, call(c, "aten::add", {x, 2.5})), a + 2.5));
  CHECK(at::equal(first(c, call(c, "aten::add.Tensor", {x, y}, {{"alpha", 2}})), at::add(a, b, 2)));
  CHECK(at::equal(first(c, call(c, "aten::sub", {1, y})), 1 - b));
  CHECK(at::equal(first(c, call(c, "aten::sum", {x})), a.sum()));
  CHECK(at::equal(first(c, call(c, "aten::sum", {x, 1})), a.sum(1)));  // int[1]: a number alone
  CHECK(at::equal(first(c, call(c, "aten::sum", {x, ints({0, 1})}, {{"keepdim", true}})), a.sum({0, 1}, true)));
  CHECK(at::equal(first(c, call(c, "aten::cat", {tensors({x, y}), 1})), at::cat({a, b}, 1)));
  CHECK(at::equal(first(c, call(c, "aten::clamp", {x}, {{"max", 0.5}})), at::clamp(a, {}, 0.5)));
}

TEST_CASE("aten call: composite ops and views") {
  Client c;
  Tensor a = at::randn({4, 6}), b = at::randn({6, 5}), x = c.put(a), y = c.put(b);
  CHECK(close(first(c, call(c, "aten::matmul", {x, y})), at::matmul(a, b)));
  CHECK(close(first(c, call(c, "aten::softmax", {x, -1})), at::softmax(a, -1)));
  CHECK(close(first(c, call(c, "aten::layer_norm", {x, ints({6})})), at::layer_norm(a, {6})));
  CHECK(at::equal(first(c, call(c, "aten::t", {x})), a.t()));
  CHECK(at::equal(first(c, call(c, "aten::chunk", {x, 2})), a.chunk(2)[0]));
  Tensor image = at::randn({1, 2, 8, 8}), kernel = at::randn({3, 2, 3, 3});
  CHECK(close(first(c, call(c, "aten::conv2d", {c.put(image), c.put(kernel)}, {{"padding", 1}})), at::conv2d(image, kernel, {}, 1, 1), 1e-4));
  CHECK(first(c, call(c, "aten::to", {x, static_cast<int64_t>(at::kBFloat16)})).scalar_type() == at::kBFloat16);
}

TEST_CASE("aten call: what is not there, is denied, or does not fit says so, and the next op runs") {
  Client c;
  Tensor x = c.put(at::ones({2, 3}));
  auto refused = [&](const Result& r, const std::string& words) {
    INFO(r.text);
    CHECK(r.code != 0);
    CHECK(r.error_class <= static_cast<uint32_t>(djinn::wire::ErrorClass::exception));
    CHECK(r.text.find(words) != std::string::npos);
  };
  refused(call(c, "aten::no_such_op", {x}), "there is no operator aten::no_such_op");
  refused(call(c, "aten::add.Nothing", {x}), "no overload Nothing");
  refused(call(c, "", {x}), "no operator");
  refused(call(c, "aten::set_", {x, x}), "not executed by this server");
  refused(call(c, "aten::resize_", {x, ints({9})}), "not executed by this server");
  refused(call(c, "aten::from_file", {"/etc/passwd"}), "it opens a file of the server");
  refused(call(c, "aten::fbgemm_pack_gemm_matrix_fp16", {x}), "server's process");
  refused(call(c, "aten::squeeze_", {x}), "it changes the shape of the tensor");
  refused(call(c, "aten::relu", {x, x}), "takes 1 arguments, not 2");
  refused(call(c, "aten::relu", {}), "argument 'self' is missing");
  refused(call(c, "aten::relu", {"text"}), "argument 'self' is Tensor, not str");
  refused(call(c, "aten::relu", {x}, {{"other", 1}}), "has no argument 'other'");
  refused(call(c, "aten::relu", {x}, {{"self", x}}), "given twice");
  refused(call(c, "aten::sum", {x, 6, 6}), "no overload takes these arguments");
  refused(call(c, "aten::matmul", {x, x}), "shapes cannot be multiplied");
  refused(call(c, "aten::index_select", {x, 0, c.put(at::tensor({7}, at::kLong))}), "out of range");
  refused(call(c, "aten::_reshape_alias", {x, ints({1000}), ints({1})}), "beyond its storage");
  refused(call(c, "aten::_reshape_alias_copy", {x, ints({1000}), ints({1})}), "not executed by this server");
  CHECK(at::equal(first(c, call(c, "aten::relu", {x})), at::ones({2, 3})));
}

TEST_CASE("aten call: an op in place changes its argument and says which it was") {
  Client c;
  Tensor x = c.put(at::full({2, 2}, -3.0f));
  auto r = call(c, "aten::abs_", {x});
  REQUIRE(r.text == "");
  Reader in(r.reply);
  CHECK(in.get<uint64_t>() == 0);
  in.get<uint64_t>();
  CHECK(in.get<uint64_t>() == word(Tag::alias));
  CHECK(at::equal(x, at::full({2, 2}, 3.0f)));
  Tensor out = c.empty({2, 2}, at::kFloat);
  r = call(c, "aten::add", {x, x}, {{"alpha", 1}, {"out", out}});
  REQUIRE(r.text == "");
  Reader in2(r.reply);
  in2.get<uint64_t>(), in2.get<uint64_t>();
  CHECK(in2.get<uint64_t>() == word(Tag::alias, 0, 0, 3));  // the fourth value given
  CHECK(at::equal(out, at::full({2, 2}, 6.0f)));
}

TEST_CASE("aten call: what is refused leaves its arguments as they were") {
  Client c;
  Tensor x = c.put(at::full({2, 2}, 5.0f)), out = c.put(at::full({2}, 7.0f)), wrong = c.put(at::ones({3}));
  CHECK(call(c, "aten::add_", {x, wrong}).code != 0);
  CHECK(call(c, "aten::mul", {x, wrong}, {{"out", out}}).code != 0);
  CHECK(at::equal(first(c, call(c, "aten::neg", {x})), at::full({2, 2}, -5.0f)));
  CHECK(at::equal(first(c, call(c, "aten::neg", {out})), at::full({2}, -7.0f)));
}

TEST_CASE("aten call: memory outside the session is illegal") {
  Client c;
  Tensor x = c.put(at::ones({2}));
  auto b = record(c, "aten::relu", {x});
  c.shrink(0);
  auto r = c.execute(Opcode::op_call, b);
  CHECK(r.code == 700);
  CHECK(r.error_class == static_cast<uint32_t>(djinn::wire::ErrorClass::sticky));
}

TEST_CASE("aten call: every prefix of a record is refused, noise never crashes") {
  Client c;
  std::mt19937_64 random(13);
  Tensor x = c.put(at::ones({2, 3}));
  std::vector<std::vector<std::byte>> records{
      record(c, "aten::cat", {tensors({x, x}), 0}),
      record(c, "aten::add", {x, at::scalar_tensor(1.0)}, {{"alpha", 2}}),
      record(c, "aten::layer_norm", {x, ints({3})}, {{"eps", 1e-5}, {"weight", IValue()}}),
      record(c, "aten::conv2d", {x, x}, {{"padding", "same"}, {"dilation", ints({1, 1})}}),
  };
  for (size_t n = 0; n < records[1].size(); n++) {
    auto cut = records[1];
    cut.resize(n);
    CHECK(c.execute(Opcode::op_call, cut).code == 1);
  }
  auto longer = records[1];
  longer.resize(longer.size() + 8);
  CHECK(c.execute(Opcode::op_call, longer).code == 1);
  size_t refused = 0, total = 20000;
  for (size_t i = 0; i < total; i++) {
    auto b = records[random() % records.size()];
    size_t at = random() % (b.size() / 8) * 8;
    uint64_t noise = random() % 3 ? random() >> (random() % 64) : 1ull << random() % 64;
    std::memcpy(b.data() + at, &noise, 8);
    auto r = c.execute(Opcode::op_call, b);
    refused += r.code != 0;
    if (r.code) continue;
    uint64_t stash = Reader(r.reply).get<uint64_t>();
    std::vector<std::byte> drop;
    Writer(drop).put(djinn::wire::Handle{stash});
    if (stash) c.execute(Opcode::op_drop, drop);
  }
  CHECK(refused > total / 4);
  CHECK(at::equal(first(c, call(c, "aten::neg", {c.put(at::ones({2}))})), at::full({2}, -1.0f)));
}

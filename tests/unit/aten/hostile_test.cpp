// Records that no client of ours writes: every prefix, every changed word, and noise. Nothing may crash, and a broken record is refused as such.
#include <random>

#include "tests/unit/aten/client.hpp"
#include "tests/unit/catch.hpp"

using namespace djinn::aten_test;
using djinn::wire::Opcode;
using djinn::wire::Writer;

TEST_CASE("aten: every prefix of a record is refused") {
  Client c;
  Tensor x = c.put(at::ones({2, 3})), out = c.empty({4, 3}, at::kFloat);
  auto record = c.record("aten::cat", "", {tensors({x, x}), 0}, {out});
  for (size_t n = 0; n < record.size(); n++) {
    auto cut = record;
    cut.resize(n);
    auto r = c.execute(Opcode::op_run, cut);
    CHECK(r.code == 1);
  }
  CHECK(c.execute(Opcode::op_run, record).code == 0);
  record.resize(record.size() + 8);
  CHECK(c.execute(Opcode::op_run, record).code == 1);
}

TEST_CASE("aten: changed words and noise never crash") {
  Client c;
  std::mt19937_64 random(11);
  Tensor x = c.put(at::ones({2, 3})), out = c.empty({4, 3}, at::kFloat), scalar = at::scalar_tensor(1.0);
  std::vector<std::vector<std::byte>> records{
      c.record("aten::cat", "", {tensors({x, x}), 0}, {out}),
      c.record("aten::add", "Tensor", {x, scalar, 1}, {c.like(x)}),
      c.record("aten::native_layer_norm", "", {x, ints({3}), IValue(), IValue(), 1e-5}, {c.like(x), Out(), Out()}),
      c.record("aten::split_with_sizes_copy", "", {x, ints({1, 1}), 0},
               {Out(std::vector<Tensor>{c.empty({1, 3}, at::kFloat), c.empty({1, 3}, at::kFloat)})}),
  };
  size_t refused = 0, total = 0;
  for (int i = 0; i < 20000; i++) {
    auto b = records[random() % records.size()];
    size_t at = random() % (b.size() / 8) * 8;
    uint64_t word = random() % 3 ? random() >> (random() % 64) : 1ull << random() % 64;
    std::memcpy(b.data() + at, &word, 8);
    refused += c.execute(static_cast<Opcode>(i % 7 ? Opcode::op_run : Opcode::op_query), b).code != 0;
    total++;
  }
  CHECK(refused > total / 4);
  Tensor z = c.put(at::ones({2})), y = c.like(z);  // fresh memory: some of the noise named x as an output, which is spoilt now
  CHECK(c.run("aten::neg", "", {z}, {y}).code == 0);
}

TEST_CASE("aten: tensor definitions that overflow, wrap or lie") {
  Client c;
  auto define = [&](TensorDefine d, std::vector<int64_t> shape) {
    std::vector<std::byte> b;
    Writer w(b);
    w.put(d);
    for (auto s : shape) w.put(s);
    return c.execute(Opcode::tensor_define, b).code;
  };
  uint64_t base = reinterpret_cast<uint64_t>(c.base());
  uint8_t f = static_cast<uint8_t>(at::kFloat);
  constexpr int64_t kHuge = int64_t{1} << 62;
  CHECK(define({0, 1, f, 0, base, 16, 0}, {4, 1}) == 0);
  CHECK(define({0, 1, f, 0, base, 15, 0}, {4, 1}) == 1);
  CHECK(define({0, 1, f, 0, base, 16, 1}, {4, 1}) == 1);
  CHECK(define({0, 1, f, 0, base, 16, -1}, {4, 1}) == 1);
  CHECK(define({0, 1, f, 0, base, 16, 0}, {4, -1}) == 1);
  CHECK(define({0, 1, f, 0, base, 16, 0}, {-4, 1}) == 1);
  CHECK(define({0, 2, f, 0, base, 16, 0}, {kHuge, 4, 1, 1}) == 1);
  CHECK(define({0, 1, f, 0, base, 16, 0}, {kHuge, kHuge}) == 1);
  CHECK(define({0, 1, f, 0, base, 16, kHuge}, {4, 1}) == 1);
  CHECK(define({0, 1, f, 0, ~0ull - 7, 16, 0}, {4, 1}) == 1);
  CHECK(define({0, 1, 200, 0, base, 16, 0}, {4, 1}) == 1);
  CHECK(define({0, 1, f, 0x8000, base, 16, 0}, {4, 1}) == 1);
  CHECK(define({0, 1, f, kConjugate, base, 16, 0}, {4, 1}) == 1);
  CHECK(define({0, 65, f, 0, base, 16, 0}, {4, 1}) == 1);
  CHECK(define({1u << 20, 1, f, 0, base, 16, 0}, {4, 1}) == 1);
  CHECK(define({0, 1, f, 0, base, 16, 0}, {4}) == 1);
  CHECK(define({0, 1, f, 0, base + 2, 16, 0}, {4, 1}) == 1);
  CHECK(define({0, 1, f, kZeroTensor, 0, 0, 0}, {4, 1}) == 0);
}

TEST_CASE("aten: forgotten tensors are gone") {
  Client c;
  uint32_t id = c.define(c.empty({2}, at::kFloat));
  auto forget = [&](std::vector<uint32_t> ids) {
    std::vector<std::byte> b;
    Writer(b).put_array<uint32_t>(ids);
    return c.execute(Opcode::tensor_forget, b).code;
  };
  CHECK(forget({id}) == 0);
  CHECK(forget({id}) == 1);
  CHECK(forget({4000000}) == 1);
}

TEST_CASE("aten: values of another kind than the schema has") {
  Client c;
  Tensor x = c.put(at::ones({2})), y = c.like(x);
  CHECK(c.run("aten::neg", "", {3}, {y}).code == 1);
  CHECK(c.run("aten::neg", "", {IValue()}, {y}).code == 1);
  CHECK(c.run("aten::add", "Tensor", {x, x, "text"}, {y}).code == 1);
  CHECK(c.run("aten::cat", "", {x, 0}, {y}).code == 1);
  CHECK(c.run("aten::cat", "", {ints({1}), 0}, {y}).code == 1);
  CHECK(c.run("aten::neg", "", {x, x}, {y}).code == 1);
  CHECK(c.run("aten::neg", "", {x}, {}).code == 1);
}

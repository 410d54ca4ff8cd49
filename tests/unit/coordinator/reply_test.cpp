// Answers of every kind, and answers that no server of ours writes: each is a result or an exception, never a crash, and the stash is always dropped.
#include <random>

#include "tests/unit/coordinator/rig.hpp"

using namespace djinn;
using namespace djinn::test;
using wire::Opcode;
using wire::op::ListKind;
using wire::op::Tag;
using wire::op::word;

namespace {

std::vector<std::byte> everything() {
  std::vector<std::byte> b;
  wire::Writer w(b);
  w.put<uint64_t>(9), w.put<uint64_t>(7);
  w.put(word(Tag::integer)), w.put<int64_t>(-4);
  w.put(word(Tag::real)), w.put(0.5);
  w.put(word(Tag::boolean, 1));
  w.put(word(Tag::complex)), w.put(1.0), w.put(2.0);
  w.put(word(Tag::none));
  w.put(word(Tag::list, static_cast<uint8_t>(ListKind::tensors), 0, 2));
  for (uint32_t i = 0; i < 2; i++) w.put(word(Tag::tensor, 1, static_cast<uint16_t>(DType::int64), i)), w.put<int64_t>(3), w.put<int64_t>(1);
  w.put(word(Tag::list, static_cast<uint8_t>(ListKind::integers), 0, 2)), w.put<int64_t>(1), w.put<int64_t>(2);
  return b;
}

}  // namespace

TEST_CASE("coordinator reply: each kind of value") {
  Rig rig;
  auto r = rig.call("aten::many", {}, everything());
  REQUIRE(r.size() == 7);
  CHECK(std::get<int64_t>(r[0]) == -4);
  CHECK(std::get<double>(r[1]) == 0.5);
  CHECK(std::get<bool>(r[2]));
  CHECK(std::get<std::complex<double>>(r[3]) == std::complex<double>(1, 2));
  CHECK(std::holds_alternative<std::monostate>(r[4]));
  auto& tensors = std::get<Values>(r[5]);
  REQUIRE(tensors.size() == 2);
  CHECK(tensors[1].tensor().dtype() == DType::int64);
  CHECK(tensors[1].tensor().elements() == 3);
  CHECK(std::get<int64_t>(std::get<Values>(r[6])[1]) == 2);
  rig.link.tick(), rig.link.step();
  CHECK(rig.sent(Opcode::op_take) == 2);
  CHECK(rig.sent(Opcode::op_drop) == 1);
}

TEST_CASE("coordinator reply: a tensor with holes is fetched without them") {
  Rig rig;
  std::vector<std::byte> b;
  wire::Writer w(b);
  w.put<uint64_t>(3), w.put<uint64_t>(1), w.put(word(Tag::tensor, 2, static_cast<uint16_t>(DType::float32), 0));
  for (int64_t n : {2, 2, 1, 3}) w.put(n);  // transposed, with a hole
  auto r = rig.call("aten::t", {}, b);
  auto remote = r.at(0).tensor().remote();
  CHECK(remote->bytes == 20);
  rig.link.tick(), rig.link.step();
  auto bytes = r[0].tensor().fetch();
  CHECK(bytes.size() == 16);
  CHECK(rig.session->statistics().results_fetched == 1);
}

TEST_CASE("coordinator reply: a tensor of more bytes than there are numbers for is refused") {
  Rig rig;
  auto answer = [](int64_t size) {
    std::vector<std::byte> b;
    wire::Writer w(b);
    w.put<uint64_t>(3), w.put<uint64_t>(1), w.put(word(Tag::tensor, 1, static_cast<uint16_t>(DType::complex128)));
    w.put(size), w.put<int64_t>(0);
    return b;
  };
  CHECK_THROWS_AS(rig.call("aten::expand", {}, answer((int64_t{1} << 60) + 1)), OperationError);  // 16 bytes, if it were counted in 64 bits
  CHECK(rig.call("aten::expand", {}, answer(2)).at(0).tensor().fetch().size() == 32);
}

TEST_CASE("coordinator reply: every prefix is refused, noise never crashes") {
  Rig rig;
  auto whole = everything();
  size_t refused = 0, calls = 0;
  auto attempt = [&](std::vector<std::byte> answer) {
    ++calls;
    try {
      rig.call("aten::many", {}, std::move(answer));
    } catch (const OperationError& e) {
      ++refused;
      CHECK_FALSE(e.reason.empty());
    }
  };
  for (size_t n = 0; n < whole.size(); n += 8) attempt({whole.begin(), whole.begin() + static_cast<ptrdiff_t>(n)});
  CHECK(refused == calls);
  std::mt19937_64 random(3);
  for (int i = 0; i < 5000; i++) {
    auto b = whole;
    size_t at = random() % (b.size() / 8) * 8;
    uint64_t noise = random() % 3 ? random() >> (random() % 64) : 1ull << random() % 64;
    std::memcpy(b.data() + at, &noise, 8);
    attempt(b);
    rig.link.clear();
  }
  CHECK_FALSE(rig.session->lost());
}

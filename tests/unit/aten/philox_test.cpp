// The words, their layout and the numbers made of them. Known answers: Random123's table for philox4x32-10; for whole ops what PyTorch's users have
// published as the output of CUDA devices (tutorials and forum threads print torch.rand and torch.randn for seeds 0 and 42).
#include "server/execute/cpu/aten/philox.hpp"

#include "tests/unit/aten/client.hpp"
#include "tests/unit/catch.hpp"

using namespace djinn::aten_test;
using namespace djinn::aten;

using djinn::aten::pair;
using Generator = djinn::wire::op::Generator;

namespace {

// |a - b| in units of a's last place; b is exact enough.
double ulps(float a, double b) {
  double unit = std::max(std::abs(std::nextafter(a, INFINITY) - static_cast<double>(a)), 1e-38);
  return std::abs(static_cast<double>(a) - b) / unit;
}

Tensor draw(Client& c, const char* name, const char* overload, const Tensor& self, std::vector<IValue> arguments, uint64_t seed,
            uint64_t offset = 0) {
  std::vector<IValue> all{self};
  for (auto& a : arguments) all.push_back(a);
  all.emplace_back();  // the generator
  auto r = c.run(name, overload, all, {Out::aliases(0)}, kHasGenerator, Generator{seed, offset, offset});
  INFO(r.text);
  REQUIRE(r.code == 0);
  return self.clone();
}
void check_first(const Tensor& t, std::vector<double> printed) {
  for (size_t i = 0; i < printed.size(); i++) {
    INFO(i);
    CHECK(std::abs(t.flatten()[static_cast<int64_t>(i)].item<double>() - printed[i]) < 0.51e-4);
  }
}

}  // namespace

TEST_CASE("philox: Random123's known answers") {
  CHECK(philox({0, 0, 0, 0}, 0, 0) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox({~0u, ~0u, ~0u, ~0u}, ~0u, ~0u) == Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0xa4093822, 0x299f31d0) == Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("philox: a thread's sequence is the counter's high half, the offset counts words") {
  Philox p{0x0123456789abcdef, 8};
  CHECK(p.block(5, 1) == philox({3, 0, 5, 0}, 0x89abcdef, 0x01234567));
  CHECK(p.block(uint64_t{1} << 33, 0) == philox({2, 0, 0, 2}, 0x89abcdef, 0x01234567));
  CHECK((Philox{1, uint64_t{4} << 32}.block(0, 0)) == philox({0, 1, 0, 0}, 1, 0));
  CHECK(p.word(7, 6) == p.block(7, 1)[2]);
}

TEST_CASE("philox: launches as calc_execution_policy computes them") {
  DeviceShape small{4, 1536};  // 24 blocks of 256
  CHECK(Launch(1, 4, small).threads == 256);
  CHECK(Launch(257, 4, small).threads == 512);
  CHECK(Launch(257, 4, small).increment() == 4);
  CHECK(Launch(1 << 20, 4, small).threads == 6144);
  CHECK(Launch(6144 * 4, 4, small).increment() == 4);
  CHECK(Launch(6144 * 4 + 1, 4, small).increment() == 8);
  CHECK(Launch(6144 * 4, 2, small).increment() == 8);
  CHECK(Launch(1 << 20, 4, {108, 2048}).threads == 108 * 8 * 256);
}

TEST_CASE("philox: uniform bits are exact, their bounds are (0, 1]") {
  CHECK(uniform(0) == 0x1p-33f);
  CHECK(uniform(~0u) == 1.0f);
  CHECK(uniform(0x80000000) == 0.5f);
  CHECK(uniform(1) == 0x1.8p-32f);
  CHECK(uniform_double(0, 0) == 0x1p-54);
  CHECK(uniform_double(0x1fffff, ~0u) == 1.0);
  CHECK(uniform_double(1, 1) == 0x1p-53 * (1 + (1 << 21)) + 0x1p-54);
}

TEST_CASE("philox: normal and exponential are within 4 ulp of their formulas in double") {
  constexpr double kTurn = 0x1p-32f * 6.2831855f;
  Philox p{1234, 0};
  double worst = 0, worst_exponential = 0;
  for (uint64_t i = 0; i < 200000; i++) {
    Words w = p.block(i, 0);
    auto [a, b] = normal_pair(w[0], w[1]);
    double radius = std::sqrt(-2 * std::log(static_cast<double>(uniform(w[0]))));
    double angle = static_cast<float>(static_cast<float>(w[1]) * kTurn + kTurn / 2);
    worst = std::max({worst, ulps(a, std::sin(angle) * radius), ulps(b, std::cos(angle) * radius)});
    float u = uniform(w[2]);
    double log = u >= 1 - 0x1p-24 ? -0x1p-24 : std::log(static_cast<double>(u));
    worst_exponential = std::max(worst_exponential, ulps(exponential(u, 1.5f), -1 / 1.5 * log));
  }
  CHECK(worst <= 4);
  CHECK(worst_exponential <= 4);
  CHECK(exponential(1.0f, 1.0f) > 0);
}

TEST_CASE("random: what CUDA devices print") {
  Client c;
  Tensor x = c.empty({10}, at::kFloat);
  check_first(draw(c, "aten::uniform_", "", x, {0.0, 1.0}, 0), {0.3990, 0.5167, 0.0249, 0.9401, 0.9459, 0.7967, 0.4150, 0.8203, 0.2290, 0.9096});
  check_first(draw(c, "aten::normal_", "", x, {0.0, 1.0}, 0), {-0.9247, -0.4253, -2.6438, 0.1452, -0.1209, -0.5797, -0.6229, -0.3284, -1.0745});
  check_first(draw(c, "aten::normal_", "", x, {0.0, 1.0}, 42), {0.1940, 2.1614, -0.1721, 0.8491, -1.9244, 0.6530, -0.6494, -0.8175, 0.5280});
}

TEST_CASE("random: each element's words follow from the launch, through the rounds and lanes of a long tensor") {
  Client c;
  constexpr int64_t kElements = 60000;
  Tensor x = draw(c, "aten::uniform_", "", c.empty({kElements}, at::kFloat), {0.0, 1.0}, 9, 12);
  Tensor d = draw(c, "aten::uniform_", "", c.empty({kElements}, at::kDouble), {0.0, 1.0}, 9, 12);
  Tensor i = draw(c, "aten::random_", "to", c.empty({kElements}, at::kInt), {1000}, 9, 12);
  Tensor wide = draw(c, "aten::random_", "to", c.empty({kElements}, at::kLong), {int64_t{1} << 40}, 9, 12);
  Philox p{9, 12};
  bool all = true;
  for (int64_t n = 0; n < kElements; n += 7) {
    auto e = static_cast<uint64_t>(n), threads = uint64_t{6144}, strip = e / threads;
    float u = uniform(p.block(e % threads, strip / 4)[strip % 4]);
    all &= x[n].item<float>() == (u == 1 ? 0 : u);
    all &= i[n].item<int>() == static_cast<int>(p.block(e % threads, strip / 4)[strip % 4] % 1000);
    Words w = p.block(e % threads, strip / 2);
    size_t lane = strip % 2 * 2;
    all &= d[n].item<double>() == uniform_double(w[lane], w[lane + 1]);
    all &= static_cast<uint64_t>(wide[n].item<int64_t>()) == pair(w[lane], w[lane + 1]) % (uint64_t{1} << 40);
  }
  CHECK(all);
}

TEST_CASE("random: a transposed tensor is filled in the order of its memory, as TensorIterator walks it") {
  Client c;
  Tensor flat = draw(c, "aten::normal_", "", c.empty({12}, at::kFloat), {0.0, 1.0}, 3);
  Tensor t = c.empty({4, 3}, at::kFloat).t();
  draw(c, "aten::normal_", "", t, {0.0, 1.0}, 3);
  CHECK(at::equal(t.t().reshape({12}), flat));
}

TEST_CASE("random: dropout reads in vectors of 16 bytes, without remainder") {
  Client c;
  Philox p{5, 4};
  auto mask_of = [&](int64_t n, at::ScalarType type) {
    Tensor x = c.put(at::ones({n}, type)), y = c.empty({n}, type), mask = c.empty({n}, at::kBool);
    auto r = c.run("aten::native_dropout", "", {x, 0.25, true}, {y, mask}, kHasGenerator, Generator{5, 4, 8});
    REQUIRE(r.code == 0);
    CHECK(close(y, mask.to(type) / 0.75, 1e-2));
    return mask.clone();
  };
  auto kept = [&](uint64_t thread, uint64_t round, size_t lane) { return uniform(p.block(thread, round)[lane]) < 0.75f; };
  Tensor four = mask_of(30000, at::kFloat), eight = mask_of(60000, at::kHalf), one = mask_of(30001, at::kFloat), two = mask_of(30000, at::kDouble);
  bool all = true;
  for (uint64_t e = 0; e < 30000; e++) {
    auto at = [&](const Tensor& t) { return t.const_data_ptr<bool>()[e]; };
    all &= at(four) == kept(e / 4 % 6144, e / 4 / 6144, e % 4);
    all &= at(eight) == kept(e / 8 % 6144, e / 8 / 6144 * 2 + e % 8 / 4, e % 4);
    all &= at(two) == kept(e / 2 % 6144, e / 2 / 6144, e % 2);
    all &= at(one) == kept(e % 6144, e / 6144 / 4, e / 6144 % 4);
  }
  CHECK(all);
}

TEST_CASE("random: a permutation is one, also with equal keys, and follows the keys") {
  Client c;
  for (int64_t n : {1, 2, 50, 3000, 40000}) {
    INFO(n);
    Tensor out = c.empty({n}, at::kLong);
    REQUIRE(c.run("aten::randperm", "generator_out", {n, IValue(), out}, {Out::aliases(2)}, kHasGenerator, Generator{1, 0, 0}).code == 0);
    CHECK(at::equal(std::get<0>(out.sort()), at::arange(n)));
  }
  // with 10 keys of 9 bits the keys' low bits decide
  Tensor out = c.empty({10}, at::kLong);
  REQUIRE(c.run("aten::randperm", "generator_out", {10, IValue(), out}, {Out::aliases(2)}, kHasGenerator, Generator{1, 0, 0}).code == 0);
  std::vector<std::pair<uint32_t, int64_t>> keys;
  for (uint64_t i = 0; i < 10; i++) {
    Words w = Philox{1, 0}.block(i, 0);
    keys.emplace_back(static_cast<uint32_t>(static_cast<int64_t>(pair(w[0], w[1]) % 0xffffffffu) + INT32_MIN) & 0x1ff, static_cast<int64_t>(i));
  }
  std::stable_sort(keys.begin(), keys.end(), [](auto& a, auto& b) { return a.first < b.first; });
  for (size_t i = 0; i < 10; i++) CHECK(out[static_cast<int64_t>(i)].item<int64_t>() == keys[i].second);
}

TEST_CASE("random: multinomial never takes what has no probability; bad probabilities are assertions") {
  Client c;
  for (bool replacement : {true, false}) {
    Tensor p = c.put(at::tensor({0.0, 0.5, 0.0, 0.25, 0.25})), out = c.empty({3}, at::kLong);
    REQUIRE(c.run("aten::multinomial", "", {p, 3, replacement, IValue()}, {out}, kHasGenerator, Generator{2, 0, 0}).code == 0);
    CHECK(!at::isin(out, at::tensor({0, 2}, at::kLong)).any().item<bool>());
    for (double bad : {-1.0, static_cast<double>(NAN), static_cast<double>(INFINITY)}) {
      auto r = c.run("aten::multinomial", "", {c.put(at::tensor({0.5, bad})), 2, replacement, IValue()}, {c.empty({2}, at::kLong)}, kHasGenerator,
                     Generator{2, 0, 0});
      CHECK(r.code == 710);
      CHECK(r.error_class == 3);
    }
  }
}

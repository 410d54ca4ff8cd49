// What the executor adds to an op: run by hand with `aten_test "[bench]"`.
#include <chrono>
#include <cstdio>

#include "tests/unit/aten/client.hpp"
#include "tests/unit/catch.hpp"

using namespace djinn::aten_test;

TEST_CASE("aten: cost per op", "[.][bench]") {
  Client c;
  auto measure = [&](const char* what, const std::vector<std::byte>& record) {
    constexpr int kRounds = 200000;
    for (int i = 0; i < 1000; i++) REQUIRE(c.execute(djinn::wire::Opcode::op_run, record).code == 0);
    djinn_executor_result r{};
    auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kRounds; i++) c.raw(djinn::wire::Opcode::op_run, record, r);
    std::chrono::duration<double, std::micro> t = std::chrono::steady_clock::now() - start;
    std::printf("%-40s %.3f us\n", what, t.count() / kRounds);
  };
  Tensor x = c.put(at::randn({8})), y = c.like(x);
  measure("neg of 8", c.record("aten::neg", "", {x}, {y}));
  measure("add of 8", c.record("aten::add", "Tensor", {x, x, 1}, {y}));
  Tensor half = at::scalar_tensor(0.5, at::kDouble);
  half.unsafeGetTensorImpl()->set_wrapped_number(true);
  measure("mul of 8 by a wrapped number", c.record("aten::mul", "Tensor", {x, half}, {y}));
  measure("fill_ in place", c.record("aten::fill_", "Scalar", {y, 1}, {Out::aliases(0)}));
  measure("sum over dims", c.record("aten::sum", "dim_IntList", {x, ints({0}), false, IValue()}, {c.empty({}, at::kFloat)}));
  c10::List<Tensor> many;
  for (int i = 0; i < 50; i++) many.push_back(c.put(at::randn({8})));
  if (!getenv("ATEN_SKIP_FOREACH")) measure("_foreach_mul_ of 50", c.record("aten::_foreach_mul_", "Scalar", {many, 1.0}, {}));
  at::NoGradGuard off;
  auto native = [&](const char* what, auto f) {
    for (int i = 0; i < 1000; i++) f();
    auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < 20000; i++) f();
    std::chrono::duration<double, std::micro> t = std::chrono::steady_clock::now() - start;
    std::printf("%-40s %.3f us\n", what, t.count() / 20000);
  };
  c10::InferenceMode inference;
  native("native neg of 8", [&] { at::neg(x); });
  native("native add of 8", [&] { at::add(x, x); });
  native("native fill_", [&] { y.fill_(1); });
  std::vector<Tensor> list = many.vec();
  native("native _foreach_mul_ of 50", [&] { at::_foreach_mul_(list, 1.0); });
  Tensor scalar = at::scalar_tensor(0.5, at::kDouble);
  scalar.unsafeGetTensorImpl()->set_wrapped_number(true);
  native("native mul by a wrapped number", [&] { at::mul(x, scalar); });
  native("native sum", [&] { at::sum(x, at::IntArrayRef({0})); });
}

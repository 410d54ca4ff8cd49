// Fused attentions of CUDA against the plain formula, forward and backward.
#include "tests/unit/aten/client.hpp"
#include "tests/unit/catch.hpp"

using namespace djinn::aten_test;

namespace {

struct Case {
  Tensor q, k, v, bias, g;
  bool causal;
  Tensor out, gq, gk, gv, gbias;
};

Case reference(int64_t kv_heads, bool causal, bool bias) {
  at::manual_seed(7);
  Case c{at::randn({2, 4, 9, 8}),
         at::randn({2, kv_heads, 9, 8}),
         at::randn({2, kv_heads, 9, 8}),
         bias ? at::randn({1, 1, 9, 9}) : Tensor(),
         at::randn({2, 4, 9, 8}),
         causal,
         {},
         {},
         {},
         {},
         {}};
  for (auto* t : {&c.q, &c.k, &c.v}) t->requires_grad_(true);
  if (bias) c.bias.requires_grad_(true);
  int64_t groups = 4 / kv_heads;
  Tensor k = c.k.repeat_interleave(groups, 1), v = c.v.repeat_interleave(groups, 1);
  Tensor s = at::matmul(c.q, k.transpose(-2, -1)) / std::sqrt(8.0);
  if (bias) s = s + c.bias;
  if (causal) s = s.masked_fill(at::ones({9, 9}, at::kBool).triu(1), -INFINITY);
  c.out = at::matmul(at::softmax(s, -1), v);
  c.out.backward(c.g);
  c.gq = c.q.grad(), c.gk = c.k.grad(), c.gv = c.v.grad();
  if (bias) c.gbias = c.bias.grad();
  return c;
}

}  // namespace

TEST_CASE("aten: flash attention, plain, causal, grouped") {
  for (auto [heads, causal] : {std::pair<int64_t, bool>{4, false}, {4, true}, {2, true}}) {
    auto e = reference(heads, causal, false);
    at::NoGradGuard off;
    Client c;
    Tensor q = c.put(e.q), k = c.put(e.k), v = c.put(e.v), out = c.like(e.out), lse = c.empty({2, 4, 9}, at::kFloat), rng = c.empty({2}, at::kUInt64);
    auto r = c.run("aten::_scaled_dot_product_flash_attention", "", {q, k, v, 0.0, causal, false, IValue()},
                   {out, lse, Out(), Out(), Out(), Out(), rng, Out(), Out()});
    REQUIRE(r.text == "");
    CHECK(close(out, e.out));
    Tensor gq = c.like(q), gk = c.like(k), gv = c.like(v), unused = c.empty({}, at::kUInt64);
    r = c.run("aten::_scaled_dot_product_flash_attention_backward", "",
              {c.put(e.g), q, k, v, out, lse, Tensor(), Tensor(), 9, 9, 0.0, causal, rng, unused, IValue()}, {gq, gk, gv});
    REQUIRE(r.text == "");
    CHECK(close(gq, e.gq, 1e-4));
    CHECK(close(gk, e.gk, 1e-4));
    CHECK(close(gv, e.gv, 1e-4));
  }
}

TEST_CASE("aten: efficient attention with a bias, its gradient, and a padded lse") {
  auto e = reference(4, false, true);
  at::NoGradGuard off;
  Client c;
  Tensor q = c.put(e.q), k = c.put(e.k), v = c.put(e.v), b = c.put(e.bias).expand({2, 4, 9, 9}), out = c.like(e.out),
         lse = c.empty({2, 4, 32}, at::kFloat);
  auto r = c.run("aten::_scaled_dot_product_efficient_attention", "", {q, k, v, b, true, 0.0, false, IValue()}, {out, lse, Out(), Out()});
  REQUIRE(r.text == "");
  CHECK(close(out, e.out));
  Tensor gq = c.like(q), gk = c.like(k), gv = c.like(v), gb = c.empty({2, 4, 9, 9}, at::kFloat), seed = at::zeros({}, at::kLong);
  r = c.run("aten::_scaled_dot_product_efficient_attention_backward", "",
            {c.put(e.g), q, k, v, b, out, lse, seed, seed, 0.0, bools({true, true, true, true}), false, IValue()}, {gq, gk, gv, gb});
  REQUIRE(r.text == "");
  CHECK(close(gq, e.gq, 1e-4));
  CHECK(close(gk, e.gk, 1e-4));
  CHECK(close(gv, e.gv, 1e-4));
  CHECK(close(gb.sum(at::IntArrayRef({0, 1})), e.gbias.squeeze(), 1e-4));
}

TEST_CASE("aten: attention with dropout draws the same mask in the backward") {
  at::NoGradGuard off;
  Client c;
  Tensor q = c.put(at::randn({1, 2, 16, 8})), k = c.put(at::randn({1, 2, 16, 8})), v = c.put(at::randn({1, 2, 16, 8})), out = c.like(q),
         again = c.like(q);
  Tensor lse = c.empty({1, 2, 16}, at::kFloat), rng = c.empty({2}, at::kUInt64), unused = c.empty({}, at::kUInt64);
  auto forward = [&](const Tensor& o) {
    return c.run("aten::_scaled_dot_product_flash_attention", "", {q, k, v, 0.3, false, false, IValue()},
                 {o, lse, Out(), Out(), Out(), Out(), rng, Out(), Out()}, kHasGenerator, Generator{1, 4, 8});
  };
  REQUIRE(forward(out).text == "");
  REQUIRE(forward(again).text == "");
  CHECK(at::equal(out, again));
  // out is linear in v: its directional derivative along v is out itself, so <g, out> = <gv, v>.
  Tensor g = c.put(at::randn({1, 2, 16, 8})), gq = c.like(q), gk = c.like(k), gv = c.like(v);
  auto r = c.run("aten::_scaled_dot_product_flash_attention_backward", "",
                 {g, q, k, v, out, lse, Tensor(), Tensor(), 16, 16, 0.3, false, rng, unused, IValue()}, {gq, gk, gv});
  REQUIRE(r.text == "");
  CHECK((g * out).sum().item<double>() == Approx((gv * v).sum().item<double>()).epsilon(1e-4));
}

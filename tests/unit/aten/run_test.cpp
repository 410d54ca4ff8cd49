// Ops of every kind, executed from records, against libtorch called directly.
#include <ATen/CPUGeneratorImpl.h>

#include "tests/unit/aten/client.hpp"
#include "tests/unit/catch.hpp"

using namespace djinn::aten_test;

namespace {
IValue none() { return IValue(); }
}  // namespace

TEST_CASE("aten: add, with a wrapped number and a broadcast") {
  Client c;
  Tensor a = at::randn({64, 32}), b = at::randn({32}), x = c.put(a), y = c.put(b), out = c.empty({64, 32}, at::kFloat);
  REQUIRE(c.run("aten::add", "Tensor", {x, y, 2}, {out}).code == 0);
  CHECK(at::equal(out, at::add(a, b, 2)));
  Tensor half = at::scalar_tensor(0.5, at::kDouble);
  half.unsafeGetTensorImpl()->set_wrapped_number(true);
  REQUIRE(c.run("aten::mul", "Tensor", {x, half}, {out}).code == 0);
  CHECK(at::equal(out, a * 0.5));
}

TEST_CASE("aten: mm, bmm, addmm give libtorch's bits") {
  Client c;
  Tensor a = at::randn({48, 64}), b = at::randn({64, 33}), bias = at::randn({33});
  Tensor x = c.put(a), y = c.put(b), z = c.put(bias), out = c.empty({48, 33}, at::kFloat);
  REQUIRE(c.run("aten::mm", "", {x, y}, {out}).code == 0);
  CHECK(at::equal(out, at::mm(a, b)));
  REQUIRE(c.run("aten::addmm", "", {z, x, y, 1, 1}, {out}).code == 0);
  CHECK(at::equal(out, at::addmm(bias, a, b)));
  Tensor p = at::randn({3, 4, 5}), q = at::randn({3, 5, 6}), r = c.empty({3, 4, 6}, at::kFloat);
  REQUIRE(c.run("aten::bmm", "", {c.put(p), c.put(q)}, {r}).code == 0);
  CHECK(at::equal(r, at::bmm(p, q)));
}

TEST_CASE("aten: cat and split_with_sizes_copy, lists in and out") {
  Client c;
  Tensor a = at::randn({2, 3}), b = at::randn({4, 3}), out = c.empty({6, 3}, at::kFloat);
  Tensor x = c.put(a), y = c.put(b);
  REQUIRE(c.run("aten::cat", "", {tensors({x, y}), 0}, {out}).code == 0);
  CHECK(at::equal(out, at::cat({a, b})));
  Tensor s = c.put(at::randn({6, 3})), p = c.empty({2, 3}, at::kFloat), q = c.empty({4, 3}, at::kFloat);
  REQUIRE(c.run("aten::split_with_sizes_copy", "", {s, ints({2, 4}), 0}, {Out(std::vector<Tensor>{p, q})}).code == 0);
  CHECK(at::equal(p, s.narrow(0, 0, 2)));
  CHECK(at::equal(q, s.narrow(0, 2, 4)));
}

TEST_CASE("aten: convolution and its backward") {
  Client c;
  Tensor x = at::randn({4, 3, 16, 16}), w = at::randn({8, 3, 3, 3}), b = at::randn({8});
  auto expected = at::convolution(x, w, b, {1, 1}, {1, 1}, {1, 1}, false, {0, 0}, 1);
  Tensor X = c.put(x), W = c.put(w), B = c.put(b), out = c.empty({4, 8, 16, 16}, at::kFloat);
  REQUIRE(c.run("aten::convolution", "", {X, W, B, ints({1, 1}), ints({1, 1}), ints({1, 1}), false, ints({0, 0}), 1}, {out}).code == 0);
  CHECK(close(out, expected));
  Tensor g = at::randn_like(expected), gx = c.like(x), gw = c.like(w), gb = c.like(b);
  auto [ex, ew, eb] = at::convolution_backward(g, x, w, at::IntArrayRef({8}), {1, 1}, {1, 1}, {1, 1}, false, {0, 0}, 1, {true, true, true});
  auto r =
      c.run("aten::convolution_backward", "",
            {c.put(g), X, W, ints({8}), ints({1, 1}), ints({1, 1}), ints({1, 1}), false, ints({0, 0}), 1, bools({true, true, true})}, {gx, gw, gb});
  REQUIRE(r.text == "");
  CHECK(close(gx, ex));
  CHECK(close(gw, ew, 1e-4));
  CHECK(close(gb, eb, 1e-4));
}

TEST_CASE("aten: native_layer_norm, and in bfloat16 with float32 statistics") {
  Client c;
  Tensor x = at::randn({8, 32}), w = at::randn({32}), b = at::randn({32});
  auto [y, mean, rstd] = at::native_layer_norm(x, {32}, w, b, 1e-5);
  Tensor Y = c.like(y), M = c.like(mean), R = c.like(rstd);
  REQUIRE(c.run("aten::native_layer_norm", "", {c.put(x), ints({32}), c.put(w), c.put(b), 1e-5}, {Y, M, R}).code == 0);
  CHECK(close(Y, y));
  CHECK(close(M, mean));
  CHECK(close(R, rstd));
  Tensor low = c.empty({8, 32}, at::kBFloat16), xb = x.to(at::kBFloat16);
  auto half = [&](const Tensor& t) { return c.put(t.to(at::kBFloat16)); };
  auto expected = at::native_layer_norm(xb.to(at::kFloat), {32}, w.to(at::kBFloat16).to(at::kFloat), b.to(at::kBFloat16).to(at::kFloat), 1e-5);
  REQUIRE(c.run("aten::native_layer_norm", "", {half(x), ints({32}), half(w), half(b), 1e-5}, {low, M, R}).code == 0);
  CHECK(at::equal(low, std::get<0>(expected).to(at::kBFloat16)));
  CHECK(close(M, std::get<1>(expected)));
}

TEST_CASE("aten: cudnn_batch_norm keeps the running statistics in place") {
  Client c;
  Tensor x = at::randn({4, 6, 5, 5}), w = at::randn({6}), b = at::randn({6}), rm = at::zeros({6}), rv = at::ones({6});
  Tensor X = c.put(x), W = c.put(w), RM = c.put(rm), RV = c.put(rv), Y = c.like(x), M = c.like(rm), V = c.like(rm);
  auto [y, m, v] = at::native_batch_norm(x, w, b, rm, rv, true, 0.1, 1e-5);
  REQUIRE(c.run("aten::cudnn_batch_norm", "", {X, W, c.put(b), RM, RV, true, 0.1, 1e-5}, {Y, M, V, Out()}).text == "");
  CHECK(close(Y, y));
  CHECK(close(RM, rm));
  CHECK(close(RV, rv));
  Tensor g = at::randn_like(x), GX = c.like(x), GW = c.like(w), GB = c.like(w);
  auto [gx, gw, gb] = at::native_batch_norm_backward(g, x, w, rm, rv, m, v, true, 1e-5, {true, true, true});
  REQUIRE(c.run("aten::cudnn_batch_norm_backward", "", {X, c.put(g), W, RM, RV, M, V, 1e-5, c.empty({0}, at::kByte)}, {GX, GW, GB}).text == "");
  CHECK(close(GX, gx, 1e-4));
  CHECK(close(GW, gw, 1e-4));
  CHECK(close(GB, gb, 1e-4));
}

TEST_CASE("aten: in place, out= and foreach") {
  Client c;
  Tensor a = at::randn({5, 7}), b = at::randn({5, 7}), x = c.put(a), y = c.put(b);
  REQUIRE(c.run("aten::add_", "Tensor", {x, y, 1}, {Out::aliases(0)}).code == 0);
  CHECK(at::equal(x, a + b));
  Tensor out = c.empty({5, 7}, at::kFloat);
  REQUIRE(c.run("aten::mul", "out", {x, y, out}, {Out::aliases(2)}).code == 0);
  CHECK(at::equal(out, (a + b) * b));
  Tensor p = c.put(at::ones({3})), q = c.put(at::ones({4}));
  REQUIRE(c.run("aten::_foreach_add_", "Scalar", {tensors({p, q}), 2.0}, {}).code == 0);
  CHECK(at::equal(p, at::full({3}, 3.0)));
  CHECK(at::equal(q, at::full({4}, 3.0)));
}

TEST_CASE("aten: out= with holes goes through fresh memory (gelu, avg_pool3d)") {
  Client c;
  Tensor a = at::randn({6, 8}), out = c.strided({6, 8}, {32, 2}, at::kFloat);
  REQUIRE(c.run("aten::gelu", "out", {c.put(a), "none", out}, {Out::aliases(2)}).text == "");
  CHECK(close(out, at::gelu(a)));
}

TEST_CASE("aten: an expanded output is written once per element") {
  Client c;
  Tensor out = c.strided({4, 3}, {0, 1}, at::kFloat), a = at::randn({3});
  Tensor x = c.put(a);
  REQUIRE(c.run("aten::add", "Tensor", {x.expand({4, 3}), x.expand({4, 3}), 1}, {out}).text == "");
  CHECK(at::equal(out, (a + a).expand({4, 3})));
}

TEST_CASE("aten: results of equal size each find their own place") {
  Client c;
  Tensor a = at::randn({16, 16}), x = c.put(a), values = c.empty({16, 16}, at::kFloat), indices = c.empty({16, 16}, at::kLong);
  REQUIRE(c.run("aten::sort", "", {x, -1, false}, {values, indices}).code == 0);
  auto [v, i] = at::sort(a);
  CHECK(at::equal(values, v));
  CHECK(at::equal(indices, i));
  Tensor q = c.empty({16, 16}, at::kFloat), r = c.empty({16, 16}, at::kFloat);
  REQUIRE(c.run("aten::linalg_qr", "", {x, "reduced"}, {q, r}).code == 0);
  CHECK(close(at::mm(q, r), a, 1e-3));
  CHECK(close(r, r.triu()));
}

TEST_CASE("aten: AdamW fused, twice") {
  Client c;
  std::vector<Tensor> p, g, m, v, s, P, G, M, V, S;
  for (int64_t n : {5, 17}) {
    p.push_back(at::randn({n})), g.push_back(at::randn({n})), m.push_back(at::zeros({n})), v.push_back(at::zeros({n})), s.push_back(at::zeros({}));
    P.push_back(c.put(p.back())), G.push_back(c.put(g.back())), M.push_back(c.put(m.back())), V.push_back(c.put(v.back())),
        S.push_back(c.put(s.back()));
  }
  auto list = [](const std::vector<Tensor>& t) { return IValue(c10::List<Tensor>(at::ArrayRef<Tensor>(t))); };
  for (int step = 1; step <= 2; step++) {
    for (auto& t : s) t.add_(1);
    for (auto& t : S) t.add_(1);
    at::_fused_adamw_(p, g, m, v, {}, s, 1e-3, 0.9, 0.999, 0.01, 1e-8, false, false);
    REQUIRE(c.run("aten::_fused_adamw_", "",
                  {list(P), list(G), list(M), list(V), tensors({}), list(S), 1e-3, 0.9, 0.999, 0.01, 1e-8, false, false, none(), none()}, {})
                .text == "");
  }
  for (size_t i = 0; i < p.size(); i++) CHECK(at::equal(p[i], P[i]));
}

TEST_CASE("aten: index with optional tensors, embedding, cross entropy pieces") {
  Client c;
  Tensor a = at::randn({6, 5}), rows = at::tensor({1, 3, 5}, at::kLong), out = c.empty({3, 5}, at::kFloat);
  c10::List<std::optional<Tensor>> index;
  index.push_back(c.put(rows));
  REQUIRE(c.run("aten::index", "Tensor", {c.put(a), index}, {out}).text == "");
  CHECK(at::equal(out, a.index_select(0, rows)));
  REQUIRE(c.run("aten::embedding", "", {c.put(a), c.put(rows), -1, false, false}, {out}).text == "");
  CHECK(at::equal(out, a.index_select(0, rows)));
  Tensor lp = c.empty({6, 5}, at::kFloat);
  REQUIRE(c.run("aten::_log_softmax", "", {c.put(a), 1, false}, {lp}).text == "");
  CHECK(close(lp, at::log_softmax(a, 1)));
}

TEST_CASE("aten: factories without tensor arguments") {
  Client c;
  Tensor out = c.empty({10}, at::kLong);
  REQUIRE(c.run("aten::arange", "start_out", {0, 10, 1, out}, {Out::aliases(3)}).text == "");
  CHECK(at::equal(out, at::arange(10)));
  Tensor ones = c.empty({4}, at::kFloat);
  REQUIRE(c.run("aten::ones", "", {ints({4}), none(), none(), at::Device(at::kCPU), none()}, {ones}).text == "");
  CHECK(at::equal(ones, at::ones({4})));
}

TEST_CASE("aten: conjugated and negated views") {
  Client c;
  Tensor a = at::randn({3, 4}, at::kComplexFloat), b = at::randn({4, 3}, at::kComplexFloat), x = c.put(a), y = c.put(b);
  Tensor out = c.empty({4, 4}, at::kComplexFloat);
  REQUIRE(c.run("aten::mm", "", {x.t().conj(), y.t().conj()}, {out}).text == "");
  CHECK(at::allclose(out, at::mm(a.t().conj(), b.t().conj())));
  Tensor d = c.empty({3, 4}, at::kComplexFloat);
  REQUIRE(c.run("aten::add", "Tensor", {x.conj(), x, 1}, {d}).text == "");
  CHECK(at::allclose(d, a.conj() + a));
}

TEST_CASE("aten: dropout repeats with seed and offset, on any number of threads") {
  Tensor first;
  for (int threads : {1, 3}) {
    Client c(threads);
    Tensor x = c.put(at::ones({512, 512})), y = c.like(x), mask = c.empty({512, 512}, at::kBool), y2 = c.like(x);
    Generator g{42, 8, 12};
    REQUIRE(c.run("aten::native_dropout", "", {x, 0.5, true}, {y, mask}, kHasGenerator, g).text == "");
    REQUIRE(c.run("aten::native_dropout", "", {x, 0.5, true}, {y2, mask}, kHasGenerator, g).text == "");
    CHECK(at::equal(y, y2));
    REQUIRE(c.run("aten::native_dropout", "", {x, 0.5, true}, {y2, mask}, kHasGenerator, Generator{42, 12, 16}).text == "");
    CHECK_FALSE(at::equal(y, y2));
    double kept = mask.to(at::kDouble).mean().item<double>();
    CHECK(kept == Approx(0.5).margin(0.01));
    if (first.defined()) CHECK(at::equal(first, y));
    first = y.clone();
    Tensor n = c.empty({100}, at::kFloat), n2 = c.empty({100}, at::kFloat);
    REQUIRE(c.run("aten::normal_", "", {n, 0.0, 1.0, IValue(at::detail::getDefaultCPUGenerator())}, {Out::aliases(0)}, kHasGenerator, g).text == "");
    REQUIRE(c.run("aten::normal_", "", {n2, 0.0, 1.0, IValue(at::detail::getDefaultCPUGenerator())}, {Out::aliases(0)}, kHasGenerator, g).text == "");
    CHECK(at::equal(n, n2));
  }
}

TEST_CASE("aten: mm.dtype, log_sigmoid_backward, lstm cell") {
  Client c;
  Tensor a = at::randn({4, 8}).to(at::kBFloat16), b = at::randn({8, 4}).to(at::kBFloat16), out = c.empty({4, 4}, at::kFloat);
  REQUIRE(c.run("aten::mm", "dtype", {c.put(a), c.put(b), static_cast<int64_t>(at::kFloat)}, {out}).text == "");
  CHECK(close(out, at::mm(a.to(at::kFloat), b.to(at::kFloat))));
  Tensor x = at::randn({4}), g = at::randn({4}), d = c.empty({4}, at::kFloat);
  REQUIRE(c.run("aten::log_sigmoid_backward", "", {c.put(g), c.put(x), c.empty({0}, at::kFloat)}, {d}).text == "");
  CHECK(close(d, g * at::sigmoid(-x)));
  Tensor ig = at::randn({2, 12}), hg = at::randn({2, 12}), cx = at::randn({2, 3});
  Tensor hy = c.empty({2, 3}, at::kFloat), cy = c.empty({2, 3}, at::kFloat), ws = c.empty({2, 12}, at::kFloat);
  REQUIRE(c.run("aten::_thnn_fused_lstm_cell", "", {c.put(ig), c.put(hg), c.put(cx), none(), none()}, {hy, cy, ws}).text == "");
  auto parts = (ig + hg).chunk(4, 1);
  CHECK(close(cy, at::sigmoid(parts[1]) * cx + at::sigmoid(parts[0]) * at::tanh(parts[2])));
}

TEST_CASE("aten: a cuDNN LSTM and its backward against autograd") {
  Client c;
  int64_t in = 3, hidden = 4;
  Tensor x = at::randn({5, 2, in}), h = at::zeros({1, 2, hidden}), cx = at::zeros({1, 2, hidden});
  std::vector<Tensor> w{at::randn({4 * hidden, in}), at::randn({4 * hidden, hidden}), at::randn({4 * hidden}), at::randn({4 * hidden})};
  for (auto* t : {&x, &w[0], &w[1], &w[2], &w[3]}) t->requires_grad_(true);
  auto [y, hy, cy] = at::lstm(x, {h, cx}, w, true, 1, 0.0, true, false, false);
  Tensor g = at::randn_like(y);
  y.backward(g);
  at::NoGradGuard off;
  c10::List<Tensor> W;
  for (auto& t : w) W.push_back(c.put(t));
  Tensor X = c.put(x), H = c.put(h), C = c.put(cx), Y = c.like(y), HY = c.like(hy), CY = c.like(cy), empty = c.empty({0}, at::kFloat);
  REQUIRE(
      c.run("aten::_cudnn_rnn", "", {X, W, 4, none(), H, C, 2, hidden, 0, 1, false, 0.0, true, false, ints({}), none()}, {Y, HY, CY, Out(), Out()})
          .text == "");
  CHECK(close(Y, y));
  Tensor gx = c.like(X);
  std::vector<Tensor> gw;
  for (auto& t : w) gw.push_back(c.like(t));
  auto r = c.run("aten::_cudnn_rnn_backward", "", {X,      W, 4, empty, H,   C,    Y,     c.put(g), none(), none(), 2,
                                                   hidden, 0, 1, false, 0.0, true, false, ints({}), none(), empty,  bools({true, true, true, true})},
                 {gx, Out(), Out(), Out(gw)});
  REQUIRE(r.text == "");
  CHECK(close(gx, x.grad(), 1e-4));
  for (size_t i = 0; i < w.size(); i++) CHECK(close(gw[i], w[i].grad(), 1e-4));
}

TEST_CASE("aten: an op that the CPU has in float32 only runs in float32") {
  Client c;
  Tensor a = at::randn({4, 4}).to(at::kHalf), out = c.empty({4, 4}, at::kHalf);
  Tensor spd = at::mm(a.to(at::kFloat), a.to(at::kFloat).t()) + at::eye(4) * 4;
  Tensor info = c.empty({}, at::kInt);
  for (int i = 0; i < 2; i++) REQUIRE(c.run("aten::linalg_cholesky_ex", "", {c.put(spd.to(at::kHalf)), false, false}, {out, info}).text == "");
  CHECK(close(out, at::linalg_cholesky(spd), 2e-2));
}

TEST_CASE("aten: the client's shape and the server's must agree") {
  Client c;
  auto r = c.run("aten::add", "Tensor", {c.put(at::ones({4})), c.put(at::ones({4})), 1}, {c.empty({5}, at::kFloat)});
  CHECK(r.code == 999);
  CHECK(r.operation == "aten::add");
  CHECK(r.text.find("allocated [5]") != std::string::npos);
}

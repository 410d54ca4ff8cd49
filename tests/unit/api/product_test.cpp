// Library calls as the server sees them: payload in, product or refusal out, against a context that knows which memory is live. Products are compared
// with a plain loop in double.
#include <cmath>
#include <complex>
#include <limits>
#include <random>

#include "server/decode/library.hpp"
#include "server/execute/cpu/blas/library.hpp"
#include "server/execute/cpu/blas/number.hpp"
#include "tests/unit/catch.hpp"

using namespace djinn;
using namespace djinn::server;

namespace {

// Device memory is a few host buffers; only they are live.
class Context final : public LibraryContext {
 public:
  bool live(uint64_t address, uint64_t bytes) const override {
    if (!bytes) return true;
    for (const auto& m : memory_) {
      auto begin = reinterpret_cast<uint64_t>(m.data());
      if (address >= begin && bytes <= m.size() && address - begin <= m.size() - bytes) return true;
    }
    return false;
  }
  bool known_stream(uint64_t id) const override { return id == 0 || id == 7; }
  const Blas& blas() const override { return cpu_blas(); }

  template <class T>
  uint64_t put(const std::vector<T>& values) {
    auto& m = memory_.emplace_back(values.size() * sizeof(T));
    if (!values.empty()) std::memcpy(m.data(), values.data(), m.size());
    return reinterpret_cast<uint64_t>(m.data());
  }
  template <class C>
  Failure send(const C& c) {
    std::vector<std::byte> payload;
    wire::Writer w(payload);
    c.encode(w);
    wire::Reader r(payload);
    const LibraryCall* call = find_library(C::kOpcode);
    REQUIRE(call);
    REQUIRE(call->name == C::kName);
    return call->run(*this, r);
  }

 private:
  std::vector<std::vector<std::byte>> memory_;
};

template <class T>
std::vector<T> read(uint64_t address, size_t n) {
  std::vector<T> v(n);
  std::memcpy(v.data(), reinterpret_cast<const void*>(address), n * sizeof(T));
  return v;
}

std::vector<float> random_floats(size_t n, unsigned seed) {
  std::mt19937 bits(seed);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> v(n);
  for (float& f : v) f = uniform(bits);
  return v;
}
template <class T>
std::vector<T> narrowed(const std::vector<float>& from) {
  std::vector<T> v(from.size());
  for (size_t i = 0; i < v.size(); i++) from_float(from[i], v[i]);
  return v;
}
template <class T>
std::vector<float> widened(const std::vector<T>& from) {
  std::vector<float> v;
  for (T t : from) v.push_back(to_float(t));
  return v;
}
api::Scalar scalar(float v) {
  api::Scalar s{};
  std::memcpy(s.value, &v, sizeof v);
  return s;
}

// A column-major matrix with room between its columns.
struct Host {
  int rows, columns, leading;
  std::vector<float> data;
  Host(int r, int c, unsigned seed) : rows(r), columns(c), leading(r + 3), data(random_floats(static_cast<size_t>(leading * c), seed)) {}
  float at(int i, int j) const { return data[static_cast<size_t>(j * leading + i)]; }
};
double expected(const Host& a, bool ta, const Host& b, bool tb, int i, int j) {
  double sum = 0;
  int k = ta ? a.rows : a.columns;
  for (int l = 0; l < k; l++) sum += static_cast<double>(ta ? a.at(l, i) : a.at(i, l)) * (tb ? b.at(j, l) : b.at(l, j));
  return sum;
}

bool no_blas() {
  if (blas_library().error.empty()) return false;
  WARN(blas_library().error);
  return true;
}

constexpr uint32_t kFloat32 = 0, kFloat16 = 2, kInt8 = 3, kBfloat16 = 14, kCompute32 = 68, kCompute32Integer = 72;
constexpr int M = 7, N = 5, K = 11;

api::cublasLtMatmul matmul(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint32_t type) {
  api::cublasLtMatmul m;
  m.desc = {kCompute32, kFloat32, 0, 0, 1, type, 0, 0};
  m.alpha = scalar(1);
  m.beta = scalar(0);
  m.a = {a, type, 0, M, K, M, 0, 1};
  m.b = {b, type, 0, K, N, K, 0, 1};
  m.c = {c, type, 0, M, N, M, 0, 1};
  m.d = {d, type, 0, M, N, M, 0, 1};
  return m;
}

}  // namespace

TEST_CASE("an opcode that no command has is not found") {
  REQUIRE(find_library(0) == nullptr);
  REQUIRE(find_library(0x80000000u) == nullptr);
  REQUIRE(find_library(0xffffffffu) == nullptr);
}

TEST_CASE("half and bfloat16 round to nearest even and keep infinities, NaNs and subnormals") {
  for (uint32_t bits = 0; bits < 65536; bits++) {
    Half h{static_cast<uint16_t>(bits)}, back;
    float f = to_float(h);
    from_float(f, back);
    if (f == f) REQUIRE(back.bits == bits);
    else REQUIRE(to_float(back) != to_float(back));
    Bfloat b{static_cast<uint16_t>(bits)}, bback;
    f = to_float(b);
    from_float(f, bback);
    if (f == f) REQUIRE(bback.bits == bits);
    else REQUIRE(to_float(bback) != to_float(bback));
  }
  auto half = [](float f) {
    Half h;
    from_float(f, h);
    return h.bits;
  };
  REQUIRE(half(1.0f) == 0x3c00);
  REQUIRE(half(65504.0f) == 0x7bff);
  REQUIRE(half(65519.9f) == 0x7bff);
  REQUIRE(half(65520.0f) == 0x7c00);
  REQUIRE(half(1.0f + 0x1p-11f) == 0x3c00);  // a tie goes to even
  REQUIRE(half(1.0f + 3 * 0x1p-11f) == 0x3c02);
  REQUIRE(half(0x1p-25f) == 0x0000);  // a tie of subnormals
  REQUIRE(half(0x1.8p-25f) == 0x0001);
  REQUIRE(half(std::numeric_limits<float>::infinity()) == 0x7c00);
}

#if DJINN_API_HAS_CUBLAS
TEST_CASE("sgemm with every transposition, leading dimensions and beta") {
  if (no_blas()) return;
  for (bool ta : {false, true})
    for (bool tb : {false, true}) {
      Context x;
      Host a(ta ? K : M, ta ? M : K, 1), b(tb ? N : K, tb ? K : N, 2), c(M, N, 3);
      api::cublasSgemm_v2 g;
      g.handle.stream = 7;
      g.transa = ta, g.transb = tb;
      g.m = M, g.n = N, g.k = K;
      g.alpha = scalar(1.5f), g.beta = scalar(-0.5f);
      g.A = x.put(a.data), g.lda = a.leading;
      g.B = x.put(b.data), g.ldb = b.leading;
      g.C = x.put(c.data), g.ldc = c.leading;
      REQUIRE(x.send(g).code == 0);
      auto result = read<float>(g.C, c.data.size());
      for (int j = 0; j < N; j++)
        for (int i = 0; i < c.leading; i++) {
          float got = result[static_cast<size_t>(j * c.leading + i)];
          if (i < M) REQUIRE(got == Approx(1.5 * expected(a, ta, b, tb, i, j) - 0.5 * c.at(i, j)).margin(1e-5));
          else REQUIRE(got == c.at(i, j));  // between the columns nothing is written
        }
    }
}

TEST_CASE("beta 0 does not read C, alpha may lie on the device") {
  if (no_blas()) return;
  Context x;
  Host a(M, K, 1), b(K, N, 2);
  api::cublasSgemm_v2 g;
  g.m = M, g.n = N, g.k = K;
  g.alpha.address = x.put(std::vector<float>{2});
  g.A = x.put(a.data), g.lda = a.leading, g.B = x.put(b.data), g.ldb = b.leading;
  g.C = x.put(std::vector<float>(M * N, std::numeric_limits<float>::quiet_NaN())), g.ldc = M;
  REQUIRE(x.send(g).code == 0);
  auto result = read<float>(g.C, M * N);
  for (int j = 0; j < N; j++)
    for (int i = 0; i < M; i++) REQUIRE(result[static_cast<size_t>(j * M + i)] == Approx(2 * expected(a, false, b, false, i, j)).margin(1e-5));
}

TEST_CASE("zgemm, its conjugate transpose, in the 64-bit interface") {
  if (no_blas()) return;
  using Z = std::complex<double>;
  Context x;
  api::cublasZgemm_v2_64 g;
  g.transa = 2;
  g.m = g.n = 1, g.k = 2;
  Z alpha{0, 1};
  std::memcpy(g.alpha.value, &alpha, sizeof alpha);
  g.A = x.put(std::vector<Z>{{1, 2}, {3, 4}}), g.lda = 2;
  g.B = x.put(std::vector<Z>{{5, 6}, {7, 8}}), g.ldb = 2;
  g.C = x.put(std::vector<Z>{{0, 0}}), g.ldc = 1;
  REQUIRE(x.send(g).code == 0);
  Z want = alpha * (std::conj(Z{1, 2}) * Z{5, 6} + std::conj(Z{3, 4}) * Z{7, 8}), got = read<Z>(g.C, 1)[0];
  REQUIRE(got.real() == Approx(want.real()));
  REQUIRE(got.imag() == Approx(want.imag()));
}

template <class T>
static void strided_half(uint32_t type) {
  if (no_blas()) return;
  Context x;
  constexpr int kBatch = 3;
  auto a = narrowed<T>(random_floats(kBatch * M * K, 1)), b = narrowed<T>(random_floats(K * N, 2));
  api::cublasGemmStridedBatchedEx g;
  g.m = M, g.n = N, g.k = K;
  g.alpha = scalar(1), g.beta = scalar(0);
  g.computeType = kCompute32;
  g.Atype = g.Btype = g.Ctype = type;
  g.A = x.put(a), g.lda = M, g.strideA = M * K;
  g.B = x.put(b), g.ldb = K, g.strideB = 0;  // the same for all
  g.C = x.put(std::vector<T>(kBatch * M * N)), g.ldc = M, g.strideC = M * N;
  g.batchCount = kBatch;
  REQUIRE(x.send(g).code == 0);
  auto result = widened(read<T>(g.C, kBatch * M * N));
  for (int batch = 0; batch < kBatch; batch++)
    for (int j = 0; j < N; j++)
      for (int i = 0; i < M; i++) {
        double sum = 0;
        for (int k = 0; k < K; k++)
          sum += static_cast<double>(to_float(a[static_cast<size_t>(batch * M * K + k * M + i)])) * to_float(b[static_cast<size_t>(j * K + k)]);
        REQUIRE(result[static_cast<size_t>(batch * M * N + j * M + i)] == Approx(sum).epsilon(0.01).margin(1e-3));
      }
}
TEST_CASE("half precision in strided batches: float16") { strided_half<Half>(kFloat16); }
TEST_CASE("half precision in strided batches: bfloat16") { strided_half<Bfloat>(kBfloat16); }

TEST_CASE("gemm refuses what is not live, not known, or not computable") {
  Context x;
  api::cublasGemmEx g;
  g.m = g.n = g.k = 4;
  g.alpha = scalar(1), g.beta = scalar(0);
  g.computeType = kCompute32;
  g.A = x.put(std::vector<float>(16)), g.B = x.put(std::vector<float>(16)), g.C = x.put(std::vector<float>(16));
  g.lda = g.ldb = g.ldc = 4;
  using wire::ErrorClass;

  auto sent = [&](auto&& change) {
    auto changed = g;
    change(changed);
    return x.send(changed);
  };
  Failure f = sent([](auto& c) { c.m = 5, c.lda = 5, c.ldc = 5; });
  REQUIRE(f.code == cuda_error::illegal_address);
  REQUIRE(f.error_class == ErrorClass::sticky);
  REQUIRE(f.operation == "cublasGemmEx");
  f = sent([](auto& c) { c.lda = INT32_MAX, c.k = INT32_MAX, c.ldb = INT32_MAX; });
  REQUIRE(f.code == cuda_error::illegal_address);
  f = sent([](auto& c) { c.lda = 3; });
  REQUIRE(f.code == cuda_error::invalid_value);
  f = sent([](auto& c) { c.n = -1; });
  REQUIRE(f.code == cuda_error::invalid_value);
  f = sent([](auto& c) { c.transb = 3; });
  REQUIRE(f.code == cuda_error::invalid_value);
  f = sent([](auto& c) { c.handle.stream = 8; });
  REQUIRE(f.code == cuda_error::invalid_resource_handle);
  f = sent([](auto& c) { c.alpha.address = 64; });
  REQUIRE(f.code == cuda_error::illegal_address);
  f = sent([](auto& c) { c.Atype = c.Btype = kInt8; });
  REQUIRE(f.code == cuda_error::not_supported);
  REQUIRE(f.text.find("cudaDataType 3") != std::string::npos);
  f = sent([](auto& c) { c.computeType = kCompute32Integer; });
  REQUIRE(f.code == cuda_error::not_supported);
  f = sent([](auto& c) { c.Atype = kFloat16; });
  REQUIRE(f.code == cuda_error::not_supported);
  x.validate_only = true;  // inside an op scope: checked, not computed
  std::vector<float> before = read<float>(g.C, 16);
  REQUIRE(sent([](auto&) {}).code == 0);
  REQUIRE(read<float>(g.C, 16) == before);
  REQUIRE(sent([](auto& c) { c.C = 8; }).code == cuda_error::illegal_address);
}

TEST_CASE("sizes that overflow are refused") {
  Context x;
  api::cublasSgemmStridedBatched_64 g;
  g.m = g.n = g.k = INT64_MAX / 2;
  g.lda = g.ldb = g.ldc = INT64_MAX / 2;
  g.batchCount = 2;
  g.strideA = g.strideB = g.strideC = INT64_MAX;
  REQUIRE(x.send(g).code == cuda_error::invalid_value);
  g.m = g.n = g.k = 1, g.lda = g.ldb = g.ldc = 1;
  g.strideA = g.strideB = g.strideC = INT64_MAX / 8;
  REQUIRE(x.send(g).code == cuda_error::illegal_address);
  g.batchCount = INT32_MAX;
  REQUIRE(x.send(g).code == cuda_error::invalid_value);
  g.batchCount = 1, g.strideA = -1;
  REQUIRE(x.send(g).code == cuda_error::invalid_value);
}

TEST_CASE("a malformed payload ends the session") {
  Context x;
  std::vector<std::byte> payload(8);
  wire::Reader r(payload);
  Failure f = find_library(api::cublasSgemm_v2::kOpcode)->run(x, r);
  REQUIRE(f.error_class == wire::ErrorClass::lost);
}
#endif

TEST_CASE("matmul with bias, activation and a matrix C of its own") {
  if (no_blas()) return;
  Host a(M, K, 1), b(K, N, 2), c(M, N, 3);
  auto bias = random_floats(M, 4);
  for (uint32_t epilogue : {1u, 2u, 4u, 6u, 32u, 36u}) {
    INFO("epilogue " << epilogue);
    Context x;
    auto m = matmul(x.put(a.data), x.put(b.data), x.put(c.data), x.put(std::vector<float>(M * N)), kFloat32);
    m.a.leading = a.leading, m.b.leading = b.leading, m.c.leading = c.leading;
    m.alpha = scalar(0.5f), m.beta = scalar(2);
    m.desc.epilogue = epilogue;
    m.desc.bias = epilogue & 4 ? x.put(bias) : 0;
    REQUIRE(x.send(m).code == 0);
    auto result = read<float>(m.d.address, M * N);
    for (int j = 0; j < N; j++)
      for (int i = 0; i < M; i++) {
        double v = 0.5 * expected(a, false, b, false, i, j) + 2 * c.at(i, j) + (epilogue & 4 ? bias[static_cast<size_t>(i)] : 0.0f);
        if (epilogue & 2) v = std::max(v, 0.0);
        if (epilogue & 32) v = 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
        REQUIRE(result[static_cast<size_t>(j * M + i)] == Approx(v).margin(1e-5));
      }
    REQUIRE(read<float>(m.c.address, c.data.size()) == c.data);
  }
}

TEST_CASE("matmul of row-major matrices") {
  if (no_blas()) return;
  Context x;
  auto a = random_floats(M * K, 1), b = random_floats(K * N, 2);
  auto m = matmul(x.put(a), x.put(b), 0, x.put(std::vector<float>(M * N)), kFloat32);
  m.c.address = m.d.address;
  for (auto* matrix : {&m.a, &m.b, &m.c, &m.d}) matrix->order = 1, matrix->leading = static_cast<int64_t>(matrix->columns);
  REQUIRE(x.send(m).code == 0);
  auto result = read<float>(m.d.address, M * N);
  for (int i = 0; i < M; i++)
    for (int j = 0; j < N; j++) {
      double sum = 0;
      for (int k = 0; k < K; k++) sum += static_cast<double>(a[static_cast<size_t>(i * K + k)]) * b[static_cast<size_t>(k * N + j)];
      REQUIRE(result[static_cast<size_t>(i * N + j)] == Approx(sum).margin(1e-5));
    }
}

TEST_CASE("matmul in half rounds once, after the epilogue") {
  if (no_blas()) return;
  Context x;
  auto a = narrowed<Half>(random_floats(M * K, 1)), b = narrowed<Half>(random_floats(K * N, 2)), bias = narrowed<Half>(random_floats(M, 4));
  auto m = matmul(x.put(a), x.put(b), 0, x.put(std::vector<Half>(M * N)), kFloat16);
  m.c.address = m.d.address;
  m.desc.epilogue = 4;
  m.desc.bias = x.put(bias);
  REQUIRE(x.send(m).code == 0);
  auto result = read<Half>(m.d.address, M * N);
  for (int j = 0; j < N; j++)
    for (int i = 0; i < M; i++) {
      double sum = to_float(bias[static_cast<size_t>(i)]);
      for (int k = 0; k < K; k++)
        sum += static_cast<double>(to_float(a[static_cast<size_t>(k * M + i)])) * to_float(b[static_cast<size_t>(j * K + k)]);
      // half an ulp of half, and what float accumulation may add
      REQUIRE(std::abs(to_float(result[static_cast<size_t>(j * M + i)]) - sum) <= std::abs(sum) * 0x1p-11 + 0x1p-24 + 1e-6);
    }
}

TEST_CASE("matmul refuses by name what the CPU device does not have") {
  Context x;
  uint64_t a = x.put(std::vector<float>(M * K)), b = x.put(std::vector<float>(K * N)), d = x.put(std::vector<float>(M * N));
  auto refusal = [&](auto&& change) {
    auto m = matmul(a, b, d, d, kFloat32);
    change(m);
    return x.send(m);
  };
  Failure f = refusal([](auto& m) { m.desc.epilogue = 2 | 128; });
  REQUIRE(f.code == cuda_error::not_supported);
  REQUIRE(f.text == "the CPU device has no cublasLtEpilogue 130");
  REQUIRE(f.operation == "cublasLtMatmul");
  REQUIRE(refusal([](auto& m) { m.a.order = 2; }).text == "A: the CPU device has no cublasLtOrder 2");
  REQUIRE(refusal([](auto& m) { m.b.type = 28; }).text == "B: the CPU device has no product of cudaDataType 28");
  REQUIRE(refusal([](auto& m) { m.b.columns = N + 1; }).code == cuda_error::invalid_value);
  REQUIRE(refusal([](auto& m) { m.a.batch_count = 2; }).code == cuda_error::invalid_value);
  REQUIRE(refusal([](auto& m) { m.desc.epilogue = 4; }).code == cuda_error::invalid_value);
  REQUIRE(refusal([](auto& m) { m.desc.epilogue = 4, m.desc.bias = 16; }).code == cuda_error::illegal_address);
  REQUIRE(refusal([](auto& m) { m.a.rows = m.d.rows = m.c.rows = ~0ull; }).code == cuda_error::invalid_value);
  REQUIRE(refusal([](auto& m) { m.d.address = 4096; }).code == cuda_error::illegal_address);
}

// Library-handle state in the client: ids, setters and getters, and what an entry point posts. The inside of libdjinn.so is replaced by a recorder,
// so that these are the real entry points, generated ones included.
#include <cstdarg>
#include <map>

#include <cublasLt.h>
#include <cublas_v2.h>

#include "djinn_api/commands.hpp"
#include "interpose/entry/library.hpp"
#include "tests/unit/catch.hpp"

// ---- the recorder ----
namespace {
struct Posted {
  uint32_t opcode;
  uint16_t flags;
  std::vector<std::byte> payload;
};
struct Recorder {
  djinn::Work work = djinn::Work::run;
  bool session = true;
  std::vector<Posted> posted;
  std::map<std::string, std::string> absent;
  std::vector<std::string> aborted;
  std::vector<uint64_t> captured;  // streams of what went to a graph
} recorder;

template <class C>
C last() {
  REQUIRE_FALSE(recorder.posted.empty());
  C c;
  const Posted& p = recorder.posted.back();
  REQUIRE(p.opcode == C::kOpcode);
  djinn::wire::Reader r(p.payload);
  REQUIRE(c.decode(r));
  return c;
}
}  // namespace

namespace djinn {
Work begin_work(const char*) { return recorder.work; }
bool abort_scope(const char* name) {
  if (recorder.work != Work::drop) return false;
  recorder.aborted.push_back(name);
  return true;
}
bool open_session() { return recorder.session; }
cudaError_t session_error() { return recorder.session ? cudaSuccess : cudaErrorNoDevice; }
cudaError_t fail(cudaError_t e) { return e; }
void say_absent(const char* function, const char* reason) { recorder.absent[function] = reason; }
std::vector<std::byte>& scratch() {
  static thread_local std::vector<std::byte> buffer;
  buffer.clear();
  return buffer;
}
Ticket post(uint32_t opcode, uint16_t flags, std::span<const std::byte> payload, std::span<const djinn_part>) {
  recorder.posted.push_back({opcode, flags, {payload.begin(), payload.end()}});
  return recorder.posted.size();
}
std::atomic<int> captures{0};
cudaError_t post_or_capture(uint64_t stream, cudaGraphNodeType, uint32_t, std::span<const std::byte>, bool& captured) {
  captured = true;
  recorder.captured.push_back(stream);
  return cudaSuccess;
}
}  // namespace djinn

static cublasHandle_t new_handle() {
  recorder = {};
  cublasHandle_t h = nullptr;
  REQUIRE(cublasCreate(&h) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(h != nullptr);
  return h;
}

TEST_CASE("ids are positive ints, are not reused at once, and know their kind") {
  using namespace djinn::library;
  struct Thing final : Object {
    Thing() : Object(djinn::library::kind("thing")) {}
  };
  uint64_t a = insert(new Thing), b = insert(new Thing);
  REQUIRE((a && b && a != b && a <= INT32_MAX && b <= INT32_MAX));
  REQUIRE(find(a, kind("thing")));
  REQUIRE_FALSE(find(a, kind("another thing")));
  REQUIRE(erase(a, kind("thing")));
  REQUIRE_FALSE(erase(a, kind("thing")));
  uint64_t c = insert(new Thing);
  REQUIRE(c != a);
  REQUIRE_FALSE(find(a, kind("thing")));
  REQUIRE(erase(b, kind("thing")));
  REQUIRE(erase(c, kind("thing")));
  for (uint64_t nonsense : {uint64_t{0}, ~uint64_t{0}, uint64_t{1} << 40, uint64_t{0x7ffff000}}) REQUIRE_FALSE(find(nonsense, kind("thing")));
}

TEST_CASE("a cuBLAS handle is its state, and answers unknown handles with their code") {
  cublasHandle_t h = new_handle();
  cublasPointerMode_t pointers;
  cublasMath_t math;
  cudaStream_t stream;
  int count = -1;
  REQUIRE(cublasGetPointerMode(h, &pointers) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(pointers == CUBLAS_POINTER_MODE_HOST);
  REQUIRE(cublasGetMathMode(h, &math) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(math == CUBLAS_DEFAULT_MATH);
  REQUIRE(cublasSetMathMode(h, static_cast<cublasMath_t>(CUBLAS_TF32_TENSOR_OP_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)) ==
          CUBLAS_STATUS_SUCCESS);
  REQUIRE(cublasGetMathMode(h, &math) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(math == (CUBLAS_TF32_TENSOR_OP_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION));
  REQUIRE(cublasSetMathMode(h, static_cast<cublasMath_t>(7)) == CUBLAS_STATUS_INVALID_VALUE);
  REQUIRE(cublasSetStream(h, reinterpret_cast<cudaStream_t>(77)) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(cublasGetStream(h, &stream) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(stream == reinterpret_cast<cudaStream_t>(77));
  REQUIRE(cublasSetSmCountTarget(h, 3) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(cublasGetSmCountTarget(h, &count) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(count == 3);
  REQUIRE(cublasSetWorkspace(h, reinterpret_cast<void*>(128), 1024) == CUBLAS_STATUS_INVALID_VALUE);
  REQUIRE(cublasGetStream(h, nullptr) == CUBLAS_STATUS_INVALID_VALUE);
  REQUIRE(cublasDestroy(h) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(cublasDestroy(h) == CUBLAS_STATUS_NOT_INITIALIZED);
  REQUIRE(cublasSetStream(h, nullptr) == CUBLAS_STATUS_NOT_INITIALIZED);
  REQUIRE(recorder.posted.empty());  // none of it is a message
  recorder.session = false;
  REQUIRE(cublasCreate(&h) == CUBLAS_STATUS_NOT_INITIALIZED);
}

TEST_CASE("a product carries the handle's state and the scalars by value") {
  cublasHandle_t h = new_handle();
  REQUIRE(cublasSetStream(h, reinterpret_cast<cudaStream_t>(77)) == CUBLAS_STATUS_SUCCESS);
  float alpha = 1.5f, beta = 0;
  auto at = [](uint64_t a) { return reinterpret_cast<float*>(a); };
  REQUIRE(cublasSgemm(h, CUBLAS_OP_N, CUBLAS_OP_T, 2, 3, 4, &alpha, at(0x1000), 5, at(0x2000), 6, &beta, at(0x3000), 7) == CUBLAS_STATUS_SUCCESS);
  auto c = last<djinn::api::cublasSgemm_v2>();
  REQUIRE(c.handle == djinn::api::HandleState{77, 0, 0});
  REQUIRE((c.transa == CUBLAS_OP_N && c.transb == CUBLAS_OP_T && c.m == 2 && c.n == 3 && c.k == 4 && c.lda == 5 && c.ldb == 6 && c.ldc == 7));
  REQUIRE((c.A == 0x1000 && c.B == 0x2000 && c.C == 0x3000));
  REQUIRE((c.alpha.address == 0 && c.alpha.value[0] == std::bit_cast<uint32_t>(1.5f) && c.alpha.value[1] == 0));
  REQUIRE(recorder.posted.back().flags == 0);

  REQUIRE(cublasSetPointerMode(h, CUBLAS_POINTER_MODE_DEVICE) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(cublasSgemm(h, CUBLAS_OP_N, CUBLAS_OP_T, 2, 3, 4, at(0x4000), at(0x1000), 5, at(0x2000), 6, at(0x5000), at(0x3000), 7) ==
          CUBLAS_STATUS_SUCCESS);
  c = last<djinn::api::cublasSgemm_v2>();
  REQUIRE((c.alpha.address == 0x4000 && c.beta.address == 0x5000 && c.alpha.value[0] == 0));  // not dereferenced here

  REQUIRE(cublasSgemm(h, CUBLAS_OP_N, CUBLAS_OP_N, 2, 3, 4, nullptr, at(1), 5, at(2), 6, &beta, at(3), 7) == CUBLAS_STATUS_INVALID_VALUE);
  REQUIRE(cublasSgemm(nullptr, CUBLAS_OP_N, CUBLAS_OP_N, 2, 3, 4, &alpha, at(1), 5, at(2), 6, &beta, at(3), 7) == CUBLAS_STATUS_NOT_INITIALIZED);
  cublasDestroy(h);
}

TEST_CASE("inside an op scope products are dropped, or marked under --check") {
  cublasHandle_t h = new_handle();
  float one = 1;
  auto product = [&] { return cublasSgemm(h, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, &one, &one, 1, &one, 1, &one, &one, 1); };
  recorder.work = djinn::Work::drop;
  REQUIRE(product() == CUBLAS_STATUS_SUCCESS);
  REQUIRE(recorder.posted.empty());
  recorder.work = djinn::Work::scoped;
  REQUIRE(product() == CUBLAS_STATUS_SUCCESS);
  REQUIRE(recorder.posted.back().flags == djinn::wire::kFlagScoped);
  recorder.work = djinn::Work::refuse;
  REQUIRE(product() == CUBLAS_STATUS_NOT_INITIALIZED);
  recorder.work = djinn::Work::run;
  cublasDestroy(h);
}

TEST_CASE("an absent function says so, drops void work in a scope, and aborts a scope that wants a value") {
  cublasHandle_t h = new_handle();
  float x = 0, result = 42;
  REQUIRE(cublasSaxpy(h, 1, &x, &x, 1, &x, 1) == CUBLAS_STATUS_NOT_SUPPORTED);
  REQUIRE(recorder.absent.count("cublasSaxpy_v2"));
  REQUIRE(cublasSdot(h, 1, &x, 1, &x, 1, &result) == CUBLAS_STATUS_NOT_SUPPORTED);
  REQUIRE(recorder.absent.count("cublasSdot_v2"));
  recorder.absent.clear();
  recorder.work = djinn::Work::drop;
  REQUIRE(cublasSaxpy(h, 1, &x, &x, 1, &x, 1) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(recorder.aborted.empty());
  REQUIRE(cublasSdot(h, 1, &x, 1, &x, 1, &result) == CUBLAS_STATUS_NOT_SUPPORTED);
  REQUIRE(recorder.aborted == std::vector<std::string>{"cublasSdot_v2"});
  REQUIRE(recorder.absent.empty());
  REQUIRE(result == 42);
  recorder.work = djinn::Work::run;
  cublasDestroy(h);
}

TEST_CASE("cuBLASLt descriptors give back what was set, by the documented sizes and defaults") {
  recorder = {};
  cublasLtMatmulDesc_t desc;
  REQUIRE(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS);
  int32_t number = -1;
  size_t written = 0;
  REQUIRE(cublasLtMatmulDescGetAttribute(desc, CUBLASLT_MATMUL_DESC_COMPUTE_TYPE, &number, sizeof number, &written) == CUBLAS_STATUS_SUCCESS);
  REQUIRE((number == CUBLAS_COMPUTE_32F && written == 4));
  REQUIRE(cublasLtMatmulDescGetAttribute(desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &number, sizeof number, nullptr) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(number == -1);
  REQUIRE(cublasLtMatmulDescGetAttribute(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, nullptr, 0, &written) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(written == sizeof(void*));
  void* bias = reinterpret_cast<void*>(0x1234);
  REQUIRE(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, 4) == CUBLAS_STATUS_INVALID_VALUE);
  REQUIRE(cublasLtMatmulDescSetAttribute(desc, static_cast<cublasLtMatmulDescAttributes_t>(999), &bias, 8) == CUBLAS_STATUS_INVALID_VALUE);
  void* back = nullptr;
  REQUIRE(cublasLtMatmulDescGetAttribute(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &back, sizeof back, nullptr) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(back == bias);
  // one kind of descriptor is not another
  REQUIRE(cublasLtMatrixLayoutDestroy(reinterpret_cast<cublasLtMatrixLayout_t>(desc)) == CUBLAS_STATUS_INVALID_VALUE);
  REQUIRE(cublasLtMatmulDescDestroy(desc) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(cublasLtMatmulDescDestroy(desc) == CUBLAS_STATUS_INVALID_VALUE);
}

TEST_CASE("cublasLtMatmul sends its descriptors by value, for a cuBLAS handle too") {
  cublasHandle_t h = new_handle();
  auto lt = reinterpret_cast<cublasLtHandle_t>(h);
  cublasLtMatmulDesc_t desc;
  cublasLtMatrixLayout_t a, b, d;
  cublasLtMatmulPreference_t preference;
  REQUIRE(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(cublasLtMatrixLayoutCreate(&a, CUDA_R_16BF, 2, 4, 2) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(cublasLtMatrixLayoutCreate(&b, CUDA_R_16BF, 4, 3, 4) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(cublasLtMatrixLayoutCreate(&d, CUDA_R_16BF, 2, 3, 2) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(cublasLtMatmulPreferenceCreate(&preference) == CUBLAS_STATUS_SUCCESS);
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_GELU_BIAS;
  uint64_t bias = 0xb1a5;
  REQUIRE(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias) == CUBLAS_STATUS_SUCCESS);
  cublasLtMatmulHeuristicResult_t results[2];
  int found = 0;
  REQUIRE(cublasLtMatmulAlgoGetHeuristic(lt, desc, a, b, d, d, preference, 2, results, &found) == CUBLAS_STATUS_SUCCESS);
  REQUIRE((found == 1 && results[0].state == CUBLAS_STATUS_SUCCESS && results[0].workspaceSize == 0));
  REQUIRE(cublasLtMatmulAlgoGetHeuristic(lt, desc, a, a, d, d, preference, 2, results, &found) == CUBLAS_STATUS_INVALID_VALUE);

  float alpha = 2, beta = 0;
  auto at = [](uint64_t p) { return reinterpret_cast<void*>(p); };
  auto product = [&] {
    return cublasLtMatmul(lt, desc, &alpha, at(0x1000), a, at(0x2000), b, &beta, at(0x3000), d, at(0x4000), d, &results[0].algo, nullptr, 0, nullptr);
  };
  REQUIRE(product() == CUBLAS_STATUS_SUCCESS);
  auto c = last<djinn::api::cublasLtMatmul>();
  REQUIRE(c.desc == djinn::api::MatmulDescription{CUBLAS_COMPUTE_32F, CUDA_R_32F, 0, 0, CUBLASLT_EPILOGUE_GELU_BIAS, CUDA_R_16BF, 0xb1a5, 0});
  REQUIRE(c.a == djinn::api::Matrix{0x1000, CUDA_R_16BF, 0, 2, 4, 2, 0, 1});
  REQUIRE(c.d == djinn::api::Matrix{0x4000, CUDA_R_16BF, 0, 2, 3, 2, 0, 1});
  REQUIRE(c.alpha.value[0] == std::bit_cast<uint32_t>(2.0f));

  // what the message cannot say is refused by its name
  uint64_t scale = 0x5ca1e;
  REQUIRE(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &scale, sizeof scale) == CUBLAS_STATUS_SUCCESS);
  size_t before = recorder.posted.size();
  REQUIRE(product() == CUBLAS_STATUS_NOT_SUPPORTED);
  REQUIRE(recorder.absent["cublasLtMatmul"] == "MATMUL_DESC_A_SCALE_POINTER");
  REQUIRE(recorder.posted.size() == before);
  recorder.work = djinn::Work::drop;  // in an op scope the op computes it
  REQUIRE(product() == CUBLAS_STATUS_SUCCESS);
  recorder.work = djinn::Work::run;
  for (auto l : {a, b, d}) cublasLtMatrixLayoutDestroy(l);
  cublasLtMatmulDescDestroy(desc);
  cublasLtMatmulPreferenceDestroy(preference);
  cublasDestroy(h);
}

TEST_CASE("versions and texts are the headers'") {
  cublasHandle_t h = new_handle();
  int version = 0, major = 0;
  REQUIRE(cublasGetVersion(h, &version) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(version == CUBLAS_VERSION);
  REQUIRE(cublasLtGetVersion() == CUBLAS_VERSION);
  REQUIRE(cublasGetProperty(MAJOR_VERSION, &major) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(major == CUBLAS_VER_MAJOR);
  REQUIRE(std::string(cublasGetStatusName(CUBLAS_STATUS_NOT_SUPPORTED)) == "CUBLAS_STATUS_NOT_SUPPORTED");
  cublasDestroy(h);
}

TEST_CASE("the function table is sorted and finds every row") {
  auto all = djinn::library::functions();
  REQUIRE(all.size() > 1000);
  for (size_t i = 1; i < all.size(); i++) REQUIRE(all[i - 1].name < all[i].name);
  const auto* sgemm = djinn::library::find_function("cublasSgemm_v2");
  REQUIRE(sgemm);
  REQUIRE(sgemm->mode == djinn::library::Mode::post);
  REQUIRE(sgemm->opcode == djinn::api::cublasSgemm_v2::kOpcode);
  REQUIRE(djinn::library::find_function("cublasSgemm_v3") == nullptr);
}

TEST_CASE("while a stream captures, a product is offered to the capture of its handle's stream; what is only validated is not") {
  cublasHandle_t h = new_handle();
  REQUIRE(cublasSetStream(h, reinterpret_cast<cudaStream_t>(0x30)) == CUBLAS_STATUS_SUCCESS);
  float one = 1, *device = reinterpret_cast<float*>(0x1000);
  auto multiply = [&] { return cublasSgemm(h, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, &one, device, 1, device, 1, &one, device, 1); };
  djinn::captures = 1;
  CHECK(multiply() == CUBLAS_STATUS_SUCCESS);
  CHECK(recorder.captured == std::vector<uint64_t>{0x30});
  CHECK(recorder.posted.empty());
  recorder.work = djinn::Work::scoped;
  CHECK(multiply() == CUBLAS_STATUS_SUCCESS);
  CHECK(recorder.posted.size() == 1);
  djinn::captures = 0;
  CHECK(cublasDestroy(h) == CUBLAS_STATUS_SUCCESS);
}

// Errors: what a program learns, when, how often and in which words.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstring>

#include "interpose/batch/session.hpp"
#include "interpose/entry/hook_host.hpp"
#include "tests/unit/client/fixture.hpp"

using namespace djinn;
using namespace djinn::test;
using wire::ErrorClass;
using wire::Opcode;

namespace {
struct Fails {
  Fails() { REQUIRE(cudaMalloc(&p, 1000) == cudaSuccess); }
  ~Fails() { CHECK(cudaFree(p) == cudaSuccess); }
  void fill(Failure f) {
    fake().fail_next(Opcode::fill, std::move(f));
    CHECK(cudaMemsetAsync(p, 0, 1000, nullptr) == cudaSuccess);  // posted: nobody knows yet
  }
  void* p = nullptr;
};
int host_blocking(std::string* text = nullptr) {
  char words[256] = "";
  int e = djinn_hook_host_get()->blocking_error(words, sizeof words);
  if (text) *text = words;
  return e;
}
bool contains(const char* text, const char* part) { return strstr(text, part) != nullptr; }
}  // namespace

TEST_CASE("an exception of a posted command is delivered once, at the next synchronisation, in words") {
  OpenSession s;
  Fails f;
  f.fill({cudaErrorAssert, ErrorClass::exception, "aten::embedding", "IndexError: index 11 is out of range"});
  CHECK(cudaGetLastError() == cudaSuccess);
  CHECK(cudaStreamSynchronize(nullptr) == cudaErrorAssert);
  CHECK(contains(cudaGetErrorString(cudaErrorAssert), "device-side assert triggered"));
  CHECK(contains(cudaGetErrorString(cudaErrorAssert), "aten::embedding: IndexError: index 11 is out of range"));
  CHECK_FALSE(contains(cudaGetErrorString(cudaErrorInvalidValue), "embedding"));
  CHECK(cudaGetLastError() == cudaErrorAssert);
  CHECK(cudaGetLastError() == cudaSuccess);
  CHECK(cudaStreamSynchronize(nullptr) == cudaSuccess);
}

TEST_CASE("of several failures before a synchronisation the first is delivered") {
  OpenSession s;
  Fails f;
  f.fill({cudaErrorUnknown, ErrorClass::exception, "aten::first", "one"});
  f.fill({cudaErrorNotSupported, ErrorClass::refused, "aten::second", "two"});
  CHECK(cudaDeviceSynchronize() == cudaErrorUnknown);
  CHECK(contains(cudaGetErrorString(cudaErrorUnknown), "aten::first: one"));
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  cudaGetLastError();
}

TEST_CASE("a copy to the host, an event and a query deliver too") {
  OpenSession s;
  Fails f;
  cudaEvent_t e;
  REQUIRE(cudaEventCreate(&e) == cudaSuccess);
  char byte;
  f.fill({cudaErrorUnknown, ErrorClass::exception, "aten::a", "x"});
  CHECK(cudaMemcpy(&byte, f.p, 1, cudaMemcpyDeviceToHost) == cudaErrorUnknown);
  f.fill({cudaErrorUnknown, ErrorClass::exception, "aten::b", "x"});
  CHECK(cudaEventRecord(e, nullptr) == cudaSuccess);
  CHECK(cudaEventSynchronize(e) == cudaErrorUnknown);
  f.fill({cudaErrorUnknown, ErrorClass::exception, "aten::c", "x"});
  session()->log.flush();
  while (s.link.step()) {}
  CHECK(cudaStreamQuery(nullptr) == cudaErrorUnknown);
  CHECK(cudaEventDestroy(e) == cudaSuccess);
  cudaGetLastError();
}

TEST_CASE("a copy that fails itself says its own words, and once") {
  OpenSession s;
  Fails f;
  char byte;
  s.link.fail_next(Opcode::download, {cudaErrorUnknown, ErrorClass::exception, "aten::poisoned", "the op that computed this failed"});
  CHECK(cudaMemcpy(&byte, f.p, 1, cudaMemcpyDeviceToHost) == cudaErrorUnknown);
  CHECK(contains(cudaGetErrorString(cudaErrorUnknown), "aten::poisoned: the op that computed this failed"));
  CHECK(cudaMemcpy(&byte, f.p, 1, cudaMemcpyDeviceToHost) == cudaSuccess);
  cudaGetLastError();
}

TEST_CASE("the hook's failed call is told to the hook and does not swallow what others are owed") {
  OpenSession s;
  Fails f;
  const djinn_hook_host* host = djinn_hook_host_get();
  f.fill({cudaErrorUnknown, ErrorClass::exception, "aten::earlier", "x"});
  s.link.fail_next(Opcode::op_query, {801, ErrorClass::refused, "aten::nonzero", "cannot be done"});
  uint64_t word = 5;
  djinn_reply r{};
  CHECK(host->call(static_cast<uint32_t>(Opcode::op_query), 0, &word, sizeof word, &r) == 801);
  CHECK(std::string(r.error) == "aten::nonzero: cannot be done");
  host->release(&r);
  CHECK(cudaDeviceSynchronize() == cudaErrorUnknown);
  CHECK(contains(cudaGetErrorString(cudaErrorUnknown), "aten::earlier"));
  CHECK(host->call(static_cast<uint32_t>(Opcode::op_query), 0, &word, sizeof word, &r) == 0);
  REQUIRE(r.size == sizeof word);
  CHECK(std::memcmp(r.data, &word, sizeof word) == 0);
  host->release(&r);
  cudaGetLastError();
}

TEST_CASE("a program that goes on after errors is not drowned in them") {
  OpenSession s;
  Fails f;
  for (int i = 0; i < 300; i++) {
    f.fill({cudaErrorUnknown, ErrorClass::exception, "aten::again", std::to_string(i)});
    REQUIRE(cudaDeviceSynchronize() == cudaErrorUnknown);
  }
  CHECK(contains(cudaGetErrorString(cudaErrorUnknown), "aten::again: 299"));
  CHECK(host_blocking() == 0);
  cudaGetLastError();
}

TEST_CASE("child: blocking", "[.][blocking]") {
  OpenSession s;
  Fails f;
  CHECK(host_blocking() == 0);
  f.fill({cudaErrorAssert, ErrorClass::exception, "aten::embedding", "out of range"});
  std::string text;
  CHECK(host_blocking(&text) == cudaErrorAssert);
  CHECK(text == "device-side assert triggered: aten::embedding: out of range");
  CHECK(host_blocking() == 0);
  cudaGetLastError();
}

TEST_CASE("with CUDA_LAUNCH_BLOCKING=1 the hook learns of an error where it happens") {
  auto done = run_case("blocking", {"DJINN_SERVER=tcp://127.0.0.1:1", "CUDA_LAUNCH_BLOCKING=1"});
  INFO(done.output);
  CHECK(done.status == 0);
}

TEST_CASE("the hook's table answers what the server said at open") {
  OpenSession s;
  const djinn_hook_host* host = djinn_hook_host_get();
  CHECK(host->version == DJINN_HOOK_VERSION);
  CHECK(host->size == sizeof *host);
  CHECK(host->op_level() == 1);
  CHECK(host->checks() == 0);
  size_t n = 0;
  const char* const* ops = host->ops(&n);
  REQUIRE(n == 2);
  CHECK(std::string(ops[1]) == "aten::mm");
  CHECK(host->perf("shape_cache") == 1);
  CHECK(host->scope() == &scope());
  CHECK(host->stream_capturing(nullptr) == 0);
  uint64_t word = 1;
  Ticket t = host->post(static_cast<uint32_t>(Opcode::op_run), 0, &word, sizeof word);
  CHECK(t == session()->log.last());
}

TEST_CASE("every code has its name and its text") {
  for (auto [code, name] : {std::pair{cudaSuccess, "cudaSuccess"},
                            {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation"},
                            {cudaErrorIllegalAddress, "cudaErrorIllegalAddress"},
                            {cudaErrorPeerAccessNotEnabled, "cudaErrorPeerAccessNotEnabled"},
                            {cudaErrorECCUncorrectable, "cudaErrorECCUncorrectable"},
                            {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated"}}) {
    CHECK(std::string(cudaGetErrorName(code)) == name);
    CHECK(strlen(cudaGetErrorString(code)) > 5);
  }
  CHECK(std::string(cudaGetErrorName(static_cast<cudaError_t>(12345))) == "unrecognized error code");
}

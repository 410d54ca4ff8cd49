// Devices, streams and events as a program sees them: states told truthfully, from what has been acknowledged, with CUDA's codes.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <thread>

#include "interpose/batch/counters.hpp"
#include "interpose/batch/session.hpp"
#include "tests/unit/client/fixture.hpp"

using namespace djinn;
using namespace djinn::test;
using wire::Opcode;

TEST_CASE("one device, whose properties and attributes agree") {
  OpenSession s;
  int n = 0;
  CHECK(cudaGetDeviceCount(&n) == cudaSuccess);
  CHECK(n == 1);
  cudaDeviceProp p{};
  REQUIRE(cudaGetDeviceProperties(&p, 0) == cudaSuccess);
  CHECK(std::string(p.name) == "Fake device");
  CHECK(p.major == 12);
  CHECK(p.totalGlobalMem == s.link.memory_total);
  auto attribute = [](cudaDeviceAttr a) {
    int v = -1, w = -2;
    CHECK(cudaDeviceGetAttribute(&v, a, 0) == cudaSuccess);
    CHECK(cuDeviceGetAttribute(&w, static_cast<CUdevice_attribute>(a), 0) == CUDA_SUCCESS);
    CHECK(v == w);
    return v;
  };
  CHECK(attribute(cudaDevAttrMultiProcessorCount) == p.multiProcessorCount);
  CHECK(attribute(cudaDevAttrMaxThreadsPerMultiProcessor) == p.maxThreadsPerMultiProcessor);
  CHECK(attribute(cudaDevAttrComputeCapabilityMajor) == p.major);
  CHECK(attribute(cudaDevAttrComputeCapabilityMinor) == p.minor);
  CHECK(attribute(cudaDevAttrWarpSize) == p.warpSize);
  CHECK(attribute(cudaDevAttrMaxThreadsPerBlock) == p.maxThreadsPerBlock);
  CHECK(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) == static_cast<int>(p.sharedMemPerBlockOptin));
  CHECK(attribute(cudaDevAttrL2CacheSize) == p.l2CacheSize);
  CHECK(attribute(cudaDevAttrClockRate) == 2'000'000);
  int v;
  CHECK(cudaDeviceGetAttribute(&v, static_cast<cudaDeviceAttr>(99999), 0) == cudaErrorInvalidValue);
  CHECK(cudaDeviceGetAttribute(&v, cudaDevAttrWarpSize, 1) == cudaErrorInvalidDevice);
  CHECK(cudaGetDeviceProperties(&p, 1) == cudaErrorInvalidDevice);
  CHECK(cudaSetDevice(1) == cudaErrorInvalidDevice);
  CHECK(cudaSetDevice(-1) == cudaErrorInvalidDevice);
  CHECK(cudaGetDevice(&v) == cudaSuccess);
  CHECK(v == 0);
}

TEST_CASE("each thread has its own current context and last error; the primary context is active once") {
  OpenSession s;
  unsigned flags;
  int active = 0;
  CHECK(cuDevicePrimaryCtxGetState(0, &flags, &active) == CUDA_SUCCESS);
  CHECK(active == 1);
  CUcontext mine = nullptr;
  CHECK(cuCtxGetCurrent(&mine) == CUDA_SUCCESS);
  CHECK(mine != nullptr);
  cudaSetDevice(5);
  std::thread([&] {
    CUcontext theirs = mine, retained = nullptr;
    CHECK(cuCtxGetCurrent(&theirs) == CUDA_SUCCESS);
    CHECK(theirs == nullptr);
    CHECK(cudaGetLastError() == cudaSuccess);
    CHECK(cuDevicePrimaryCtxRetain(&retained, 0) == CUDA_SUCCESS);
    CHECK(retained == mine);
    CHECK(cuCtxGetCurrent(&theirs) == CUDA_SUCCESS);
    CHECK(theirs == nullptr);
    CHECK(cuCtxSetCurrent(retained) == CUDA_SUCCESS);
    CHECK(cuCtxGetCurrent(&theirs) == CUDA_SUCCESS);
    CHECK(theirs == mine);
    CHECK(cuCtxSetCurrent(reinterpret_cast<CUcontext>(0x123)) == CUDA_ERROR_INVALID_CONTEXT);
  }).join();
  CHECK(cudaPeekAtLastError() == cudaErrorInvalidDevice);
  CHECK(cudaGetLastError() == cudaErrorInvalidDevice);
  CHECK(cudaGetLastError() == cudaSuccess);
}

TEST_CASE("streams live from creation to destruction; creating one does not wait") {
  OpenSession s;
  uint64_t trips = counters().round_trips;
  cudaStream_t a = nullptr, b = nullptr;
  REQUIRE(cudaStreamCreateWithPriority(&a, cudaStreamNonBlocking, -1) == cudaSuccess);
  REQUIRE(cudaStreamCreate(&b) == cudaSuccess);
  CHECK(a != b);
  CHECK(counters().round_trips == trips);
  int priority = 7;
  CHECK(cudaStreamGetPriority(a, &priority) == cudaSuccess);
  CHECK(priority == -1);
  CHECK(cudaStreamGetPriority(nullptr, &priority) == cudaSuccess);
  CHECK(priority == 0);
  for (cudaStream_t each : {a, b, cudaStream_t{nullptr}, cudaStreamLegacy, cudaStreamPerThread}) {
    CHECK(cudaStreamSynchronize(each) == cudaSuccess);
    CHECK(cudaStreamQuery(each) == cudaSuccess);
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusActive;
    CHECK(cudaStreamIsCapturing(each, &status) == cudaSuccess);
    CHECK(status == cudaStreamCaptureStatusNone);
  }
  CHECK(cudaStreamDestroy(b) == cudaSuccess);
  CHECK(cudaStreamDestroy(b) == cudaErrorInvalidResourceHandle);
  CHECK(cudaStreamSynchronize(b) == cudaErrorInvalidResourceHandle);
  CHECK(cudaStreamDestroy(nullptr) == cudaErrorInvalidResourceHandle);
  CHECK(cudaStreamDestroy(cudaStreamLegacy) == cudaErrorInvalidResourceHandle);
  CHECK(cudaStreamCreateWithFlags(&b, 64) == cudaErrorInvalidValue);
  CHECK(cudaStreamDestroy(a) == cudaSuccess);
}

TEST_CASE("a query tells the truth and its NotReady is never the last error") {
  OpenSession s;
  s.link.automatic = false;
  void* p = nullptr;
  REQUIRE(cudaMalloc(&p, 1000) == cudaSuccess);
  cudaEvent_t e;
  REQUIRE(cudaEventCreate(&e) == cudaSuccess);
  CHECK(cudaEventQuery(e) == cudaSuccess);  // never recorded
  REQUIRE(cudaMemset(p, 1, 1000) == cudaSuccess);
  REQUIRE(cudaEventRecord(e, nullptr) == cudaSuccess);
  REQUIRE(cudaMemset(p, 2, 1000) == cudaSuccess);
  CHECK(cudaEventQuery(e) == cudaErrorNotReady);
  CHECK(cudaStreamQuery(nullptr) == cudaErrorNotReady);
  CHECK(cudaGetLastError() == cudaSuccess);
  s.link.step(3);  // mapping, fill, record
  CHECK(cudaEventQuery(e) == cudaSuccess);
  CHECK(cudaStreamQuery(nullptr) == cudaErrorNotReady);
  while (s.link.step()) {}
  CHECK(cudaStreamQuery(nullptr) == cudaSuccess);
  s.link.automatic = true;
  CHECK(cudaEventSynchronize(e) == cudaSuccess);
  CHECK(cudaEventDestroy(e) == cudaSuccess);
  CHECK(cudaEventQuery(e) == cudaErrorInvalidResourceHandle);
  CHECK(cudaFree(p) == cudaSuccess);
}

TEST_CASE("elapsed times are the device's") {
  OpenSession s;
  cudaEvent_t a, b, untimed;
  REQUIRE(cudaEventCreate(&a) == cudaSuccess);
  REQUIRE(cudaEventCreate(&b) == cudaSuccess);
  REQUIRE(cudaEventCreateWithFlags(&untimed, cudaEventDisableTiming) == cudaSuccess);
  float ms = -1;
  CHECK(cudaEventElapsedTime(&ms, a, b) == cudaErrorInvalidResourceHandle);  // not recorded
  REQUIRE(cudaEventRecord(a, nullptr) == cudaSuccess);
  REQUIRE(cudaEventRecord(untimed, nullptr) == cudaSuccess);
  REQUIRE(cudaEventRecord(b, nullptr) == cudaSuccess);
  REQUIRE(cudaEventSynchronize(b) == cudaSuccess);
  CHECK(cudaEventElapsedTime(&ms, a, b) == cudaSuccess);
  CHECK(ms == Approx(1.0f));  // the fake device's clock: a millisecond per timed event
  CHECK(cudaEventElapsedTime(&ms, b, a) == cudaSuccess);
  CHECK(ms == Approx(-1.0f));
  CHECK(cudaEventElapsedTime(&ms, a, untimed) == cudaErrorInvalidResourceHandle);
  CHECK(cudaGetLastError() == cudaErrorInvalidResourceHandle);
  s.link.automatic = false;
  REQUIRE(cudaEventRecord(b, nullptr) == cudaSuccess);
  CHECK(cudaEventElapsedTime(&ms, a, b) == cudaErrorNotReady);  // recorded anew and not there yet
  CHECK(cudaGetLastError() == cudaSuccess);
  s.link.automatic = true;
  REQUIRE(cudaEventSynchronize(b) == cudaSuccess);
  CHECK(cudaEventElapsedTime(&ms, a, b) == cudaSuccess);
  CHECK(ms == Approx(2.0f));
  for (cudaEvent_t e : {a, b, untimed}) CHECK(cudaEventDestroy(e) == cudaSuccess);
}

TEST_CASE("waiting for an event is posted, for one never recorded it is nothing") {
  OpenSession s;
  cudaEvent_t e;
  REQUIRE(cudaEventCreate(&e) == cudaSuccess);
  CHECK(cudaStreamWaitEvent(nullptr, e, 0) == cudaSuccess);
  CHECK(s.sent(Opcode::stream_wait).empty());
  REQUIRE(cudaEventRecord(e, nullptr) == cudaSuccess);
  CHECK(cudaStreamWaitEvent(cudaStreamPerThread, e, 0) == cudaSuccess);
  auto sent = s.sent(Opcode::stream_wait);
  REQUIRE(sent.size() == 1);
  CHECK(sent[0].as<wire::StreamWait>().event == reinterpret_cast<uint64_t>(e));
  CHECK(cudaEventCreateWithFlags(&e, 1 << 20) == cudaErrorInvalidValue);
  CHECK(cudaStreamWaitEvent(nullptr, reinterpret_cast<cudaEvent_t>(0x99), 0) == cudaErrorInvalidResourceHandle);
  cudaGetLastError();
}

TEST_CASE("the number of round trips is the number of synchronisations") {
  OpenSession s;
  void* p = nullptr;
  REQUIRE(cudaMalloc(&p, 1000) == cudaSuccess);
  uint64_t trips = counters().round_trips;
  for (int step = 0; step < 5; step++) {
    for (int i = 0; i < 50; i++) REQUIRE(cudaMemsetAsync(p, i, 1000, nullptr) == cudaSuccess);
    float value;
    REQUIRE(cudaMemcpy(&value, p, sizeof value, cudaMemcpyDeviceToHost) == cudaSuccess);
  }
  CHECK(counters().round_trips - trips == 5);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  CHECK(counters().round_trips - trips == 5);  // the last copy waited for everything
  CHECK(cudaFree(p) == cudaSuccess);
}

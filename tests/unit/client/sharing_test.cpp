// Memory between processes and stream-ordered allocation as a program uses them: what is asked of the server, and what is refused with which code.
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <unistd.h>

#include <cstring>

#include "interpose/batch/counters.hpp"
#include "interpose/batch/session.hpp"
#include "interpose/shadow/sharing.hpp"
#include "tests/unit/client/fixture.hpp"

using namespace djinn;
using namespace djinn::test;
using wire::kGranule;

TEST_CASE("sharing: an allocation has one handle, which costs one round trip, until it is freed") {
  OpenSession s;
  void *neighbour, *p;
  REQUIRE(cudaMalloc(&neighbour, 1000) == cudaSuccess);
  REQUIRE(cudaMalloc(&p, 3 * kGranule) == cudaSuccess);
  uint64_t trips = counters().round_trips;
  cudaIpcMemHandle_t a, b;
  REQUIRE(cudaIpcGetMemHandle(&a, p) == cudaSuccess);
  REQUIRE(cudaIpcGetMemHandle(&b, p) == cudaSuccess);
  CHECK(counters().round_trips == trips + 1);
  CHECK(std::memcmp(&a, &b, sizeof a) == 0);
  CHECK(cudaIpcGetMemHandle(&a, static_cast<char*>(p) + 256) == cudaErrorInvalidValue);
  CHECK(cudaIpcGetMemHandle(&a, &trips) == cudaErrorInvalidValue);
  void* mine;
  CHECK(cudaIpcOpenMemHandle(&mine, b, cudaIpcMemLazyEnablePeerAccess) == cudaErrorDeviceUninitialized);
  CHECK(cudaIpcOpenMemHandle(&mine, b, 8) == cudaErrorInvalidValue);
  CHECK(cudaIpcOpenMemHandle(&mine, cudaIpcMemHandle_t{}, 0) == cudaErrorInvalidResourceHandle);
  CHECK(cudaIpcCloseMemHandle(p) == cudaErrorInvalidValue);
  REQUIRE(cudaFree(p) == cudaSuccess);
  REQUIRE(cudaFree(neighbour) == cudaSuccess);
  cudaGetLastError();
}

TEST_CASE("sharing: somebody else's memory is opened once, at an address of the device, and closed as often as it was opened") {
  OpenSession s;
  void* p;
  REQUIRE(cudaMalloc(&p, kGranule) == cudaSuccess);
  SharedMemory theirs;
  REQUIRE(sharing().get_handle(reinterpret_cast<uint64_t>(p), theirs) == cudaSuccess);
  theirs.session += 1;  // as if it came from another
  theirs.offset = 256;
  uint64_t mapped = session()->arenas->of(0).mapped();
  cudaIpcMemHandle_t handle;
  std::memcpy(&handle, &theirs, sizeof handle);
  void *x, *y;
  REQUIRE(cudaIpcOpenMemHandle(&x, handle, cudaIpcMemLazyEnablePeerAccess) == cudaSuccess);
  REQUIRE(cudaIpcOpenMemHandle(&y, handle, cudaIpcMemLazyEnablePeerAccess) == cudaSuccess);
  CHECK(x == y);
  CHECK(reinterpret_cast<uint64_t>(x) % kGranule == 256);
  CHECK(session()->arenas->of(0).mapped() == mapped);  // it is its owner's
  cudaPointerAttributes about;
  CHECK(cudaPointerGetAttributes(&about, x) == cudaSuccess);
  CHECK(about.type == cudaMemoryTypeDevice);
  CHECK(cudaIpcCloseMemHandle(x) == cudaSuccess);
  CHECK(cudaIpcCloseMemHandle(x) == cudaSuccess);
  CHECK(cudaIpcCloseMemHandle(x) == cudaErrorInvalidValue);
  theirs.secret.word[0] ^= 1;
  std::memcpy(&handle, &theirs, sizeof handle);
  CHECK(cudaIpcOpenMemHandle(&x, handle, 0) == cudaErrorInvalidResourceHandle);
  REQUIRE(cudaFree(p) == cudaSuccess);
  cudaGetLastError();
}

TEST_CASE("sharing: physical memory goes by file if it was made for that") {
  OpenSession s;
  CUmemAllocationProp p{};
  p.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  p.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  CUmemGenericAllocationHandle own, exported, imported;
  int file = -1;
  REQUIRE(cuMemCreate(&own, kGranule, &p, 0) == CUDA_SUCCESS);
  CHECK(cuMemExportToShareableHandle(&file, own, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0) == CUDA_ERROR_INVALID_VALUE);
  p.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  REQUIRE(cuMemCreate(&exported, kGranule, &p, 0) == CUDA_SUCCESS);
  CHECK(cuMemExportToShareableHandle(&file, exported, CU_MEM_HANDLE_TYPE_FABRIC, 0) == CUDA_ERROR_NOT_SUPPORTED);
  REQUIRE(cuMemExportToShareableHandle(&file, exported, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0) == CUDA_SUCCESS);
  auto as_pointer = [](int f) { return reinterpret_cast<void*>(static_cast<intptr_t>(f)); };
  CHECK(cuMemImportFromShareableHandle(&imported, as_pointer(-1), CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) == CUDA_ERROR_INVALID_VALUE);
  REQUIRE(cuMemImportFromShareableHandle(&imported, as_pointer(file), CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) == CUDA_SUCCESS);
  close(file);
  for (auto h : {imported, exported, own}) CHECK(cuMemRelease(h) == CUDA_SUCCESS);
  CHECK(session()->arenas->of(0).mapped() == 0);
}

TEST_CASE("events between processes: recorded when the work before is done") {
  OpenSession s;
  cudaEvent_t e, plain;
  CHECK(cudaEventCreateWithFlags(&e, cudaEventInterprocess) == cudaErrorInvalidValue);  // CUDA: not with timing
  REQUIRE(cudaEventCreateWithFlags(&e, cudaEventInterprocess | cudaEventDisableTiming) == cudaSuccess);
  REQUIRE(cudaEventCreateWithFlags(&plain, cudaEventDisableTiming) == cudaSuccess);
  cudaIpcEventHandle_t handle;
  CHECK(cudaIpcGetEventHandle(&handle, plain) == cudaErrorInvalidResourceHandle);
  REQUIRE(cudaIpcGetEventHandle(&handle, e) == cudaSuccess);
  REQUIRE(cudaEventRecord(e, nullptr) == cudaSuccess);
  CHECK(cudaEventQuery(e) == cudaSuccess);
  cudaEvent_t theirs;
  CHECK(cudaIpcOpenEventHandle(&theirs, cudaIpcEventHandle_t{}) == cudaErrorInvalidResourceHandle);
  REQUIRE(cudaIpcOpenEventHandle(&theirs, handle) == cudaSuccess);
  CHECK(cudaStreamWaitEvent(nullptr, theirs, 0) == cudaSuccess);
  for (auto x : {e, plain, theirs}) CHECK(cudaEventDestroy(x) == cudaSuccess);
  cudaGetLastError();
}

TEST_CASE("stream-ordered allocation: counted in the device's default pool, freed by either function") {
  OpenSession s;
  cudaMemPool_t pool;
  REQUIRE(cudaDeviceGetDefaultMemPool(&pool, 0) == cudaSuccess);
  CHECK(cudaDeviceGetDefaultMemPool(&pool, 99) == cudaErrorInvalidDevice);
  auto read = [&](cudaMemPoolAttr a) {
    uint64_t v = ~0ull;
    CHECK(cudaMemPoolGetAttribute(pool, a, &v) == cudaSuccess);
    return v;
  };
  void *a, *b, *c;
  REQUIRE(cudaMallocAsync(&a, 1000, nullptr) == cudaSuccess);
  REQUIRE(cudaMallocAsync(&b, 500, nullptr) == cudaSuccess);
  REQUIRE(cudaMalloc(&c, 5000) == cudaSuccess);
  CHECK(read(cudaMemPoolAttrUsedMemCurrent) == 1500);
  CHECK(cudaFreeAsync(a, nullptr) == cudaSuccess);
  CHECK(cudaFreeAsync(a, nullptr) == cudaErrorInvalidValue);
  CHECK(cudaFree(b) == cudaSuccess);
  CHECK(cudaFreeAsync(c, nullptr) == cudaSuccess);
  CHECK(cudaFreeAsync(nullptr, nullptr) == cudaErrorInvalidValue);
  CHECK(read(cudaMemPoolAttrUsedMemCurrent) == 0);
  CHECK(read(cudaMemPoolAttrUsedMemHigh) == 1500);
  uint64_t zero = 0, one = 1;
  CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrUsedMemHigh, &one) == cudaErrorInvalidValue);
  CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrUsedMemHigh, &zero) == cudaSuccess);
  CHECK(read(cudaMemPoolAttrUsedMemHigh) == 0);
  uint64_t threshold = 12345;
  CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold) == cudaSuccess);
  CHECK(read(cudaMemPoolAttrReleaseThreshold) == threshold);
  CHECK(cudaMemPoolTrimTo(pool, 0) == cudaSuccess);
  CHECK(cudaMemPoolTrimTo(nullptr, 0) == cudaErrorInvalidValue);
  CHECK(cudaMallocAsync(&a, 1000, reinterpret_cast<cudaStream_t>(0x1234567)) == cudaErrorInvalidResourceHandle);
  cudaGetLastError();
}

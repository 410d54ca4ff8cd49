// CUDA's virtual memory management as a program uses it: what is posted, in which order, and what is refused with which of the driver's codes.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include "interpose/batch/counters.hpp"
#include "interpose/batch/session.hpp"
#include "tests/unit/client/fixture.hpp"

using namespace djinn;
using namespace djinn::test;
using wire::kGranule;
using wire::Opcode;

namespace {

CUmemAllocationProp on_device(int id) {
  CUmemAllocationProp p{};
  p.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  p.location = {CU_MEM_LOCATION_TYPE_DEVICE, {id}};
  return p;
}
CUmemAccessDesc grant(CUmemAccess_flags flags, int id = 0) { return {{CU_MEM_LOCATION_TYPE_DEVICE, {id}}, flags}; }
const CUmemAccessDesc kReadWrite = grant(CU_MEM_ACCESS_FLAGS_PROT_READWRITE);

struct Reservation {
  explicit Reservation(size_t bytes) : n(bytes) { REQUIRE(cuMemAddressReserve(&at, n, 0, 0, 0) == CUDA_SUCCESS); }
  ~Reservation() { CHECK(cuMemAddressFree(at, n) == CUDA_SUCCESS); }
  size_t n;
  CUdeviceptr at = 0;
};

}  // namespace

TEST_CASE("virtual memory: create, map, access, unmap and release are posted in their order, without a round trip") {
  OpenSession s;
  uint64_t trips = counters().round_trips, before = session()->arenas->of(0).mapped();
  auto p = on_device(0);
  CUmemGenericAllocationHandle h, again;
  {
    Reservation r(8 * kGranule);
    REQUIRE(cuMemCreate(&h, 2 * kGranule, &p, 0) == CUDA_SUCCESS);
    CHECK(session()->arenas->of(0).mapped() == before + 2 * kGranule);
    REQUIRE(cuMemMap(r.at + kGranule, 2 * kGranule, 0, h, 0) == CUDA_SUCCESS);
    REQUIRE(cuMemMap(r.at + 4 * kGranule, 2 * kGranule, 0, h, 0) == CUDA_SUCCESS);  // the same memory again
    REQUIRE(cuMemSetAccess(r.at + kGranule, 2 * kGranule, &kReadWrite, 1) == CUDA_SUCCESS);
    unsigned long long flags = 9;
    CUmemLocation location = kReadWrite.location;
    CHECK(cuMemGetAccess(&flags, &location, r.at + kGranule) == CUDA_SUCCESS);
    CHECK(flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    CHECK(cuMemGetAccess(&flags, &location, r.at + 5 * kGranule) == CUDA_SUCCESS);
    CHECK(flags == CU_MEM_ACCESS_FLAGS_PROT_NONE);
    cudaPointerAttributes a;
    CHECK(cudaPointerGetAttributes(&a, reinterpret_cast<void*>(r.at + kGranule + 5)) == cudaSuccess);
    CHECK(a.type == cudaMemoryTypeDevice);
    CHECK(cudaPointerGetAttributes(&a, reinterpret_cast<void*>(r.at)) == cudaSuccess);  // reserved only
    CHECK(a.type == cudaMemoryTypeUnregistered);
    CHECK(cudaFree(reinterpret_cast<void*>(r.at + kGranule)) == cudaErrorInvalidValue);
    cudaGetLastError();
    REQUIRE(cuMemRelease(h) == CUDA_SUCCESS);
    CHECK(cuMemRelease(h) == CUDA_ERROR_INVALID_VALUE);
    REQUIRE(cuMemRetainAllocationHandle(&again, reinterpret_cast<void*>(r.at + 2 * kGranule)) == CUDA_SUCCESS);
    CHECK(again == h);
    CHECK(cuMemAddressFree(r.at, r.n) == CUDA_ERROR_INVALID_VALUE);  // something is mapped
    REQUIRE(cuMemUnmap(r.at + kGranule, 2 * kGranule) == CUDA_SUCCESS);
    REQUIRE(cuMemUnmap(r.at + 4 * kGranule, 2 * kGranule) == CUDA_SUCCESS);
    CHECK(s.sent(Opcode::memory_release).empty());
    REQUIRE(cuMemRelease(h) == CUDA_SUCCESS);
  }
  CHECK(session()->arenas->of(0).mapped() == before);
  auto created = s.sent(Opcode::memory_create), mapped = s.sent(Opcode::memory_map), access = s.sent(Opcode::memory_access);
  auto unmapped = s.sent(Opcode::memory_unmap), released = s.sent(Opcode::memory_release);
  REQUIRE(created.size() == 1);
  REQUIRE(mapped.size() == 2);
  REQUIRE(access.size() == 1);
  REQUIRE(unmapped.size() == 2);
  REQUIRE(released.size() == 1);
  CHECK(created[0].as<wire::MemoryCreate>().size == 2 * kGranule);
  CHECK(mapped[1].as<wire::MemoryMap>().handle == created[0].as<wire::MemoryCreate>().handle);
  CHECK(created[0].ticket < mapped[0].ticket);
  CHECK(mapped[1].ticket < access[0].ticket);
  CHECK(unmapped[1].ticket < released[0].ticket);
  CHECK(counters().round_trips - trips <= 1);  // the lease, if it had to grow
}

TEST_CASE("virtual memory: what CUDA refuses, with its codes") {
  OpenSession s;
  auto p = on_device(0);
  size_t granularity = 0;
  CHECK(cuMemGetAllocationGranularity(&granularity, &p, CU_MEM_ALLOC_GRANULARITY_MINIMUM) == CUDA_SUCCESS);
  CHECK(granularity == kGranule);
  CUdeviceptr at;
  CHECK(cuMemAddressReserve(&at, 0, 0, 0, 0) == CUDA_ERROR_INVALID_VALUE);
  CHECK(cuMemAddressReserve(&at, kGranule + 1, 0, 0, 0) == CUDA_ERROR_INVALID_VALUE);
  CHECK(cuMemAddressReserve(&at, kGranule, 3, 0, 0) == CUDA_ERROR_INVALID_VALUE);
  CHECK(cuMemAddressReserve(&at, kGranule, 0, 0, 1) == CUDA_ERROR_INVALID_VALUE);
  CHECK(cuMemAddressReserve(&at, ~size_t{0} / kGranule * kGranule, 0, 0, 0) == CUDA_ERROR_OUT_OF_MEMORY);
  CUmemGenericAllocationHandle h;
  CHECK(cuMemCreate(&h, kGranule / 2, &p, 0) == CUDA_ERROR_INVALID_VALUE);
  CHECK(cuMemCreate(&h, kGranule, &p, 1) == CUDA_ERROR_INVALID_VALUE);
  CHECK(cuMemCreate(&h, 1ull << 50, &p, 0) == CUDA_ERROR_OUT_OF_MEMORY);
  auto bad = on_device(99);
  CHECK(cuMemCreate(&h, kGranule, &bad, 0) == CUDA_ERROR_INVALID_DEVICE);
  bad = p;
  bad.location.type = CU_MEM_LOCATION_TYPE_HOST;
  CHECK(cuMemCreate(&h, kGranule, &bad, 0) == CUDA_ERROR_NOT_SUPPORTED);
  CHECK(cuMemRelease(12345) == CUDA_ERROR_INVALID_VALUE);
  Reservation r(4 * kGranule);
  CHECK(cuMemAddressFree(r.at, kGranule) == CUDA_ERROR_INVALID_VALUE);
  REQUIRE(cuMemCreate(&h, 2 * kGranule, &p, 0) == CUDA_SUCCESS);
  CHECK(cuMemMap(r.at, kGranule, kGranule, h, 0) == CUDA_ERROR_INVALID_VALUE);  // CUDA: the offset must be zero
  CHECK(cuMemMap(r.at + 3 * kGranule, 2 * kGranule, 0, h, 0) == CUDA_ERROR_INVALID_VALUE);
  CHECK(cuMemMap(r.at + 1, kGranule, 0, h, 0) == CUDA_ERROR_INVALID_VALUE);
  CHECK(cuMemMap(r.at, 4 * kGranule, 0, h, 0) == CUDA_ERROR_INVALID_VALUE);
  REQUIRE(cuMemMap(r.at + kGranule, 2 * kGranule, 0, h, 0) == CUDA_SUCCESS);
  for (uint64_t taken : {r.at, r.at + kGranule, r.at + 2 * kGranule}) CHECK(cuMemMap(taken, 2 * kGranule, 0, h, 0) == CUDA_ERROR_INVALID_VALUE);
  CHECK(cuMemSetAccess(r.at, kGranule, &kReadWrite, 1) == CUDA_ERROR_INVALID_VALUE);
  CHECK(cuMemSetAccess(r.at + kGranule, kGranule, &kReadWrite, 1) == CUDA_ERROR_INVALID_VALUE);
  auto read_only = grant(CU_MEM_ACCESS_FLAGS_PROT_READ);
  CHECK(cuMemSetAccess(r.at + kGranule, 2 * kGranule, &read_only, 1) == CUDA_ERROR_NOT_SUPPORTED);
  CHECK(cuMemUnmap(r.at + kGranule, kGranule) == CUDA_ERROR_INVALID_VALUE);
  CHECK(cuMemUnmap(r.at, 4 * kGranule) == CUDA_ERROR_INVALID_VALUE);
  REQUIRE(cuMemUnmap(r.at + kGranule, 2 * kGranule) == CUDA_SUCCESS);
  REQUIRE(cuMemRelease(h) == CUDA_SUCCESS);
  CHECK(s.sent(Opcode::memory_create).size() == 1);
  CHECK(s.sent(Opcode::memory_map).size() == 1);
  CHECK(s.sent(Opcode::memory_access).empty());
}

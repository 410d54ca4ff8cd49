// A profiler's view: which records come of calls and their work, in buffers of any size, and what is not recorded.
#include <cuda_runtime_api.h>
#include <cupti.h>

#include <cstdlib>
#include <map>

#include "interpose/shadow/activity.hpp"
#include "tests/unit/client/fixture.hpp"

using namespace djinn;
using namespace djinn::test;

namespace {

constexpr size_t kSmall = 512;  // a kernel's record and two others
struct Profiler {
  std::vector<std::pair<uint8_t*, size_t>> done;
  size_t requested = 0;
} profiler;

void request(uint8_t** buffer, size_t* size, size_t* records) {
  ++profiler.requested;
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, kSmall));
  *size = kSmall;
  *records = 0;
}
void complete(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid) { profiler.done.emplace_back(buffer, valid); }

// How many records of each kind came, in buffers that are then given back.
std::map<CUpti_ActivityKind, size_t> take(std::vector<CUpti_ActivityMemset4>* fills = nullptr) {
  std::map<CUpti_ActivityKind, size_t> counts;
  for (auto [buffer, valid] : profiler.done) {
    CUpti_Activity* record = nullptr;
    while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
      ++counts[record->kind];
      if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET && fills) fills->push_back(*reinterpret_cast<CUpti_ActivityMemset4*>(record));
    }
    std::free(buffer);
  }
  profiler.done.clear();
  return counts;
}

void change(bool on) {
  for (auto kind : {CUPTI_ACTIVITY_KIND_MEMSET, CUPTI_ACTIVITY_KIND_RUNTIME, CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION})
    CHECK((on ? cuptiActivityEnable(kind) : cuptiActivityDisable(kind)) == CUPTI_SUCCESS);
}

}  // namespace

TEST_CASE("activity: a fill is a call and its work, under the id that the profiler pushed; many fill many buffers") {
  OpenSession s;
  void* p;
  REQUIRE(cudaMalloc(&p, 4096) == cudaSuccess);
  REQUIRE(cuptiActivityRegisterCallbacks(request, complete) == CUPTI_SUCCESS);
  REQUIRE(cudaMemset(p, 1, 4096) == cudaSuccess);  // before: not recorded
  change(true);
  REQUIRE(cuptiActivityPushExternalCorrelationId(CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0, 77) == CUPTI_SUCCESS);
  for (int i = 0; i < 20; i++) REQUIRE(cudaMemset(p, i, 4096) == cudaSuccess);
  uint64_t last = 0;
  CHECK(cuptiActivityPopExternalCorrelationId(CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0, &last) == CUPTI_SUCCESS);
  CHECK(last == 77);
  CHECK(cuptiActivityPopExternalCorrelationId(CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0, &last) == CUPTI_ERROR_QUEUE_EMPTY);
  change(false);
  REQUIRE(cudaMemset(p, 1, 4096) == cudaSuccess);  // after: neither
  REQUIRE(cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED) == CUPTI_SUCCESS);
  CHECK(profiler.done.size() > 5);
  std::vector<CUpti_ActivityMemset4> fills;
  auto counts = take(&fills);
  CHECK(counts[CUPTI_ACTIVITY_KIND_MEMSET] == 20);
  CHECK(counts[CUPTI_ACTIVITY_KIND_RUNTIME] == 20);
  CHECK(counts[CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION] == 20);
  REQUIRE(fills.size() == 20);
  for (size_t i = 0; i < fills.size(); i++) {
    CHECK(fills[i].bytes == 4096);
    CHECK(fills[i].value == i);
    CHECK(fills[i].start <= fills[i].end);
    if (i) CHECK(fills[i - 1].correlationId < fills[i].correlationId);
  }
  size_t dropped = 9;
  CHECK(cuptiActivityGetNumDroppedRecords(nullptr, 0, &dropped) == CUPTI_SUCCESS);
  CHECK(dropped == 0);
  CHECK(cudaFree(p) == cudaSuccess);
}

TEST_CASE("activity: a call that is switched off, a kind that is not recorded, a buffer that is no records") {
  OpenSession s;
  void* p;
  REQUIRE(cudaMalloc(&p, 4096) == cudaSuccess);
  CHECK(cuptiActivityEnable(CUPTI_ACTIVITY_KIND_PC_SAMPLING) == CUPTI_ERROR_NOT_COMPATIBLE);
  CHECK(cuptiActivityPushExternalCorrelationId(CUPTI_EXTERNAL_CORRELATION_KIND_INVALID, 1) == CUPTI_ERROR_INVALID_PARAMETER);
  REQUIRE(cuptiActivityRegisterCallbacks(request, complete) == CUPTI_SUCCESS);
  change(true);
  CHECK(cuptiActivityEnableRuntimeApi(CUPTI_RUNTIME_TRACE_CBID_cudaMemset_v3020, 0) == CUPTI_SUCCESS);
  CHECK(cuptiActivityEnableRuntimeApi(1u << 20, 0) == CUPTI_ERROR_INVALID_PARAMETER);
  REQUIRE(cudaMemset(p, 1, 4096) == cudaSuccess);
  CHECK(cuptiActivityEnableRuntimeApi(CUPTI_RUNTIME_TRACE_CBID_cudaMemset_v3020, 1) == CUPTI_SUCCESS);
  REQUIRE(cudaMemsetAsync(p, 1, 4096, nullptr) == cudaSuccess);
  change(false);
  REQUIRE(cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED) == CUPTI_SUCCESS);
  auto counts = take();
  CHECK(counts[CUPTI_ACTIVITY_KIND_MEMSET] == 2);
  CHECK(counts[CUPTI_ACTIVITY_KIND_RUNTIME] == 1);
  CHECK(counts[CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION] == 0);
  alignas(8) uint8_t junk[64] = {};
  CUpti_Activity* record = nullptr;
  CHECK(cuptiActivityGetNextRecord(junk, sizeof junk, &record) == CUPTI_ERROR_INVALID_KIND);
  junk[0] = CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL;  // longer than what is there
  CHECK(cuptiActivityGetNextRecord(junk, sizeof junk, &record) == CUPTI_ERROR_INVALID_KIND);
  CHECK(record == nullptr);
  CHECK(cudaFree(p) == cudaSuccess);
}

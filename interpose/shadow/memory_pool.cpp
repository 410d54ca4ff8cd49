// See memory_pool.hpp.
#include "interpose/shadow/memory_pool.hpp"

#include <algorithm>
#include <array>
#include <mutex>
#include <unordered_map>

#include "semantic/wire/limits.hpp"

namespace djinn {

namespace {

struct Pool {
  uint64_t used = 0, used_high = 0, reserved_high = 0, threshold = 0;
  std::array<int, 3> reuse{1, 1, 1};  // policies that change nothing here: the first three attributes
};
struct Allocation {
  int device;
  uint64_t bytes;
};
struct Pools {
  std::mutex mutex;
  std::array<Pool, wire::kDevicesMax> of;
  std::unordered_map<uint64_t, Allocation> allocations;
};
Pools& pools() {
  static Pools* p = new Pools;
  return *p;
}
// Handles that look like no other.
constexpr uint64_t kFirst = 0x8010, kStep = 16;

static_assert(cudaMemPoolReuseFollowEventDependencies == 1 && cudaMemPoolReuseAllowInternalDependencies == 3);

}  // namespace

void pool_allocated(int device, uint64_t address, uint64_t bytes) {
  std::lock_guard lock(pools().mutex);
  Pool& p = pools().of[static_cast<size_t>(device)];
  pools().allocations[address] = {device, bytes};
  p.used += bytes;
  p.used_high = std::max(p.used_high, p.used);
  p.reserved_high = std::max(p.reserved_high, p.used);
}

void pool_freed(uint64_t address) {
  std::lock_guard lock(pools().mutex);
  auto i = pools().allocations.find(address);
  if (i == pools().allocations.end()) return;
  pools().of[static_cast<size_t>(i->second.device)].used -= i->second.bytes;
  pools().allocations.erase(i);
}

cudaMemPool_t default_pool(int device) { return reinterpret_cast<cudaMemPool_t>(kFirst + kStep * static_cast<uint64_t>(device)); }

int device_of_pool(cudaMemPool_t pool) {
  uint64_t id = reinterpret_cast<uint64_t>(pool) - kFirst;
  return id % kStep || id / kStep >= wire::kDevicesMax ? -1 : static_cast<int>(id / kStep);
}

cudaError_t pool_attribute(int device, cudaMemPoolAttr attribute, void* value) {
  std::lock_guard lock(pools().mutex);
  const Pool& p = pools().of[static_cast<size_t>(device)];
  auto wide = [&](uint64_t v) { return *static_cast<uint64_t*>(value) = v, cudaSuccess; };
  switch (attribute) {
    case cudaMemPoolReuseFollowEventDependencies:
    case cudaMemPoolReuseAllowOpportunistic:
    case cudaMemPoolReuseAllowInternalDependencies: *static_cast<int*>(value) = p.reuse[static_cast<size_t>(attribute) - 1]; return cudaSuccess;
    case cudaMemPoolAttrReleaseThreshold: return wide(p.threshold);
    case cudaMemPoolAttrReservedMemCurrent:
    case cudaMemPoolAttrUsedMemCurrent: return wide(p.used);
    case cudaMemPoolAttrReservedMemHigh: return wide(p.reserved_high);
    case cudaMemPoolAttrUsedMemHigh: return wide(p.used_high);
    default: return cudaErrorInvalidValue;
  }
}

// CUDA: a high-water mark can only be reset, to zero.
cudaError_t set_pool_attribute(int device, cudaMemPoolAttr attribute, const void* value) {
  std::lock_guard lock(pools().mutex);
  Pool& p = pools().of[static_cast<size_t>(device)];
  auto reset = [&](uint64_t& high) { return *static_cast<const uint64_t*>(value) ? cudaErrorInvalidValue : (high = p.used, cudaSuccess); };
  switch (attribute) {
    case cudaMemPoolReuseFollowEventDependencies:
    case cudaMemPoolReuseAllowOpportunistic:
    case cudaMemPoolReuseAllowInternalDependencies:
      p.reuse[static_cast<size_t>(attribute) - 1] = *static_cast<const int*>(value) != 0;
      return cudaSuccess;
    case cudaMemPoolAttrReleaseThreshold: p.threshold = *static_cast<const uint64_t*>(value); return cudaSuccess;
    case cudaMemPoolAttrReservedMemHigh: return reset(p.reserved_high);
    case cudaMemPoolAttrUsedMemHigh: return reset(p.used_high);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace djinn

// Exported: stream-ordered allocation from the devices' default pools.
#include "interpose/shadow/memory_pool.hpp"

#include "interpose/batch/session.hpp"
#include "interpose/shadow/device.hpp"
#include "interpose/shadow/event.hpp"
#include "interpose/shadow/graph.hpp"
#include "interpose/shadow/memory.hpp"

using namespace djinn;

namespace {

// The stream is known, and does not capture: graphs do not allocate yet.
cudaError_t check(const char* name, cudaStream_t stream) {
  if (cudaError_t e = need_context()) return e;
  if (!stream_state(reinterpret_cast<uint64_t>(stream))) return cudaErrorInvalidResourceHandle;
  if (capturing() && refuse_in_capture(reinterpret_cast<uint64_t>(stream)))
    return say_absent(name, "graphs that allocate are not built yet"), cudaErrorStreamCaptureUnsupported;
  return cudaSuccess;
}

cudaError_t find(cudaMemPool_t pool, const void* argument, int& device) {
  if (cudaError_t e = need_context()) return e;
  device = device_of_pool(pool);
  return valid_device(device) && argument ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace

DJINN_EXPORT cudaError_t cudaMallocAsync(void** p, size_t bytes, cudaStream_t stream) {
  if (!p) return fail(cudaErrorInvalidValue);
  *p = nullptr;
  if (cudaError_t e = check("cudaMallocAsync", stream)) return fail(e);
  if (!bytes) return cudaSuccess;
  int device = stream_state(reinterpret_cast<uint64_t>(stream))->device_or(current_device());
  if (cudaError_t e = allocate_block(p, bytes, device)) return fail(e);
  pool_allocated(device, reinterpret_cast<uint64_t>(*p), bytes);
  return cudaSuccess;
}
DJINN_EXPORT cudaError_t cudaFreeAsync(void* p, cudaStream_t stream) {
  if (cudaError_t e = check("cudaFreeAsync", stream)) return fail(e);
  return p && free_block(p) ? cudaSuccess : fail(cudaErrorInvalidValue);
}
DJINN_EXPORT cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
  if (!pool) return fail(cudaErrorInvalidValue);
  if (cudaError_t e = need_context()) return fail(e);
  if (!valid_device(device)) return fail(cudaErrorInvalidDevice);
  *pool = default_pool(device);
  return cudaSuccess;
}
DJINN_EXPORT cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  int device;
  if (cudaError_t e = find(pool, value, device)) return fail(e);
  return fail(pool_attribute(device, attribute, value));
}
DJINN_EXPORT cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  int device;
  if (cudaError_t e = find(pool, value, device)) return fail(e);
  return fail(set_pool_attribute(device, attribute, value));
}
// Every device can read every other's memory.
DJINN_EXPORT cudaError_t cudaMemPoolSetAccess(cudaMemPool_t pool, const cudaMemAccessDesc* access, size_t count) {
  int device;
  if (cudaError_t e = find(pool, access, device)) return fail(e);
  for (size_t i = 0; i < count; i++)
    if (access[i].location.type != cudaMemLocationTypeDevice || !valid_device(access[i].location.id)) return fail(cudaErrorInvalidDevice);
  return cudaSuccess;
}
DJINN_EXPORT cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t) {
  int device;
  return fail(find(pool, pool, device));
}

// Exported: device memory, pinned memory, pointers, copies, fills. What they become is in shadow/ and encode/.
#include <cstring>

#include "interpose/batch/session.hpp"
#include "interpose/encode/memcpy.hpp"
#include "interpose/shadow/device.hpp"
#include "interpose/shadow/error.hpp"
#include "interpose/shadow/graph.hpp"
#include "interpose/shadow/host_memory.hpp"
#include "interpose/shadow/memory.hpp"

using namespace djinn;

static uint64_t id(cudaStream_t s) { return reinterpret_cast<uint64_t>(s); }

// Calls that a capture cannot see and a replay would not repeat.
static cudaError_t need_context_unsafe() {
  if (cudaError_t e = need_context()) return e;
  return capturing() ? refuse_unsafe() : cudaSuccess;
}

DJINN_EXPORT cudaError_t cudaMalloc(void** p, size_t bytes) {
  if (!p) return fail(cudaErrorInvalidValue);
  *p = nullptr;
  if (cudaError_t e = need_context_unsafe()) return fail(e);
  if (!bytes) return cudaSuccess;
  return fail(allocate_block(p, bytes, current_device()));
}

// CUDA waits here for the device; ours needs not: the memory goes back in ticket order, after everything that uses it.
DJINN_EXPORT cudaError_t cudaFree(void* p) {
  if (cudaError_t e = need_context()) return fail(e);
  if (!p) return cudaSuccess;
  if (cudaError_t e = capturing() ? refuse_unsafe() : cudaSuccess) return fail(e);
  return free_block(p) ? cudaSuccess : fail(cudaErrorInvalidValue);
}

DJINN_EXPORT cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total) {
  if (!free_bytes || !total) return fail(cudaErrorInvalidValue);
  if (cudaError_t e = need_context()) return fail(e);
  Reply r = call(wire::Opcode::memory_info, wire::DeviceIndex{session()->devices[static_cast<size_t>(current_device())]});
  if (r.status) return fail_with(r);
  auto info = wire::Reader(r.payload).get<wire::MemoryInfo>();
  *free_bytes = info.free;
  *total = info.total;
  return cudaSuccess;
}

DJINN_EXPORT cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) {
  if (!p) return fail(cudaErrorInvalidValue);
  if (cudaError_t e = need_context_unsafe()) return fail(e);
  return fail(allocate_pinned(p, bytes));
}
DJINN_EXPORT cudaError_t cudaMallocHost(void** p, size_t bytes) { return cudaHostAlloc(p, bytes, 0); }
DJINN_EXPORT cudaError_t cudaFreeHost(void* p) {
  if (cudaError_t e = capturing() ? refuse_unsafe() : cudaSuccess) return fail(e);
  return fail(free_pinned(p));
}
DJINN_EXPORT cudaError_t cudaHostRegister(void* p, size_t bytes, unsigned) {
  if (cudaError_t e = need_context_unsafe()) return fail(e);
  return fail(register_pinned(p, bytes));
}
DJINN_EXPORT cudaError_t cudaHostUnregister(void* p) { return fail(unregister_pinned(p)); }

DJINN_EXPORT cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void* p) {
  if (!a) return fail(cudaErrorInvalidValue);
  std::memset(a, 0, sizeof *a);
  a->type = cudaMemoryTypeUnregistered;
  a->device = -1;
  auto* s = session();
  if (s && s->find_block(reinterpret_cast<uint64_t>(p))) {
    a->type = cudaMemoryTypeDevice;
    a->device = s->arenas->device_of(reinterpret_cast<uint64_t>(p));
    a->devicePointer = const_cast<void*>(p);
  } else if (auto device = pinned_device(p)) {
    a->type = cudaMemoryTypeHost;
    a->device = *device;
    a->devicePointer = a->hostPointer = const_cast<void*>(p);
  }
  return cudaSuccess;
}

DJINN_EXPORT CUresult cuPointerGetAttribute(void* data, CUpointer_attribute attribute, CUdeviceptr p) {
  auto* s = session();
  if (!data || !s) return CUDA_ERROR_INVALID_VALUE;
  auto block = s->find_block(p);
  auto pinned = pinned_device(reinterpret_cast<void*>(p));
  if (!block && !pinned) return CUDA_ERROR_INVALID_VALUE;
  int device = block ? s->arenas->device_of(p) : *pinned;
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT: *static_cast<CUcontext*>(data) = primary_context(device); return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE: *static_cast<unsigned*>(data) = block ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST; return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: *static_cast<CUdeviceptr*>(data) = p; return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: *static_cast<int*>(data) = device; return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
      if (!block) return CUDA_ERROR_NOT_SUPPORTED;
      *static_cast<CUdeviceptr*>(data) = block->address;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
      if (!block) return CUDA_ERROR_NOT_SUPPORTED;
      *static_cast<size_t*>(data) = block->bytes;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_BUFFER_ID: *static_cast<unsigned long long*>(data) = block ? block->address : p; return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED: *static_cast<unsigned*>(data) = 0; return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE: *static_cast<unsigned*>(data) = s->arenas->find(p).has_value(); return CUDA_SUCCESS;
    default: return CUDA_ERROR_NOT_SUPPORTED;
  }
}

DJINN_EXPORT cudaError_t cudaMemcpy(void* d, const void* s, size_t n, cudaMemcpyKind kind) {
  return copy({d, n, s, n, n, 1}, kind, 0, false, "cudaMemcpy");
}
DJINN_EXPORT cudaError_t cudaMemcpyAsync(void* d, const void* s, size_t n, cudaMemcpyKind kind, cudaStream_t stream) {
  return copy({d, n, s, n, n, 1}, kind, id(stream), true, "cudaMemcpyAsync");
}
DJINN_EXPORT cudaError_t cudaMemcpy2D(void* d, size_t dp, const void* s, size_t sp, size_t width, size_t height, cudaMemcpyKind kind) {
  return copy({d, dp, s, sp, width, height}, kind, 0, false, "cudaMemcpy2D");
}
DJINN_EXPORT cudaError_t cudaMemcpy2DAsync(void* d, size_t dp, const void* s, size_t sp, size_t width, size_t height, cudaMemcpyKind kind,
                                           cudaStream_t stream) {
  return copy({d, dp, s, sp, width, height}, kind, id(stream), true, "cudaMemcpy2DAsync");
}
// Each side must be memory of the device that is named for it.
static cudaError_t copy_between(void* d, int to, const void* s, int from, size_t n, uint64_t stream, bool asynchronous, const char* name) {
  if (!valid_device(to) || !valid_device(from)) return fail(cudaErrorInvalidDevice);
  const DeviceArenas& arenas = *session()->arenas;
  if (n && (arenas.device_of(reinterpret_cast<uint64_t>(d)) != to || arenas.device_of(reinterpret_cast<uint64_t>(s)) != from))
    return fail(cudaErrorInvalidValue);
  return copy({d, n, s, n, n, 1}, cudaMemcpyDeviceToDevice, stream, asynchronous, name);
}
static CUresult copy_between_contexts(CUdeviceptr d, CUcontext to, CUdeviceptr s, CUcontext from, size_t n, uint64_t stream, bool asynchronous,
                                      const char* name) {
  int to_device = device_of_context(to), from_device = device_of_context(from);
  if (to_device < 0 || from_device < 0) return CUDA_ERROR_INVALID_CONTEXT;
  return to_driver(copy_between(reinterpret_cast<void*>(d), to_device, reinterpret_cast<void*>(s), from_device, n, stream, asynchronous, name));
}
DJINN_EXPORT cudaError_t cudaMemcpyPeerAsync(void* d, int to, const void* s, int from, size_t n, cudaStream_t stream) {
  return copy_between(d, to, s, from, n, id(stream), true, "cudaMemcpyPeerAsync");
}
DJINN_EXPORT cudaError_t cudaMemcpyPeer(void* d, int to, const void* s, int from, size_t n) {
  return copy_between(d, to, s, from, n, 0, false, "cudaMemcpyPeer");
}
DJINN_EXPORT CUresult cuMemcpyPeer(CUdeviceptr d, CUcontext to, CUdeviceptr s, CUcontext from, size_t n) {
  return copy_between_contexts(d, to, s, from, n, 0, false, "cuMemcpyPeer");
}
DJINN_EXPORT CUresult cuMemcpyPeerAsync(CUdeviceptr d, CUcontext to, CUdeviceptr s, CUcontext from, size_t n, CUstream stream) {
  return copy_between_contexts(d, to, s, from, n, id(stream), true, "cuMemcpyPeerAsync");
}
DJINN_EXPORT cudaError_t cudaMemset(void* p, int value, size_t n) { return fill(p, n, static_cast<uint8_t>(value), 1, n, 1, 0, "cudaMemset"); }
DJINN_EXPORT cudaError_t cudaMemsetAsync(void* p, int value, size_t n, cudaStream_t stream) {
  return fill(p, n, static_cast<uint8_t>(value), 1, n, 1, id(stream), "cudaMemsetAsync");
}
DJINN_EXPORT cudaError_t cudaMemset2DAsync(void* p, size_t pitch, int value, size_t width, size_t height, cudaStream_t stream) {
  return fill(p, pitch, static_cast<uint8_t>(value), 1, width, height, id(stream), "cudaMemset2DAsync");
}

// Exported: the driver's virtual memory management, and the few driver functions that PyTorch's allocator fetches with it. Arguments are checked
// here; what they mean is in shadow/virtual_memory.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "interpose/batch/session.hpp"
#include "interpose/encode/memcpy.hpp"
#include "interpose/shadow/device.hpp"
#include "interpose/shadow/error.hpp"
#include "interpose/shadow/sharing.hpp"

using namespace djinn;

namespace {

CUresult no_session() { return session() ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED; }

// Memory of a device that the program sees, whose handle may leave the process in a file.
CUresult check(const CUmemAllocationProp* p) {
  if (!p || p->type != CU_MEM_ALLOCATION_TYPE_PINNED) return CUDA_ERROR_INVALID_VALUE;
  if (p->location.type != CU_MEM_LOCATION_TYPE_DEVICE) {
    say_absent("cuMemCreate", "physical memory of the host");
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  if (!valid_device(p->location.id)) return CUDA_ERROR_INVALID_DEVICE;
  if (p->requestedHandleTypes & ~CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return CUDA_ERROR_NOT_SUPPORTED;
  return CUDA_SUCCESS;
}

CUresult only_files(const char* name) {
  say_absent(name, "handles other than file descriptors");
  return CUDA_ERROR_NOT_SUPPORTED;
}

}  // namespace

DJINN_EXPORT CUresult cuMemGetAllocationGranularity(size_t* granularity, const CUmemAllocationProp* p, CUmemAllocationGranularity_flags) {
  if (!granularity) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult e = no_session()) return e;
  if (CUresult e = check(p)) return e;
  *granularity = wire::kGranule;
  return CUDA_SUCCESS;
}
DJINN_EXPORT CUresult cuMemAddressReserve(CUdeviceptr* address, size_t bytes, size_t alignment, CUdeviceptr, unsigned long long flags) {
  if (!address || flags) return CUDA_ERROR_INVALID_VALUE;
  if (cudaError_t e = need_context()) return to_driver(e);
  uint64_t at;
  CUresult e = session()->virtual_memory->reserve(&at, bytes, alignment, current_device());
  if (!e) *address = at;
  return e;
}
DJINN_EXPORT CUresult cuMemAddressFree(CUdeviceptr address, size_t bytes) {
  if (CUresult e = no_session()) return e;
  return session()->virtual_memory->free_reservation(address, bytes);
}
DJINN_EXPORT CUresult cuMemCreate(CUmemGenericAllocationHandle* handle, size_t bytes, const CUmemAllocationProp* p, unsigned long long flags) {
  if (!handle || flags) return CUDA_ERROR_INVALID_VALUE;
  if (cudaError_t e = need_context()) return to_driver(e);
  if (CUresult e = check(p)) return e;
  uint64_t id;
  CUresult e = session()->virtual_memory->create(&id, bytes, *p, session()->devices[static_cast<size_t>(p->location.id)]);
  if (!e) *handle = id;
  return e;
}
DJINN_EXPORT CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
  if (CUresult e = no_session()) return e;
  return session()->virtual_memory->release(handle);
}
DJINN_EXPORT CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle* handle, void* address) {
  if (!handle) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult e = no_session()) return e;
  uint64_t id;
  CUresult e = session()->virtual_memory->retain(&id, reinterpret_cast<uint64_t>(address));
  if (!e) *handle = id;
  return e;
}
DJINN_EXPORT CUresult cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp* p, CUmemGenericAllocationHandle handle) {
  if (!p) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult e = no_session()) return e;
  return session()->virtual_memory->properties(p, handle);
}
DJINN_EXPORT CUresult cuMemMap(CUdeviceptr address, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle, unsigned long long flags) {
  if (flags) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult e = no_session()) return e;
  return session()->virtual_memory->map(address, bytes, offset, handle);
}
DJINN_EXPORT CUresult cuMemUnmap(CUdeviceptr address, size_t bytes) {
  if (CUresult e = no_session()) return e;
  return session()->virtual_memory->unmap(address, bytes);
}
DJINN_EXPORT CUresult cuMemSetAccess(CUdeviceptr address, size_t bytes, const CUmemAccessDesc* access, size_t count) {
  if (!access || !count) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult e = no_session()) return e;
  for (size_t i = 0; i < count; i++) {
    if (access[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE || access[i].flags == CU_MEM_ACCESS_FLAGS_PROT_READ) {
      say_absent("cuMemSetAccess", "read-only memory, and access by the host");
      return CUDA_ERROR_NOT_SUPPORTED;
    }
    if (!valid_device(access[i].location.id)) return CUDA_ERROR_INVALID_DEVICE;
    if (access[i].flags != CU_MEM_ACCESS_FLAGS_PROT_NONE && access[i].flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE) return CUDA_ERROR_INVALID_VALUE;
  }
  for (size_t i = 0; i < count; i++)
    if (CUresult e =
            session()->virtual_memory->set_access(address, bytes, access[i].location.id, access[i].flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE))
      return e;
  return CUDA_SUCCESS;
}
DJINN_EXPORT CUresult cuMemGetAccess(unsigned long long* flags, const CUmemLocation* location, CUdeviceptr address) {
  if (!flags || !location || location->type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult e = no_session()) return e;
  if (!valid_device(location->id)) return CUDA_ERROR_INVALID_DEVICE;
  bool accessible;
  CUresult e = session()->virtual_memory->get_access(&accessible, location->id, address);
  if (!e) *flags = accessible ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE : CU_MEM_ACCESS_FLAGS_PROT_NONE;
  return e;
}
// The file that stands for the handle holds what cudaIpcMemHandle_t holds (shadow/sharing.hpp), sealed.
DJINN_EXPORT CUresult cuMemExportToShareableHandle(void* descriptor, CUmemGenericAllocationHandle handle, CUmemAllocationHandleType type,
                                                   unsigned long long flags) {
  if (!descriptor || flags) return CUDA_ERROR_INVALID_VALUE;
  if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return only_files("cuMemExportToShareableHandle");
  if (CUresult e = no_session()) return e;
  SharedMemory s;
  if (cudaError_t e = session()->virtual_memory->share(handle, s)) return to_driver(e);
  int file = memfd_create("djinn-memory-handle", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (file < 0) return CUDA_ERROR_OPERATING_SYSTEM;
  if (write(file, &s, sizeof s) != static_cast<ssize_t>(sizeof s) || fcntl(file, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
    close(file);
    return CUDA_ERROR_OPERATING_SYSTEM;
  }
  *static_cast<int*>(descriptor) = file;
  return CUDA_SUCCESS;
}
DJINN_EXPORT CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle* handle, void* descriptor, CUmemAllocationHandleType type) {
  if (!handle) return CUDA_ERROR_INVALID_VALUE;
  if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return only_files("cuMemImportFromShareableHandle");
  if (cudaError_t e = need_context()) return to_driver(e);
  SharedMemory s;
  ssize_t n = pread(static_cast<int>(reinterpret_cast<intptr_t>(descriptor)), &s, sizeof s, 0);
  if (n != static_cast<ssize_t>(sizeof s) || s.magic != SharedMemory::kMagic || s.size % wire::kGranule) return CUDA_ERROR_INVALID_VALUE;
  int device = device_of(s);
  if (device < 0) return CUDA_ERROR_INVALID_DEVICE;
  uint64_t id;
  cudaError_t e = session()->virtual_memory->import(&id, s, device);
  if (!e) *handle = id;
  return to_driver(e);
}

DJINN_EXPORT CUresult cuMemGetAddressRange(CUdeviceptr* base, size_t* bytes, CUdeviceptr p) {
  if (CUresult e = no_session()) return e;
  auto block = session()->find_block(p);
  if (!block) return CUDA_ERROR_NOT_FOUND;
  if (base) *base = block->address;
  if (bytes) *bytes = block->bytes;
  return CUDA_SUCCESS;
}
DJINN_EXPORT CUresult cuMemsetD32Async(CUdeviceptr p, unsigned value, size_t count, CUstream stream) {
  if (count > SIZE_MAX / 4 || p % 4) return CUDA_ERROR_INVALID_VALUE;
  return to_driver(fill(reinterpret_cast<void*>(p), 4 * count, value, 4, 4 * count, 1, reinterpret_cast<uint64_t>(stream), "cuMemsetD32Async"));
}
// A memory operation in the order of the stream; with or without a barrier before it, because everything before it is done.
DJINN_EXPORT CUresult cuStreamWriteValue32(CUstream stream, CUdeviceptr p, cuuint32_t value, unsigned flags) {
  if (p % 4 || (flags & ~static_cast<unsigned>(CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER))) return CUDA_ERROR_INVALID_VALUE;
  return to_driver(fill(reinterpret_cast<void*>(p), 4, value, 4, 4, 1, reinterpret_cast<uint64_t>(stream), "cuStreamWriteValue32"));
}

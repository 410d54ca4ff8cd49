// See device.hpp. What the server does not say is that of compute capability 12.0 in the CUDA programming guide's table of technical specifications.
#include "interpose/shadow/device.hpp"

#include <atomic>
#include <cstdio>
#include <cstring>

#include "interpose/batch/session.hpp"
#include "interpose/shadow/error.hpp"

namespace djinn {

namespace {
constexpr size_t kSharedPerBlock = 49152, kSharedPerMultiprocessor = 102400;
constexpr int kRegisters = 65536, kWarp = 32, kBlocksPerMultiprocessor = 24;

std::atomic<bool> primary_active[wire::kDevicesMax];
// A context is an opaque handle: the address of something of ours.
char primary_tags[wire::kDevicesMax];
std::atomic<uint64_t> peer_access{0};  // a bit for each ordered pair
static_assert(wire::kDevicesMax * wire::kDevicesMax <= 64);
struct Current {
  int device = 0;
  CUcontext context = nullptr;
};
thread_local Current current;
}  // namespace

int device_count() { return open_session() ? static_cast<int>(session()->devices.size()) : 0; }
bool valid_device(int device) { return device >= 0 && device < device_count(); }
int current_device() { return current.device; }
bool primary_context_active(int device) { return primary_active[device]; }
CUcontext primary_context(int device) { return reinterpret_cast<CUcontext>(&primary_tags[device]); }
int device_of_context(CUcontext c) {
  for (int d = 0; d < device_count(); d++)
    if (c == primary_context(d)) return d;
  return -1;
}
CUcontext current_context() { return current.context; }
void set_current_context(CUcontext c) {
  current.context = c;
  if (int device = device_of_context(c); device >= 0) current.device = device;
}

cudaError_t set_device(int device) {
  if (!open_session()) return session_error();
  if (!valid_device(device)) return cudaErrorInvalidDevice;
  current.device = device;
  return need_context();
}

cudaError_t make_primary_context(int device) {
  if (!open_session()) return session_error();
  if (cudaError_t e = session_error()) return e;
  if (cudaError_t e = sticky_error()) return e;
  primary_active[device] = true;
  return cudaSuccess;
}

cudaError_t need_context() {
  if (cudaError_t e = make_primary_context(current.device)) return e;
  current.context = primary_context(current.device);
  return cudaSuccess;
}

bool can_access_peer(int device, int peer) { return device != peer; }  // a device is not its own peer

bool set_peer_access(int device, int peer, bool enabled) {
  uint64_t bit = uint64_t{1} << (static_cast<unsigned>(device) * wire::kDevicesMax + static_cast<unsigned>(peer));
  return enabled ? !(peer_access.fetch_or(bit) & bit) : (peer_access.fetch_and(~bit) & bit) != 0;
}

int pci_bus(int device) { return static_cast<int>(session()->devices[static_cast<size_t>(device)]); }

void device_uuid(void* uuid, unsigned server_device) {
  std::memset(uuid, 0, 16);
  std::snprintf(static_cast<char*>(uuid), 16, "djinn%u-%u", session()->opened.worker_pid, server_device);
}

void fill_properties(cudaDeviceProp& p, int device) {
  const djinn_link_device& o = session()->device(device);
  std::memset(&p, 0, sizeof p);
  std::snprintf(p.name, sizeof p.name, "%s", o.name);
  device_uuid(p.uuid.bytes, static_cast<unsigned>(pci_bus(device)));
  p.totalGlobalMem = o.total_memory;
  p.sharedMemPerBlock = kSharedPerBlock;
  p.sharedMemPerBlockOptin = kSharedBytesMax;
  p.sharedMemPerMultiprocessor = kSharedPerMultiprocessor;
  p.reservedSharedMemPerBlock = 1024;
  p.regsPerBlock = p.regsPerMultiprocessor = kRegisters;
  p.warpSize = kWarp;
  p.maxThreadsPerBlock = kThreadsPerBlockMax;
  p.maxThreadsDim[0] = p.maxThreadsDim[1] = 1024;
  p.maxThreadsDim[2] = kBlockZMax;
  p.maxGridSize[0] = 2147483647;
  p.maxGridSize[1] = p.maxGridSize[2] = kGridYZMax;
  p.totalConstMem = 65536;
  p.memPitch = 2147483647;
  p.textureAlignment = 512;
  p.texturePitchAlignment = 32;
  p.major = static_cast<int>(o.major);
  p.minor = static_cast<int>(o.minor);
  p.multiProcessorCount = static_cast<int>(o.multiprocessors);
  p.pciBusID = pci_bus(device);
  p.maxThreadsPerMultiProcessor = static_cast<int>(o.threads_per_multiprocessor);
  p.maxBlocksPerMultiProcessor = kBlocksPerMultiprocessor;
  p.l2CacheSize = static_cast<int>(o.l2_bytes);
  p.memoryBusWidth = 128;
  p.unifiedAddressing = 1;
  p.concurrentKernels = 1;
  p.asyncEngineCount = 2;
  p.streamPrioritiesSupported = 1;
  p.globalL1CacheSupported = p.localL1CacheSupported = 1;
  p.canMapHostMemory = 1;
  p.memoryPoolsSupported = 1;
  p.ipcEventSupported = 1;
}

// Everything not named is 0: "not supported", "not exclusive", "no such feature".
bool device_attribute(int attribute, int& value, int device) {
  const djinn_link_device& o = session()->device(device);
  value = 0;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: value = kThreadsPerBlockMax; break;
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY: value = 1024; break;
    case cudaDevAttrMaxBlockDimZ: value = kBlockZMax; break;
    case cudaDevAttrMaxGridDimX: value = 2147483647; break;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: value = kGridYZMax; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: value = kSharedPerBlock; break;
    case cudaDevAttrTotalConstantMemory: value = 65536; break;
    case cudaDevAttrWarpSize: value = kWarp; break;
    case cudaDevAttrMaxPitch: value = 2147483647; break;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor: value = kRegisters; break;
    case cudaDevAttrClockRate: value = static_cast<int>(o.clock_khz); break;
    case cudaDevAttrTextureAlignment: value = 512; break;
    case cudaDevAttrMultiProcessorCount: value = static_cast<int>(o.multiprocessors); break;
    case cudaDevAttrCanMapHostMemory:
    case cudaDevAttrConcurrentKernels:
    case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrStreamPrioritiesSupported:
    case cudaDevAttrGlobalL1CacheSupported:
    case cudaDevAttrLocalL1CacheSupported: value = 1; break;
    case cudaDevAttrMemoryPoolsSupported:
    case cudaDevAttrIpcEventSupport:
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED: value = 1; break;
    case cudaDevAttrAsyncEngineCount: value = 2; break;
    case cudaDevAttrPciBusId: value = pci_bus(device); break;
    case cudaDevAttrL2CacheSize: value = static_cast<int>(o.l2_bytes); break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: value = static_cast<int>(o.threads_per_multiprocessor); break;
    case cudaDevAttrComputeCapabilityMajor: value = static_cast<int>(o.major); break;
    case cudaDevAttrComputeCapabilityMinor: value = static_cast<int>(o.minor); break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: value = kSharedPerMultiprocessor; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: value = static_cast<int>(kSharedBytesMax); break;
    case cudaDevAttrReservedSharedMemoryPerBlock: value = 1024; break;
    case cudaDevAttrMaxBlocksPerMultiprocessor: value = kBlocksPerMultiprocessor; break;
    case cudaDevAttrGlobalMemoryBusWidth: value = 128; break;
    default: return attribute > 0 && attribute < static_cast<int>(cudaDevAttrMax);
  }
  return true;
}

}  // namespace djinn

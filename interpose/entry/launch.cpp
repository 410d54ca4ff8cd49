// Exported: registration of kernels, call configuration, attributes, occupancy, launches. Inside an op scope a launch is dropped before anything else
// is looked at; outside it is lowered in encode/launch.cpp.
#include <cstring>

#include "interpose/batch/counters.hpp"
#include "interpose/encode/launch.hpp"
#include "interpose/runtime/module.hpp"
#include "interpose/shadow/device.hpp"

using namespace djinn;

extern "C" {
// Not in any public header; nvcc's host code calls them.
DJINN_EXPORT void** __cudaRegisterFatBinary(void* wrapper) { return reinterpret_cast<void**>(register_fatbin(wrapper)); }
DJINN_EXPORT void __cudaRegisterFatBinaryEnd(void**) {}
DJINN_EXPORT void __cudaUnregisterFatBinary(void**) {}
DJINN_EXPORT char __cudaInitModule(void**) { return 0; }
DJINN_EXPORT void __cudaRegisterFunction(void** handle, const char* host, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*, int*) {
  register_kernel(reinterpret_cast<LoadedModule*>(handle), host, name);
}
DJINN_EXPORT void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}

struct CallConfiguration {
  dim3 grid, block;
  size_t shared;
  void* stream;
};
// nvcc's <<<>>> pushes just before the stub that pops; nesting comes from arguments that launch, themselves nested
// hardly ever.
constexpr unsigned kConfigurationsMax = 4;
static thread_local CallConfiguration configurations[kConfigurationsMax];
static thread_local unsigned configuration_depth = 0;

DJINN_EXPORT unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* stream) {
  if (configuration_depth >= kConfigurationsMax) return cudaErrorInvalidConfiguration;
  configurations[configuration_depth++] = {grid, block, shared, stream};
  return 0;
}
DJINN_EXPORT cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  if (!configuration_depth) return cudaErrorInvalidConfiguration;
  const CallConfiguration& c = configurations[--configuration_depth];
  *grid = c.grid;
  *block = c.block;
  *shared = c.shared;
  *static_cast<void**>(stream) = c.stream;
  return cudaSuccess;
}
// A cudaKernel_t of ours is the host function's address: __cudaLaunchKernel gets it back.
DJINN_EXPORT cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(host));
  return cudaSuccess;
}
DJINN_EXPORT cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared, cudaStream_t stream) {
  return launch({kernel, grid, block, arguments, nullptr, 0, shared, stream}, "cudaLaunchKernel");
}
}

DJINN_EXPORT cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments, size_t shared, cudaStream_t stream) {
  return launch({function, grid, block, arguments, nullptr, 0, shared, stream}, "cudaLaunchKernel");
}
DJINN_EXPORT cudaError_t cudaLaunchCooperativeKernel(const void* function, dim3 grid, dim3 block, void** arguments, size_t shared,
                                                     cudaStream_t stream) {
  return launch({function, grid, block, arguments, nullptr, 0, shared, stream, true}, "cudaLaunchCooperativeKernel");
}
DJINN_EXPORT cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void* function, void** arguments) {
  if (!c) return fail(cudaErrorInvalidValue);
  return launch({function, c->gridDim, c->blockDim, arguments, nullptr, 0, c->dynamicSmemBytes, c->stream}, "cudaLaunchKernelExC");
}

// Fixed answers of a plausible kernel: PyTorch derives launch shapes from them, never results.
DJINN_EXPORT cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* a, const void* function) {
  if (!a) return fail(cudaErrorInvalidValue);
  if (cudaError_t e = need_context()) return fail(e);
  if (!find_kernel(function).name) return fail(cudaErrorInvalidDeviceFunction);
  std::memset(a, 0, sizeof *a);
  int major = 0, minor = 0;
  device_attribute(cudaDevAttrComputeCapabilityMajor, major, current_device());
  device_attribute(cudaDevAttrComputeCapabilityMinor, minor, current_device());
  a->maxThreadsPerBlock = kThreadsPerBlockMax;
  a->numRegs = 32;
  a->binaryVersion = a->ptxVersion = major * 10 + minor;
  a->maxDynamicSharedSizeBytes = 49152;
  return cudaSuccess;
}
static cudaError_t set_attribute(cudaFuncAttribute attribute, int value) {
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize && (value < 0 || static_cast<size_t>(value) > kSharedBytesMax))
    return fail(cudaErrorInvalidValue);
  return cudaSuccess;  // a hint for a scheduler that is not ours
}
DJINN_EXPORT cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute attribute, int value) { return set_attribute(attribute, value); }
DJINN_EXPORT cudaError_t cudaKernelSetAttributeForDevice(cudaKernel_t, cudaFuncAttribute attribute, int value, int device) {
  return valid_device(device) ? set_attribute(attribute, value) : fail(cudaErrorInvalidDevice);
}
DJINN_EXPORT cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int threads, size_t shared, unsigned) {
  if (!blocks || threads <= 0) return fail(cudaErrorInvalidValue);
  if (cudaError_t e = need_context()) return fail(e);
  int per_multiprocessor = 0;
  device_attribute(cudaDevAttrMaxThreadsPerMultiProcessor, per_multiprocessor, current_device());
  *blocks = static_cast<unsigned>(threads) > kThreadsPerBlockMax || shared > kSharedBytesMax ? 0 : per_multiprocessor / threads;
  return cudaSuccess;
}
DJINN_EXPORT cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* function, int threads, size_t shared) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, threads, shared, 0);
}

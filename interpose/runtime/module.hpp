// Registered kernels: what the constructors of CUDA code tell the runtime before main. Registration only notes pointers: it may run before our own
// constructors, starts nothing and reads nothing; a fatbin is opened when a kernel of it is first launched outside an op scope.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>
#include <vector>

namespace djinn {

struct FatbinHandle;  // one per __cudaRegisterFatBinary
FatbinHandle* register_fatbin(const void* wrapper);
void register_kernel(FatbinHandle* fatbin, const void* host_function, const char* device_name);

struct RegisteredKernel {
  const char* name = nullptr;   // null: not registered
  FatbinHandle* fatbin = nullptr;
};
RegisteredKernel find_kernel(const void* host_function);

// What a launch needs; made once per kernel, when it is first launched: the module uploaded, the kernel announced.
struct LaunchableKernel {
  uint64_t id = 0;  // 0: cannot be launched, `error` says why
  struct Param {
    uint32_t offset, size;
  };
  std::vector<Param> params;
  uint32_t param_bytes = 0;
  std::string error;
};
const LaunchableKernel& launchable(const void* host_function);

}  // namespace djinn

// Kernels and the modules that they live in: those that CUDA code registers in constructors before main, and those that a program loads through the
// driver API. Registration only notes pointers: it may run before our own constructors, starts nothing and reads nothing. A fatbin is opened, and its
// image for the session's device sent, when a kernel of it is first launched outside an op scope. Mirror: server/decode/module.cpp.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>
#include <vector>

#include "semantic/module/module.hpp"

namespace djinn {

struct LoadedModule;  // one per __cudaRegisterFatBinary and per cuModuleLoad
LoadedModule* register_fatbin(const void* wrapper);
void register_kernel(LoadedModule* module, const void* host_function, const char* device_name);

struct RegisteredKernel {
  const char* name = nullptr;  // null: not registered
  LoadedModule* module = nullptr;
};
// `function` is a host function, or a handle that module_function gave.
RegisteredKernel find_kernel(const void* function);

// What a launch needs; made once per kernel, when it is first launched: the module sent, the kernel announced.
struct LaunchableKernel {
  uint64_t id = 0;  // 0: cannot be launched, `code` and `error` say why
  std::vector<module::Param> params;
  uint32_t param_bytes = 0;
  cudaError_t code = cudaSuccess;
  std::string error;
};
const LaunchableKernel& launchable(const void* function);

// The driver API's modules. `image` points to a cubin, a fatbin, or a fatbin's wrapper; PTX is refused. Null: `code` says why.
LoadedModule* load_module(const void* image, cudaError_t& code);
// A kernel's handle, the same each time; null: the module has none of that name.
const void* module_function(LoadedModule* module, const char* name);
bool unload_module(LoadedModule* module);

}  // namespace djinn

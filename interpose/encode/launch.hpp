// Kernel launches, lowered to module_load, kernel_get and launch. Mirror: server/decode/module.cpp, launch.cpp.
#pragma once
#include "interpose/client.hpp"

namespace djinn {

struct LaunchRequest {
  const void* function;
  dim3 grid, block;
  void** arguments;              // one pointer per parameter; or null, and
  const void* packed = nullptr;  // all parameters as the kernel lays them out
  size_t packed_bytes = 0;
  size_t shared = 0;
  cudaStream_t stream = nullptr;
  bool cooperative = false;
};
cudaError_t launch(const LaunchRequest& r, const char* name);

}  // namespace djinn

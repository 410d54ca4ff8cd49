// Kernel launches, lowered to module_load, kernel_get and launch. Mirror: server/decode/module.cpp, launch.cpp.
#pragma once
#include "interpose/client.hpp"

namespace djinn {

struct LaunchRequest {
  const void* function;
  dim3 grid, block;
  void** arguments;
  size_t shared;
  cudaStream_t stream;
  bool cooperative;
};
cudaError_t launch(const LaunchRequest& r, const char* name);

}  // namespace djinn

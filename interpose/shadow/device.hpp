// The one device as the client answers for it: current device and context state of each thread, properties and attributes from the numbers that the
// server gave at open. No message is ever sent for these.
#pragma once
#include "interpose/client.hpp"

namespace djinn {

// 0 or 1; opens the session.
int device_count();
int current_device();
// Makes the primary context current, as cudaSetDevice and every call that needs a context do.
cudaError_t set_device(int device);
// The context that such calls make: opens the session, or the error that they return.
cudaError_t need_context();
bool primary_context_active();
CUcontext current_context();
void set_current_context(CUcontext c);
CUcontext primary_context();

void fill_properties(cudaDeviceProp& p);
bool device_attribute(int attribute, int& value);  // cudaDeviceAttr and CUdevice_attribute have the same numbers

// Launch limits that are checked locally.
constexpr unsigned kThreadsPerBlockMax = 1024, kBlockZMax = 64, kGridYZMax = 65535;
constexpr size_t kSharedBytesMax = 101376;  // per block, opted in

}  // namespace djinn

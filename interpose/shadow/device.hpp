// The devices as the client answers for them: current device and context of each thread, which primary contexts exist, who may access whose memory,
// properties and attributes from the numbers that the server gave at open. No message is ever sent for these.
#pragma once
#include "interpose/client.hpp"

namespace djinn {

// Opens the session; 0 without one.
int device_count();
bool valid_device(int device);
int current_device();
// Makes the device's primary context current, as cudaSetDevice and every call that needs a context do.
cudaError_t set_device(int device);
// The context that such calls make on the current device: opens the session, or the error that they return.
cudaError_t need_context();
// Makes a device's primary context without making it current.
cudaError_t make_primary_context(int device);
bool primary_context_active(int device);
CUcontext primary_context(int device);
// The device whose primary context it is; -1: none.
int device_of_context(CUcontext c);
CUcontext current_context();
void set_current_context(CUcontext c);

// Both are valid. Memory of all devices is in one process, so that each can access the others' once the program has said so.
bool can_access_peer(int device, int peer);
// False when it is so already.
bool set_peer_access(int device, int peer, bool enabled);

// Made up, and the server's: CUDA_VISIBLE_DEVICES does not change it.
int pci_bus(int device);
// 16 bytes: of the session and one of the server's devices.
void device_uuid(void* uuid, unsigned server_device);
void fill_properties(cudaDeviceProp& p, int device);
bool device_attribute(int attribute, int& value, int device);  // cudaDeviceAttr and CUdevice_attribute have the same numbers

// Launch limits that are checked locally.
constexpr unsigned kThreadsPerBlockMax = 1024, kBlockZMax = 64, kGridYZMax = 65535;
constexpr size_t kSharedBytesMax = 101376;  // per block, opted in

}  // namespace djinn

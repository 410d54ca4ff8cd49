// Exported: devices, contexts, errors, versions. All answered in shadow.
#include <cstdio>

#include "interpose/batch/session.hpp"
#include "interpose/shadow/activity.hpp"
#include "interpose/shadow/device.hpp"
#include "interpose/shadow/error.hpp"
#include "interpose/shadow/event.hpp"
#include "interpose/shadow/graph.hpp"

using namespace djinn;

DJINN_EXPORT cudaError_t cudaGetDeviceCount(int* n) {
  if (!n) return fail(cudaErrorInvalidValue);
  *n = device_count();
  if (*n) load_hook();
  return *n ? cudaSuccess : fail(session_error());
}
DJINN_EXPORT cudaError_t cudaGetDevice(int* device) {
  if (!device) return fail(cudaErrorInvalidValue);
  *device = current_device();
  return open_session() ? cudaSuccess : fail(session_error());
}
DJINN_EXPORT cudaError_t cudaSetDevice(int device) { return fail(set_device(device)); }
DJINN_EXPORT cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
  if (!p) return fail(cudaErrorInvalidValue);
  if (!open_session()) return fail(session_error());
  if (!valid_device(device)) return fail(cudaErrorInvalidDevice);
  fill_properties(*p, device);
  return cudaSuccess;
}
DJINN_EXPORT cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (!value) return fail(cudaErrorInvalidValue);
  if (!open_session()) return fail(session_error());
  if (!valid_device(device)) return fail(cudaErrorInvalidDevice);
  return device_attribute(attribute, *value, device) ? cudaSuccess : fail(cudaErrorInvalidValue);
}
DJINN_EXPORT cudaError_t cudaDeviceGetPCIBusId(char* text, int size, int device) {
  if (!text || size < 13) return fail(cudaErrorInvalidValue);
  if (!valid_device(device)) return fail(cudaErrorInvalidDevice);
  snprintf(text, static_cast<size_t>(size), "0000:%02x:00.0", static_cast<unsigned>(pci_bus(device)));
  return cudaSuccess;
}
DJINN_EXPORT cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return cudaSuccess;
}
DJINN_EXPORT cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  if (!can) return fail(cudaErrorInvalidValue);
  if (!valid_device(device) || !valid_device(peer)) return fail(cudaErrorInvalidDevice);
  *can = can_access_peer(device, peer);
  return cudaSuccess;
}
DJINN_EXPORT cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags) {
  if (flags) return fail(cudaErrorInvalidValue);
  if (cudaError_t e = need_context()) return fail(e);
  if (!valid_device(peer) || !can_access_peer(current_device(), peer)) return fail(cudaErrorInvalidDevice);
  return set_peer_access(current_device(), peer, true) ? cudaSuccess : fail(cudaErrorPeerAccessAlreadyEnabled);
}
DJINN_EXPORT cudaError_t cudaDeviceDisablePeerAccess(int peer) {
  if (cudaError_t e = need_context()) return fail(e);
  if (!valid_device(peer)) return fail(cudaErrorInvalidDevice);
  return set_peer_access(current_device(), peer, false) ? cudaSuccess : fail(cudaErrorPeerAccessNotEnabled);
}
DJINN_EXPORT cudaError_t cudaDeviceGetP2PAttribute(int* value, cudaDeviceP2PAttr attribute, int device, int peer) {
  if (!value || attribute < cudaDevP2PAttrPerformanceRank || attribute > cudaDevP2PAttrCudaArrayAccessSupported) return fail(cudaErrorInvalidValue);
  if (!valid_device(device) || !valid_device(peer) || device == peer) return fail(cudaErrorInvalidDevice);
  *value = attribute == cudaDevP2PAttrAccessSupported && can_access_peer(device, peer);  // no atomics between devices, no arrays, one rank
  return cudaSuccess;
}

DJINN_EXPORT cudaError_t cudaDeviceSynchronize(void) {
  if (cudaError_t e = need_context()) return fail(e);
  if (scope().depth > 0) return cudaSuccess;
  if (cudaError_t e = capturing() ? refuse_device_wide() : cudaSuccess) return fail(e);
  activity::Call traced("cudaDeviceSynchronize");
  session()->log.wait_executed(session()->log.last());
  if (cudaError_t e = take_async_error()) return e;
  return fail(session_error());
}

// The version whose behaviour we imitate: that of the headers that we were built with.
DJINN_EXPORT cudaError_t cudaDriverGetVersion(int* v) {
  if (!v) return fail(cudaErrorInvalidValue);
  *v = open_session() ? CUDA_VERSION : 0;  // CUDA: 0 without a driver
  return cudaSuccess;
}
DJINN_EXPORT cudaError_t cudaRuntimeGetVersion(int* v) {
  if (!v) return fail(cudaErrorInvalidValue);
  *v = CUDART_VERSION;
  return cudaSuccess;
}
DJINN_EXPORT cudaError_t cudaProfilerStart(void) { return cudaSuccess; }
DJINN_EXPORT cudaError_t cudaProfilerStop(void) { return cudaSuccess; }

DJINN_EXPORT cudaError_t cudaGetLastError(void) { return get_last_error(true); }
DJINN_EXPORT cudaError_t cudaPeekAtLastError(void) { return get_last_error(false); }
DJINN_EXPORT const char* cudaGetErrorString(cudaError_t e) { return error_string(e); }
DJINN_EXPORT const char* cudaGetErrorName(cudaError_t e) { return error_name(e); }
DJINN_EXPORT CUresult cuGetErrorString(CUresult e, const char** text) {
  if (!text) return CUDA_ERROR_INVALID_VALUE;
  *text = error_string(static_cast<cudaError_t>(e));
  return CUDA_SUCCESS;
}

// ---- driver ----
DJINN_EXPORT CUresult cuInit(unsigned flags) {
  if (flags) return CUDA_ERROR_INVALID_VALUE;
  return open_session() ? CUDA_SUCCESS : to_driver(session_error());
}
DJINN_EXPORT CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  if (!device) return CUDA_ERROR_INVALID_VALUE;
  if (!open_session()) return CUDA_ERROR_NOT_INITIALIZED;
  if (!valid_device(ordinal)) return CUDA_ERROR_INVALID_DEVICE;
  *device = ordinal;
  return CUDA_SUCCESS;
}
DJINN_EXPORT CUresult cuDeviceGetCount(int* n) {
  if (!n) return CUDA_ERROR_INVALID_VALUE;
  if (!open_session()) return CUDA_ERROR_NOT_INITIALIZED;
  *n = device_count();
  return CUDA_SUCCESS;
}
DJINN_EXPORT CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  if (!value) return CUDA_ERROR_INVALID_VALUE;
  if (!open_session()) return CUDA_ERROR_NOT_INITIALIZED;
  if (!valid_device(device)) return CUDA_ERROR_INVALID_DEVICE;
  return device_attribute(attribute, *value, device) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
DJINN_EXPORT CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* active) {
  if (!flags || !active) return CUDA_ERROR_INVALID_VALUE;
  if (!valid_device(device)) return CUDA_ERROR_INVALID_DEVICE;
  *flags = 0;
  *active = primary_context_active(device);
  return CUDA_SUCCESS;
}
DJINN_EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  if (!context) return CUDA_ERROR_INVALID_VALUE;
  if (!valid_device(device)) return CUDA_ERROR_INVALID_DEVICE;
  if (cudaError_t e = make_primary_context(device)) return to_driver(e);
  *context = primary_context(device);
  return CUDA_SUCCESS;
}
DJINN_EXPORT CUresult cuCtxGetCurrent(CUcontext* context) {
  if (!context) return CUDA_ERROR_INVALID_VALUE;
  // The launches of this scope, dropped as they are, would have made the primary context current on a new thread (autograd's); PyTorch warns
  // otherwise.
  int device = current_device();
  if (scope().depth > 0 && !current_context() && primary_context_active(device)) set_current_context(primary_context(device));
  *context = current_context();
  return session() ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
}
DJINN_EXPORT CUresult cuCtxSetCurrent(CUcontext context) {
  if (!session()) return CUDA_ERROR_NOT_INITIALIZED;
  if (context && device_of_context(context) < 0) return CUDA_ERROR_INVALID_CONTEXT;
  set_current_context(context);
  return CUDA_SUCCESS;
}
DJINN_EXPORT CUresult cuCtxGetDevice(CUdevice* device) {
  if (!device || !current_context()) return device ? CUDA_ERROR_INVALID_CONTEXT : CUDA_ERROR_INVALID_VALUE;
  *device = current_device();
  return CUDA_SUCCESS;
}
DJINN_EXPORT CUresult cuDeviceCanAccessPeer(int* can, CUdevice device, CUdevice peer) {
  return to_driver(cudaDeviceCanAccessPeer(can, device, peer));
}
DJINN_EXPORT CUresult cuDeviceGetP2PAttribute(int* value, CUdevice_P2PAttribute attribute, CUdevice device, CUdevice peer) {
  return to_driver(cudaDeviceGetP2PAttribute(value, static_cast<cudaDeviceP2PAttr>(attribute), device, peer));
}
DJINN_EXPORT CUresult cuCtxEnablePeerAccess(CUcontext peer, unsigned flags) {
  int device = device_of_context(peer);
  if (!current_context() || device < 0 || device == current_device()) return CUDA_ERROR_INVALID_CONTEXT;
  return to_driver(cudaDeviceEnablePeerAccess(device, flags));
}
DJINN_EXPORT CUresult cuCtxDisablePeerAccess(CUcontext peer) {
  int device = device_of_context(peer);
  if (!current_context() || device < 0) return CUDA_ERROR_INVALID_CONTEXT;
  return to_driver(cudaDeviceDisablePeerAccess(device));
}

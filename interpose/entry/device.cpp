// Exported: devices, contexts, errors, versions. All answered in shadow.
#include <cstdio>

#include "interpose/batch/session.hpp"
#include "interpose/shadow/device.hpp"
#include "interpose/shadow/error.hpp"
#include "interpose/shadow/event.hpp"

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
  if (device != 0) return fail(cudaErrorInvalidDevice);
  fill_properties(*p);
  return cudaSuccess;
}
DJINN_EXPORT cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (!value) return fail(cudaErrorInvalidValue);
  if (!open_session()) return fail(session_error());
  if (device != 0) return fail(cudaErrorInvalidDevice);
  return device_attribute(attribute, *value) ? cudaSuccess : fail(cudaErrorInvalidValue);
}
DJINN_EXPORT cudaError_t cudaDeviceGetPCIBusId(char* text, int size, int device) {
  if (!text || size < 13) return fail(cudaErrorInvalidValue);
  if (device != 0) return fail(cudaErrorInvalidDevice);
  snprintf(text, static_cast<size_t>(size), "0000:00:00.0");
  return cudaSuccess;
}
DJINN_EXPORT cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return cudaSuccess;
}
DJINN_EXPORT cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  if (!can) return fail(cudaErrorInvalidValue);
  if (device != 0 || peer != 0) return fail(cudaErrorInvalidDevice);
  *can = 0;  // a device is not its own peer
  return cudaSuccess;
}
DJINN_EXPORT cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) { return fail(cudaErrorInvalidDevice); }

DJINN_EXPORT cudaError_t cudaDeviceSynchronize(void) {
  if (cudaError_t e = need_context()) return fail(e);
  if (scope().depth > 0) return cudaSuccess;
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
DJINN_EXPORT cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                                          cudaDriverEntryPointQueryResult* result) {
  if (!name || !function) return fail(cudaErrorInvalidValue);
  *function = nullptr;
  if (result) *result = cudaDriverEntryPointSymbolNotFound;
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
  if (ordinal != 0) return CUDA_ERROR_INVALID_DEVICE;
  *device = 0;
  return CUDA_SUCCESS;
}
DJINN_EXPORT CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  if (!value) return CUDA_ERROR_INVALID_VALUE;
  if (!open_session()) return CUDA_ERROR_NOT_INITIALIZED;
  if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
  return device_attribute(attribute, *value) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
DJINN_EXPORT CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* active) {
  if (!flags || !active) return CUDA_ERROR_INVALID_VALUE;
  if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
  *flags = 0;
  *active = primary_context_active();
  return CUDA_SUCCESS;
}
DJINN_EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  if (!context) return CUDA_ERROR_INVALID_VALUE;
  if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
  CUcontext before = current_context();
  cudaError_t e = need_context();
  set_current_context(before);  // retaining makes the context, it does not make it current
  if (e) return to_driver(e);
  *context = primary_context();
  return CUDA_SUCCESS;
}
DJINN_EXPORT CUresult cuCtxGetCurrent(CUcontext* context) {
  if (!context) return CUDA_ERROR_INVALID_VALUE;
  // The launches of this scope, dropped as they are, would have made the primary context current on a new thread (autograd's); PyTorch warns
  // otherwise.
  if (scope().depth > 0 && !current_context() && primary_context_active()) set_current_context(primary_context());
  *context = current_context();
  return session() ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
}
DJINN_EXPORT CUresult cuCtxSetCurrent(CUcontext context) {
  if (!session()) return CUDA_ERROR_NOT_INITIALIZED;
  if (context && context != primary_context()) return CUDA_ERROR_INVALID_CONTEXT;
  set_current_context(context);
  return CUDA_SUCCESS;
}

// See error.hpp.
#include "interpose/shadow/error.hpp"

#include <atomic>
#include <cstdio>
#include <cstring>
#include <mutex>

#include "interpose/batch/session.hpp"

namespace djinn {

namespace {

// A program that goes on after errors may cause them by the thousand; this many are said on stderr.
constexpr unsigned kErrorLinesMax = 100;

struct Async {
  std::mutex mutex;
  std::atomic<bool> waiting{false};  // something to deliver: the fast check
  cudaError_t code = cudaSuccess;
  bool sticky = false;
  std::string text;    // of the error to deliver
  std::string latest;  // of the last that arrived
  unsigned lines = 0;  // said on stderr
  std::string lost;    // why the session is over
};
Async& async() {
  static Async* a = new Async;  // never destroyed: CUDA is called from exit handlers
  return *a;
}

struct Words {
  cudaError_t code;  // the code whose words these are
  char words[1024];
  char string[1280];
  Words* next;  // all of the process, so that a leak checker finds them
};
std::atomic<Words*> all_words{nullptr};
// Small, because the library's thread-local storage is static and must fit what the loader keeps for dlopen; the words
// are made when there are any, and stay with the process (CUDA is called from threads' exit handlers).
struct Last {
  cudaError_t code;  // cudaGetLastError
  Words* told;
};
thread_local Last last{};

// Every code: first those that our functions give. Names are CUDA's own identifiers.
struct Row {
  cudaError_t code;
  const char *name, *text;
};
#define ROW(name, text) \
  { name, #name, text }
constexpr Row kRows[] = {
    ROW(cudaSuccess, "no error"),
    ROW(cudaErrorInvalidValue, "invalid argument"),
    ROW(cudaErrorMemoryAllocation, "out of memory"),
    ROW(cudaErrorInitializationError, "initialization error"),
    ROW(cudaErrorCudartUnloading, "driver shutting down"),
    ROW(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    ROW(cudaErrorInvalidPitchValue, "invalid pitch argument"),
    ROW(cudaErrorInvalidSymbol, "invalid device symbol"),
    ROW(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy"),
    ROW(cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version"),
    ROW(cudaErrorInvalidDeviceFunction, "invalid device function"),
    ROW(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    ROW(cudaErrorInvalidDevice, "invalid device ordinal"),
    ROW(cudaErrorInvalidKernelImage, "device kernel image is invalid"),
    ROW(cudaErrorDevicesUnavailable, "CUDA-capable device(s) is/are busy or unavailable"),
    ROW(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    ROW(cudaErrorSymbolNotFound, "named symbol not found"),
    ROW(cudaErrorNotReady, "device not ready"),
    ROW(cudaErrorIllegalAddress, "an illegal memory access was encountered"),
    ROW(cudaErrorPeerAccessAlreadyEnabled, "peer access is already enabled"),
    ROW(cudaErrorHostMemoryAlreadyRegistered, "part or all of the requested memory range is already mapped"),
    ROW(cudaErrorHostMemoryNotRegistered, "pointer does not correspond to a registered memory region"),
    ROW(cudaErrorAssert, "device-side assert triggered"),
    ROW(cudaErrorLaunchFailure, "unspecified launch failure"),
    ROW(cudaErrorNotPermitted, "operation not permitted"),
    ROW(cudaErrorNotSupported, "operation not supported"),
    ROW(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"),
    ROW(cudaErrorProfilerDisabled, "profiler disabled"),
    ROW(cudaErrorProfilerNotInitialized, "profiler not initialized"),
    ROW(cudaErrorProfilerAlreadyStarted, "profiler already started"),
    ROW(cudaErrorProfilerAlreadyStopped, "profiler already stopped"),
    ROW(cudaErrorInvalidHostPointer, "invalid host pointer"),
    ROW(cudaErrorInvalidDevicePointer, "invalid device pointer"),
    ROW(cudaErrorInvalidTexture, "invalid texture reference"),
    ROW(cudaErrorInvalidTextureBinding, "texture is not bound to a pointer"),
    ROW(cudaErrorInvalidChannelDescriptor, "invalid channel descriptor"),
    ROW(cudaErrorAddressOfConstant, "address of a constant taken"),
    ROW(cudaErrorTextureFetchFailed, "texture fetch failed"),
    ROW(cudaErrorTextureNotBound, "texture not bound"),
    ROW(cudaErrorSynchronizationError, "synchronization failed"),
    ROW(cudaErrorInvalidFilterSetting, "linear filtering not supported for this type"),
    ROW(cudaErrorInvalidNormSetting, "normalized reading not supported for this type"),
    ROW(cudaErrorMixedDeviceExecution, "device and emulation code mixed"),
    ROW(cudaErrorNotYetImplemented, "not yet implemented"),
    ROW(cudaErrorMemoryValueTooLarge, "memory value too large"),
    ROW(cudaErrorStubLibrary, "the driver library is a stub"),
    ROW(cudaErrorCallRequiresNewerDriver, "the call needs a newer driver"),
    ROW(cudaErrorInvalidSurface, "invalid surface reference"),
    ROW(cudaErrorDuplicateVariableName, "duplicate variable name"),
    ROW(cudaErrorDuplicateTextureName, "duplicate texture name"),
    ROW(cudaErrorDuplicateSurfaceName, "duplicate surface name"),
    ROW(cudaErrorIncompatibleDriverContext, "the current context is of another driver interface"),
    ROW(cudaErrorMissingConfiguration, "no launch configuration was pushed"),
    ROW(cudaErrorPriorLaunchFailure, "an earlier launch failed"),
    ROW(cudaErrorLaunchMaxDepthExceeded, "device-side launches too deep"),
    ROW(cudaErrorLaunchFileScopedTex, "launch with a file-scoped texture"),
    ROW(cudaErrorLaunchFileScopedSurf, "launch with a file-scoped surface"),
    ROW(cudaErrorSyncDepthExceeded, "device-side synchronization too deep"),
    ROW(cudaErrorLaunchPendingCountExceeded, "too many pending device-side launches"),
    ROW(cudaErrorDeviceNotLicensed, "device not licensed for compute"),
    ROW(cudaErrorSoftwareValidityNotEstablished, "software integrity not established"),
    ROW(cudaErrorStartupFailure, "startup failure in the runtime"),
    ROW(cudaErrorDeviceUninitialized, "no context is current"),
    ROW(cudaErrorMapBufferObjectFailed, "mapping of a buffer object failed"),
    ROW(cudaErrorUnmapBufferObjectFailed, "unmapping of a buffer object failed"),
    ROW(cudaErrorArrayIsMapped, "array is mapped"),
    ROW(cudaErrorAlreadyMapped, "resource already mapped"),
    ROW(cudaErrorNoKernelImageForDevice, "no kernel image is available for execution on the device"),
    ROW(cudaErrorAlreadyAcquired, "resource already acquired"),
    ROW(cudaErrorNotMapped, "resource not mapped"),
    ROW(cudaErrorNotMappedAsArray, "resource not mapped as an array"),
    ROW(cudaErrorNotMappedAsPointer, "resource not mapped as a pointer"),
    ROW(cudaErrorECCUncorrectable, "uncorrectable ECC error encountered"),
    ROW(cudaErrorUnsupportedLimit, "limit not supported on this device"),
    ROW(cudaErrorDeviceAlreadyInUse, "exclusive device already in use by another thread"),
    ROW(cudaErrorPeerAccessUnsupported, "peer access not supported between these devices"),
    ROW(cudaErrorInvalidPtx, "a PTX JIT compilation failed"),
    ROW(cudaErrorInvalidGraphicsContext, "invalid graphics context"),
    ROW(cudaErrorNvlinkUncorrectable, "uncorrectable NVLink error encountered"),
    ROW(cudaErrorJitCompilerNotFound, "PTX JIT compiler not found"),
    ROW(cudaErrorUnsupportedPtxVersion, "the PTX was made by an unsupported toolchain"),
    ROW(cudaErrorJitCompilationDisabled, "PTX JIT compilation disabled"),
    ROW(cudaErrorUnsupportedExecAffinity, "execution affinity not supported"),
    ROW(cudaErrorUnsupportedDevSideSync, "unsupported device-side synchronization"),
    ROW(cudaErrorContained, "an error was contained"),
    ROW(cudaErrorInvalidSource, "device kernel source is invalid"),
    ROW(cudaErrorFileNotFound, "file not found"),
    ROW(cudaErrorSharedObjectSymbolNotFound, "shared object symbol not found"),
    ROW(cudaErrorSharedObjectInitFailed, "shared object initialization failed"),
    ROW(cudaErrorOperatingSystem, "a call to the operating system failed"),
    ROW(cudaErrorIllegalState, "the operation cannot be performed in the present state"),
    ROW(cudaErrorLossyQuery, "the query would discard information"),
    ROW(cudaErrorLaunchOutOfResources, "too many resources requested for launch"),
    ROW(cudaErrorLaunchTimeout, "the launch timed out and was terminated"),
    ROW(cudaErrorLaunchIncompatibleTexturing, "launch uses incompatible texturing mode"),
    ROW(cudaErrorPeerAccessNotEnabled, "peer access has not been enabled"),
    ROW(cudaErrorSetOnActiveProcess, "cannot set while device is active in this process"),
    ROW(cudaErrorContextIsDestroyed, "context is destroyed"),
    ROW(cudaErrorTooManyPeers, "peer resources exhausted"),
    ROW(cudaErrorHardwareStackError, "hardware stack error"),
    ROW(cudaErrorIllegalInstruction, "an illegal instruction was encountered"),
    ROW(cudaErrorMisalignedAddress, "misaligned address"),
    ROW(cudaErrorInvalidAddressSpace, "operation not supported on this address space"),
    ROW(cudaErrorInvalidPc, "invalid program counter"),
    ROW(cudaErrorCooperativeLaunchTooLarge, "too many blocks in cooperative launch"),
    ROW(cudaErrorTensorMemoryLeak, "tensor memory not completely freed"),
    ROW(cudaErrorSystemNotReady, "system not yet initialized"),
    ROW(cudaErrorSystemDriverMismatch, "driver components do not match each other"),
    ROW(cudaErrorCompatNotSupportedOnDevice, "forward compatibility not supported on this device"),
    ROW(cudaErrorMpsConnectionFailed, "MPS client failed to connect"),
    ROW(cudaErrorMpsRpcFailure, "MPS failed"),
    ROW(cudaErrorMpsServerNotReady, "MPS server not ready"),
    ROW(cudaErrorMpsMaxClientsReached, "MPS has no client left to give"),
    ROW(cudaErrorMpsMaxConnectionsReached, "MPS has no connection left to give"),
    ROW(cudaErrorMpsClientTerminated, "MPS client terminated"),
    ROW(cudaErrorCdpNotSupported, "device-side launches not supported"),
    ROW(cudaErrorCdpVersionMismatch, "device-side launch versions do not match"),
    ROW(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture"),
    ROW(cudaErrorStreamCaptureMerge, "operation would result in a merge of separate capture sequences"),
    ROW(cudaErrorStreamCaptureUnmatched, "capture was not ended in the same stream as it began"),
    ROW(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work"),
    ROW(cudaErrorStreamCaptureIsolation, "dependency created on uncaptured work in another stream"),
    ROW(cudaErrorStreamCaptureImplicit, "operation would make the legacy stream depend on a capturing blocking stream"),
    ROW(cudaErrorCapturedEvent, "operation not permitted on an event last recorded in a capturing stream"),
    ROW(cudaErrorStreamCaptureWrongThread, "attempt to terminate a thread-local capture sequence from another thread"),
    ROW(cudaErrorTimeout, "wait timed out"),
    ROW(cudaErrorGraphExecUpdateFailure, "graph update failed"),
    ROW(cudaErrorExternalDevice, "an external device failed"),
    ROW(cudaErrorInvalidClusterSize, "invalid cluster size"),
    ROW(cudaErrorFunctionNotLoaded, "function not loaded"),
    ROW(cudaErrorInvalidResourceType, "invalid resource type"),
    ROW(cudaErrorInvalidResourceConfiguration, "invalid resource configuration"),
    ROW(cudaErrorUnknown, "unknown error"),
};
#undef ROW

const Row* row_of(cudaError_t e) {
  for (const Row& r : kRows)
    if (r.code == e) return &r;
  return nullptr;
}

}  // namespace

cudaError_t fail(cudaError_t e) {
  if (e != cudaSuccess && e != cudaErrorNotReady) last.code = e;
  return e;
}

std::string error_words(std::string_view operation, std::string_view text) {
  return operation.empty() ? std::string(text) : std::string(operation) + ": " + std::string(text);
}

void latch_error(const wire::Error& e, std::string_view operation, std::string_view text) {
  std::string words = error_words(operation, text);
  Async& a = async();
  bool quiet;
  {
    std::lock_guard lock(a.mutex);
    bool sticky = e.error_class == wire::ErrorClass::sticky;
    if (a.sticky) return;  // nothing after it matters
    quiet = words == a.latest || a.lines++ >= kErrorLinesMax;
    if (!quiet && a.lines == kErrorLinesMax) words += " (the last error that is said here)";
    a.latest = words;
    if (a.code == cudaSuccess || sticky) {  // the first stands; sticky goes before what is delivered once
      a.code = static_cast<cudaError_t>(e.code);
      a.sticky = sticky;
      a.text = words;
      a.waiting.store(true, std::memory_order_release);
    }
  }
  if (!quiet) say(Level::warning, "%s", words.c_str());
}

std::string latest_error_text() {
  std::lock_guard lock(async().mutex);
  return async().latest;
}

static void tell(cudaError_t code, const std::string& words) {
  if (!last.told) {
    Words* w = last.told = new Words{};
    w->next = all_words;
    while (!all_words.compare_exchange_weak(w->next, w)) {}
  }
  last.told->code = code;
  snprintf(last.told->words, sizeof last.told->words, "%s", words.c_str());
}

cudaError_t take_async_error() {
  Async& a = async();
  if (!a.waiting.load(std::memory_order_acquire)) return cudaSuccess;
  std::lock_guard lock(a.mutex);
  cudaError_t code = a.code;
  tell(code, a.text);
  if (!a.sticky) {
    a.code = cudaSuccess;
    a.waiting.store(false, std::memory_order_release);
  }
  return fail(code);
}

cudaError_t fail_with(const Reply& r) {
  tell(static_cast<cudaError_t>(r.status), r.error);
  return fail(static_cast<cudaError_t>(r.status));
}

cudaError_t sticky_error() {
  Async& a = async();
  if (!a.waiting.load(std::memory_order_acquire)) return cudaSuccess;
  std::lock_guard lock(a.mutex);
  if (!a.sticky) return cudaSuccess;
  tell(a.code, a.text);
  return a.code;
}

void lose_session(const char* reason) {
  Async& a = async();
  {
    std::lock_guard lock(a.mutex);
    if (!a.lost.empty()) return;
    a.lost = reason;
    a.latest = reason;
    a.code = lost_error();
    a.sticky = true;
    a.text = reason;
    a.waiting.store(true, std::memory_order_release);
  }
  say(Level::error, "%s; CUDA calls fail from here on", reason);
}

cudaError_t lost_error() { return cudaErrorDevicesUnavailable; }

std::string lost_reason() {
  std::lock_guard lock(async().mutex);
  return async().lost;
}

cudaError_t get_last_error(bool clear) {
  if (cudaError_t e = sticky_error()) return e;
  cudaError_t e = last.code;
  if (clear) last.code = cudaSuccess;
  return e;
}

const char* error_name(cudaError_t e) {
  const Row* r = row_of(e);
  return r ? r->name : "unrecognized error code";
}

const char* error_string(cudaError_t e) {
  const Row* r = row_of(e);
  const char* text = r ? r->text : "unrecognized error code";
  Words* w = last.told;
  if (!w || w->code != e || !w->words[0]) return text;
  snprintf(w->string, sizeof w->string, "%s: %s", text, w->words);
  return w->string;
}

// The runtime's numbers are the driver's for everything that both have, since CUDA 10.1.
CUresult to_driver(cudaError_t e) {
  switch (e) {
    case cudaErrorInitializationError: return CUDA_ERROR_NOT_INITIALIZED;
    case cudaErrorInvalidDeviceFunction: return CUDA_ERROR_INVALID_HANDLE;
    case cudaErrorInvalidConfiguration: return CUDA_ERROR_INVALID_VALUE;
    default: return static_cast<CUresult>(e);
  }
}

}  // namespace djinn

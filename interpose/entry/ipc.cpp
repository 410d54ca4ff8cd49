// Exported: memory and events between processes. A memory handle is the server's business (shadow/sharing); an event that other processes may know of
// is recorded by waiting for the work before it, so that wherever its handle has come it is complete, and nobody has to ask another session.
#include <bit>
#include <cstring>

#include "interpose/batch/session.hpp"
#include "interpose/shadow/device.hpp"
#include "interpose/shadow/error.hpp"
#include "interpose/shadow/event.hpp"
#include "interpose/shadow/graph.hpp"
#include "interpose/shadow/sharing.hpp"

using namespace djinn;

namespace {

struct SharedEvent {
  uint64_t magic = kMagic, session = 0, event = 0, reserved[5]{};
  static constexpr uint64_t kMagic = 0x31545645'4e4e4a44;  // "DJNNEVT1"
};
static_assert(sizeof(SharedEvent) == sizeof(cudaIpcEventHandle_t));

cudaError_t need_context_unsafe() {
  if (cudaError_t e = need_context()) return e;
  return capturing() ? refuse_unsafe() : cudaSuccess;
}

}  // namespace

DJINN_EXPORT cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t* handle, void* p) {
  if (!handle) return fail(cudaErrorInvalidValue);
  if (cudaError_t e = need_context_unsafe()) return fail(e);
  SharedMemory s;
  if (cudaError_t e = sharing().get_handle(reinterpret_cast<uint64_t>(p), s)) return fail(e);
  std::memcpy(handle, &s, sizeof s);
  return cudaSuccess;
}

// Not in the process whose memory it is, as on CUDA.
DJINN_EXPORT cudaError_t cudaIpcOpenMemHandle(void** p, cudaIpcMemHandle_t handle, unsigned flags) {
  if (!p || flags & ~unsigned{cudaIpcMemLazyEnablePeerAccess}) return fail(cudaErrorInvalidValue);
  if (cudaError_t e = need_context_unsafe()) return fail(e);
  auto s = std::bit_cast<SharedMemory>(handle);
  if (s.magic != SharedMemory::kMagic || s.size % wire::kGranule || s.offset >= s.size) return fail(cudaErrorInvalidResourceHandle);
  if (s.session == session()->opened.session) return fail(cudaErrorDeviceUninitialized);
  uint64_t address;
  if (cudaError_t e = sharing().open(s, address)) return fail(e);
  *p = reinterpret_cast<void*>(address);
  return cudaSuccess;
}

DJINN_EXPORT cudaError_t cudaIpcCloseMemHandle(void* p) {
  if (cudaError_t e = need_context_unsafe()) return fail(e);
  return fail(sharing().close(reinterpret_cast<uint64_t>(p)));
}

DJINN_EXPORT cudaError_t cudaIpcGetEventHandle(cudaIpcEventHandle_t* handle, cudaEvent_t event) {
  if (!handle) return fail(cudaErrorInvalidValue);
  if (cudaError_t e = need_context()) return fail(e);
  auto state = event_state(reinterpret_cast<uint64_t>(event));
  if (!state || !state->interprocess) return fail(cudaErrorInvalidResourceHandle);
  SharedEvent s;
  s.session = session()->opened.session;
  s.event = reinterpret_cast<uint64_t>(event);
  std::memcpy(handle, &s, sizeof s);
  return cudaSuccess;
}

DJINN_EXPORT cudaError_t cudaIpcOpenEventHandle(cudaEvent_t* event, cudaIpcEventHandle_t handle) {
  if (!event) return fail(cudaErrorInvalidValue);
  if (cudaError_t e = need_context()) return fail(e);
  auto s = std::bit_cast<SharedEvent>(handle);
  if (s.magic != SharedEvent::kMagic) return fail(cudaErrorInvalidResourceHandle);
  *event = reinterpret_cast<cudaEvent_t>(create_event(false, true));
  return cudaSuccess;
}

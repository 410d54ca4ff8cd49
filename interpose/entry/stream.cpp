// Exported: streams and events. Creation never waits, queries are answered from what has arrived; only synchronising waits.
// Mirror: server/decode/stream.cpp, event.cpp.
#include "interpose/batch/session.hpp"
#include "interpose/encode/graph.hpp"
#include "interpose/shadow/activity.hpp"
#include "interpose/shadow/device.hpp"
#include "interpose/shadow/event.hpp"

using namespace djinn;

static uint64_t id(cudaStream_t s) { return reinterpret_cast<uint64_t>(s); }
static uint64_t id(cudaEvent_t e) { return reinterpret_cast<uint64_t>(e); }

// ---- streams ----
static cudaError_t make_stream(cudaStream_t* out, unsigned flags, int priority) {
  if (!out || flags > cudaStreamNonBlocking) return fail(cudaErrorInvalidValue);
  if (cudaError_t e = need_context()) return fail(e);
  uint64_t s = create_stream(flags, priority);
  *out = reinterpret_cast<cudaStream_t>(s);
  return fail(post(wire::Opcode::stream_create, wire::StreamCreate{s, flags, priority}) ? cudaSuccess : session_error());
}
DJINN_EXPORT cudaError_t cudaStreamCreate(cudaStream_t* s) { return make_stream(s, cudaStreamDefault, 0); }
DJINN_EXPORT cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned flags) { return make_stream(s, flags, 0); }
DJINN_EXPORT cudaError_t cudaStreamCreateWithPriority(cudaStream_t* s, unsigned flags, int priority) { return make_stream(s, flags, priority); }
DJINN_EXPORT cudaError_t cudaStreamDestroy(cudaStream_t s) {
  if (cudaError_t e = capturing() ? refuse_in_capture(id(s)) : cudaSuccess) return fail(e);
  if (!destroy_stream(id(s))) return fail(cudaErrorInvalidResourceHandle);
  return fail(post(wire::Opcode::stream_destroy, wire::Handle{id(s)}) ? cudaSuccess : session_error());
}
DJINN_EXPORT cudaError_t cudaStreamGetPriority(cudaStream_t s, int* priority) {
  auto state = stream_state(id(s));
  if (!state) return fail(cudaErrorInvalidResourceHandle);
  if (!priority) return fail(cudaErrorInvalidValue);
  *priority = state->priority;
  return cudaSuccess;
}

DJINN_EXPORT cudaError_t cudaStreamGetDevice(cudaStream_t s, int* device) {
  auto state = stream_state(id(s));
  if (!state) return fail(cudaErrorInvalidResourceHandle);
  if (!device) return fail(cudaErrorInvalidValue);
  *device = state->device_or(current_device());
  return cudaSuccess;
}

// The log has one order for all streams, so a stream is done when everything posted is.
DJINN_EXPORT cudaError_t cudaStreamSynchronize(cudaStream_t s) {
  if (scope().depth > 0) return cudaSuccess;  // alone it changes nothing; a value that it waited for is refused where it is fetched
  if (cudaError_t e = need_context()) return fail(e);
  if (!stream_state(id(s))) return fail(cudaErrorInvalidResourceHandle);
  if (cudaError_t e = capturing() ? refuse_in_capture(id(s)) : cudaSuccess) return fail(e);
  activity::Call traced("cudaStreamSynchronize");
  session()->log.wait_executed(session()->log.last());
  if (cudaError_t e = take_async_error()) return e;
  return fail(session_error());
}
DJINN_EXPORT cudaError_t cudaStreamQuery(cudaStream_t s) {
  if (cudaError_t e = need_context()) return fail(e);
  if (!stream_state(id(s))) return fail(cudaErrorInvalidResourceHandle);
  if (cudaError_t e = capturing() ? refuse_in_capture(id(s)) : cudaSuccess) return fail(e);
  Log& log = session()->log;
  Ticket last = log.last();
  if (!log.executed(last)) {
    log.flush();
    if (!log.lost()) return cudaErrorNotReady;
  }
  if (cudaError_t e = take_async_error()) return e;
  return fail(session_error());
}
DJINN_EXPORT cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags) {
  if (cudaError_t error = need_context()) return fail(error);
  auto event = event_state(id(e));
  if (!event || !stream_state(id(s))) return fail(cudaErrorInvalidResourceHandle);
  if (flags & ~unsigned{cudaEventWaitExternal}) return fail(cudaErrorInvalidValue);
  if (capturing() || event->captured) {
    bool captured;
    cudaError_t error = flags & cudaEventWaitExternal ? capture_external_wait(id(s), id(e), captured) : capture_wait(id(s), id(e), captured);
    if (error || captured) return fail(error);
  }
  if (!event->recorded) return cudaSuccess;  // CUDA: waiting for an event that was never recorded is no wait
  return fail(post(wire::Opcode::stream_wait, wire::StreamWait{id(s), id(e)}) ? cudaSuccess : session_error());
}

// ---- events ----
static cudaError_t make_event(cudaEvent_t* out, unsigned flags) {
  if (!out || (flags & ~(cudaEventBlockingSync | cudaEventDisableTiming | cudaEventInterprocess))) return fail(cudaErrorInvalidValue);
  if (flags & cudaEventInterprocess && !(flags & cudaEventDisableTiming)) return fail(cudaErrorInvalidValue);
  if (cudaError_t e = need_context()) return fail(e);
  *out = reinterpret_cast<cudaEvent_t>(create_event(!(flags & cudaEventDisableTiming), flags & cudaEventInterprocess));
  return cudaSuccess;
}
DJINN_EXPORT cudaError_t cudaEventCreate(cudaEvent_t* e) { return make_event(e, 0); }
DJINN_EXPORT cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned flags) { return make_event(e, flags); }
DJINN_EXPORT cudaError_t cudaEventDestroy(cudaEvent_t e) {
  if (!destroy_event(id(e))) return fail(cudaErrorInvalidResourceHandle);
  post(wire::Opcode::event_destroy, wire::Handle{id(e)});
  return cudaSuccess;
}
static cudaError_t record_event(cudaEvent_t e, cudaStream_t s, unsigned flags) {
  if (flags & ~unsigned{cudaEventRecordExternal}) return fail(cudaErrorInvalidValue);
  if (cudaError_t error = need_context()) return fail(error);
  auto event = event_state(id(e));
  auto stream = stream_state(id(s));
  if (!event || !stream || stream->device_or(current_device()) != event->device) return fail(cudaErrorInvalidResourceHandle);
  if (capturing()) {
    bool captured;
    cudaError_t error =
        flags & cudaEventRecordExternal ? capture_external_record(id(s), id(e), event->timed, captured) : capture_event(id(s), id(e), captured);
    if (error || captured) return fail(error);
  }
  Ticket t = post(wire::Opcode::event_record, wire::EventRecord{id(e), id(s), event->timed});
  if (!t) return fail(session_error());
  event_recorded(id(e), t);
  if (!event->interprocess) return cudaSuccess;
  activity::Call traced("cudaEventRecord");
  session()->log.wait_executed(t);
  return fail(session_error());
}
DJINN_EXPORT cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) { return record_event(e, s, cudaEventRecordDefault); }
DJINN_EXPORT cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned flags) { return record_event(e, s, flags); }
DJINN_EXPORT cudaError_t cudaEventQuery(cudaEvent_t e) {
  if (cudaError_t error = need_context()) return fail(error);
  auto event = event_state(id(e));
  if (!event) return fail(cudaErrorInvalidResourceHandle);
  if (cudaError_t error = capturing() || event->captured ? refuse_captured_event(id(e)) : cudaSuccess) return fail(error);
  Log& log = session()->log;
  if (!log.executed(event->recorded) && !log.lost()) {
    log.flush();
    return cudaErrorNotReady;
  }
  if (cudaError_t error = take_async_error()) return error;
  return fail(session_error());
}
DJINN_EXPORT cudaError_t cudaEventSynchronize(cudaEvent_t e) {
  if (cudaError_t error = need_context()) return fail(error);
  auto event = event_state(id(e));
  if (!event) return fail(cudaErrorInvalidResourceHandle);
  if (cudaError_t error = capturing() || event->captured ? refuse_captured_event(id(e)) : cudaSuccess) return fail(error);
  activity::Call traced("cudaEventSynchronize");
  session()->log.wait_executed(event->recorded);
  if (cudaError_t error = take_async_error()) return error;
  return fail(session_error());
}
DJINN_EXPORT cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  auto a = event_state(id(begin)), b = event_state(id(end));
  if (!milliseconds) return fail(cudaErrorInvalidValue);
  if (!a || !b || !a->timed || !b->timed || a->device != b->device) return fail(cudaErrorInvalidResourceHandle);
  if (a->captured || b->captured) return fail(cudaErrorCapturedEvent);
  if (!a->recorded || !b->recorded) return fail(cudaErrorInvalidResourceHandle);
  if (a->timed_ticket != a->recorded || b->timed_ticket != b->recorded) {
    session()->log.flush();
    return session()->log.lost() ? fail(session_error()) : cudaErrorNotReady;
  }
  *milliseconds = static_cast<float>((static_cast<double>(b->nanoseconds) - static_cast<double>(a->nanoseconds)) / 1e6);
  return cudaSuccess;
}

// Exported: what a profiler asks CUPTI for, so that torch.profiler (Kineto) works as on a GPU: activity records with the server's times, and
// subscriptions to a context's life. A record is laid out as CUPTI's own headers say. What is recorded is in shadow/activity.
#include <cstring>

#include "interpose/shadow/activity.hpp"
#include "interpose/shadow/error.hpp"

using namespace djinn;

namespace {

CUptiResult absent(const char* function, const char* why) {
  say_absent(function, why);
  return CUPTI_ERROR_NOT_SUPPORTED;
}

// 0: no kind that is recorded.
size_t record_bytes(CUpti_ActivityKind kind) {
  switch (kind) {
    case CUPTI_ACTIVITY_KIND_MEMCPY: return sizeof(CUpti_ActivityMemcpy6);
    case CUPTI_ACTIVITY_KIND_MEMSET: return sizeof(CUpti_ActivityMemset4);
    case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL: return sizeof(CUpti_ActivityKernel10);
    case CUPTI_ACTIVITY_KIND_RUNTIME: return sizeof(CUpti_ActivityAPI);
    case CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION: return sizeof(CUpti_ActivityExternalCorrelation);
    default: return 0;
  }
}

CUptiResult change(CUpti_ActivityKind kind, bool on) {
  CUptiResult r = activity::enable(kind, on);
  if (r == CUPTI_ERROR_NOT_COMPATIBLE && on)
    say_absent("cuptiActivityEnable", "activity of a kind other than kernels, copies, fills and runtime calls");
  return r;
}

bool external_kind(CUpti_ExternalCorrelationKind k) {
  return k > CUPTI_EXTERNAL_CORRELATION_KIND_INVALID && k < CUPTI_EXTERNAL_CORRELATION_KIND_SIZE;
}

// The one subscriber. Nothing that it can be told happens here: the contexts are made before, and calls are not intercepted for others.
int subscribed;
CUpti_SubscriberHandle subscriber() { return reinterpret_cast<CUpti_SubscriberHandle>(&subscribed); }

}  // namespace

// ---- activity ----
DJINN_EXPORT CUptiResult cuptiActivityRegisterCallbacks(CUpti_BuffersCallbackRequestFunc request, CUpti_BuffersCallbackCompleteFunc complete) {
  if (!request || !complete) return CUPTI_ERROR_INVALID_PARAMETER;
  activity::set_buffers(request, complete);
  return CUPTI_SUCCESS;
}
DJINN_EXPORT CUptiResult cuptiActivityRegisterTimestampCallback(CUpti_TimestampCallbackFunc f) {
  activity::set_clock(f);
  return CUPTI_SUCCESS;
}
DJINN_EXPORT CUptiResult cuptiGetTimestamp(uint64_t* timestamp) {
  if (!timestamp) return CUPTI_ERROR_INVALID_PARAMETER;
  *timestamp = activity::now();
  return CUPTI_SUCCESS;
}
DJINN_EXPORT CUptiResult cuptiActivityEnable(CUpti_ActivityKind kind) { return change(kind, true); }
DJINN_EXPORT CUptiResult cuptiActivityDisable(CUpti_ActivityKind kind) { return change(kind, false); }
DJINN_EXPORT CUptiResult cuptiActivityEnableRuntimeApi(CUpti_CallbackId cbid, uint8_t on) { return activity::enable_call(cbid, on); }
// The driver's calls are not traced, which is what switching one off asks for.
DJINN_EXPORT CUptiResult cuptiActivityEnableDriverApi(CUpti_CallbackId, uint8_t on) {
  return on ? absent("cuptiActivityEnableDriverApi", "calls of the driver are not traced") : CUPTI_SUCCESS;
}
DJINN_EXPORT CUptiResult cuptiActivityEnableCudaEventDeviceTimestamps(uint8_t on) {
  return on ? absent("cuptiActivityEnableCudaEventDeviceTimestamps", "records of events are not built yet") : CUPTI_SUCCESS;
}
// They tune buffers on the device, and ours are not there.
DJINN_EXPORT CUptiResult cuptiActivitySetAttribute(CUpti_ActivityAttribute, size_t* size, void* value) {
  return size && value ? CUPTI_SUCCESS : CUPTI_ERROR_INVALID_PARAMETER;
}
DJINN_EXPORT CUptiResult cuptiActivityFlushAll(uint32_t flags) { return activity::flush(flags & CUPTI_ACTIVITY_FLAG_FLUSH_FORCED); }
DJINN_EXPORT CUptiResult cuptiActivityGetNumDroppedRecords(CUcontext, uint32_t, size_t* dropped) {
  if (!dropped) return CUPTI_ERROR_INVALID_PARAMETER;
  *dropped = activity::take_dropped();
  return CUPTI_SUCCESS;
}
DJINN_EXPORT CUptiResult cuptiActivityGetNextRecord(uint8_t* buffer, size_t valid, CUpti_Activity** record) {
  if (!buffer || !record) return CUPTI_ERROR_INVALID_PARAMETER;
  uint8_t* next = buffer;
  if (*record) {
    size_t bytes = record_bytes((*record)->kind);
    if (!bytes) return CUPTI_ERROR_INVALID_KIND;
    next = reinterpret_cast<uint8_t*>(*record) + bytes;
  }
  if (next < buffer || next >= buffer + valid) return CUPTI_ERROR_MAX_LIMIT_REACHED;
  auto* found = reinterpret_cast<CUpti_Activity*>(next);
  size_t bytes = record_bytes(found->kind);
  if (!bytes || bytes > static_cast<size_t>(buffer + valid - next)) return CUPTI_ERROR_INVALID_KIND;
  *record = found;
  return CUPTI_SUCCESS;
}
DJINN_EXPORT CUptiResult cuptiActivityPushExternalCorrelationId(CUpti_ExternalCorrelationKind kind, uint64_t id) {
  if (!external_kind(kind)) return CUPTI_ERROR_INVALID_PARAMETER;
  activity::push_external(kind, id);
  return CUPTI_SUCCESS;
}
DJINN_EXPORT CUptiResult cuptiActivityPopExternalCorrelationId(CUpti_ExternalCorrelationKind kind, uint64_t* last) {
  if (!external_kind(kind)) return CUPTI_ERROR_INVALID_PARAMETER;
  return activity::pop_external(kind, last) ? CUPTI_SUCCESS : CUPTI_ERROR_QUEUE_EMPTY;
}
DJINN_EXPORT CUptiResult cuptiFinalize(void) {
  for (auto kind : {CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMSET, CUPTI_ACTIVITY_KIND_KERNEL, CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL,
                    CUPTI_ACTIVITY_KIND_RUNTIME, CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION, CUPTI_ACTIVITY_KIND_DRIVER, CUPTI_ACTIVITY_KIND_OVERHEAD})
    if (activity::profiling()) activity::enable(kind, false);
  return CUPTI_SUCCESS;
}

// ---- subscriptions ----
DJINN_EXPORT CUptiResult cuptiSubscribe(CUpti_SubscriberHandle* handle, CUpti_CallbackFunc callback, void*) {
  if (!handle || !callback) return CUPTI_ERROR_INVALID_PARAMETER;
  if (subscribed) return CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED;
  subscribed = 1;
  *handle = subscriber();
  return CUPTI_SUCCESS;
}
DJINN_EXPORT CUptiResult cuptiUnsubscribe(CUpti_SubscriberHandle handle) {
  if (handle != subscriber() || !subscribed) return CUPTI_ERROR_INVALID_PARAMETER;
  subscribed = 0;
  return CUPTI_SUCCESS;
}
// Contexts come and go before a profiler can ask, and never again: being told of them costs nothing.
DJINN_EXPORT CUptiResult cuptiEnableCallback(uint32_t on, CUpti_SubscriberHandle handle, CUpti_CallbackDomain domain, CUpti_CallbackId) {
  if (handle != subscriber() || !subscribed) return CUPTI_ERROR_INVALID_PARAMETER;
  return !on || domain == CUPTI_CB_DOMAIN_RESOURCE ? CUPTI_SUCCESS : absent("cuptiEnableCallback", "calls are recorded, not announced");
}
DJINN_EXPORT CUptiResult cuptiEnableDomain(uint32_t on, CUpti_SubscriberHandle handle, CUpti_CallbackDomain domain) {
  return cuptiEnableCallback(on, handle, domain, 0);
}

// ---- words ----
DJINN_EXPORT CUptiResult cuptiGetVersion(uint32_t* version) {
  if (!version) return CUPTI_ERROR_INVALID_PARAMETER;
  *version = CUPTI_API_VERSION;
  return CUPTI_SUCCESS;
}
DJINN_EXPORT CUptiResult cuptiGetCallbackName(CUpti_CallbackDomain domain, uint32_t cbid, const char** name) {
  if (!name) return CUPTI_ERROR_INVALID_PARAMETER;
  *name = domain == CUPTI_CB_DOMAIN_RUNTIME_API ? activity::name_of_call(cbid) : nullptr;
  return *name ? CUPTI_SUCCESS : CUPTI_ERROR_INVALID_PARAMETER;
}
DJINN_EXPORT CUptiResult cuptiGetResultString(CUptiResult result, const char** text) {
  if (!text) return CUPTI_ERROR_INVALID_PARAMETER;
  switch (result) {
    case CUPTI_SUCCESS: *text = "CUPTI_SUCCESS"; break;
    case CUPTI_ERROR_INVALID_PARAMETER: *text = "CUPTI_ERROR_INVALID_PARAMETER"; break;
    case CUPTI_ERROR_MAX_LIMIT_REACHED: *text = "CUPTI_ERROR_MAX_LIMIT_REACHED"; break;
    case CUPTI_ERROR_NOT_COMPATIBLE: *text = "CUPTI_ERROR_NOT_COMPATIBLE"; break;
    case CUPTI_ERROR_NOT_INITIALIZED: *text = "CUPTI_ERROR_NOT_INITIALIZED"; break;
    case CUPTI_ERROR_QUEUE_EMPTY: *text = "CUPTI_ERROR_QUEUE_EMPTY"; break;
    case CUPTI_ERROR_INVALID_KIND: *text = "CUPTI_ERROR_INVALID_KIND"; break;
    case CUPTI_ERROR_NOT_SUPPORTED: *text = "CUPTI_ERROR_NOT_SUPPORTED: Djinn does not have it"; break;
    case CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED: *text = "CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED"; break;
    case CUPTI_ERROR_UNKNOWN: *text = "CUPTI_ERROR_UNKNOWN"; break;
    default: *text = "a CUPTI error that Djinn does not give"; break;
  }
  return CUPTI_SUCCESS;
}

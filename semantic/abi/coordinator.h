/* libdjinn_coordinator.so for C and for ctypes (hooks/python/djinn/core): operators by name on a server, results that stay there under handles.
 * What the calls mean is said in hooks/coordinator/coordinator.hpp. Thread-safe; no exception crosses; every wait has an end. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

#define DJINN_COORDINATOR_VERSION 1
typedef struct djinn_coordinator djinn_coordinator;
typedef struct djinn_remote djinn_remote;   /* a handle; released by who got it */
typedef struct djinn_results djinn_results; /* what a call gave */

enum djinn_value_kind {
  DJINN_NONE = 0,
  DJINN_BOOL = 1,    /* integer */
  DJINN_INT = 2,     /* integer; a dtype is its c10::ScalarType number */
  DJINN_REAL = 3,    /* real */
  DJINN_COMPLEX = 4, /* real, imaginary */
  DJINN_STRING = 5,  /* data, count bytes; no operator gives one */
  DJINN_DEVICE = 6,
  DJINN_HOST = 7,   /* data, dtype, count dimensions, sizes, strides (in elements) */
  DJINN_REMOTE = 8, /* remote */
  DJINN_LIST = 9    /* list, count elements */
};
typedef struct djinn_value {
  uint32_t kind, dtype;
  int64_t integer;
  double real, imaginary;
  const void* data;
  uint64_t count;
  const int64_t *sizes, *strides;
  const struct djinn_value* list;
  djinn_remote* remote;
} djinn_value;

enum djinn_failure_kind { DJINN_OK = 0, DJINN_OPERATION_FAILED = 1, DJINN_UNREACHABLE = 2, DJINN_DEAD_HANDLE = 3 };
typedef struct djinn_failure { /* text that is too long is cut */
  uint32_t kind;
  char op[256], target[512], reason[4096];
} djinn_failure;

#define DJINN_CACHE_OFF UINT64_MAX        /* cached_input_bytes: no input is kept */
typedef struct djinn_coordinator_config { /* 0 and null: the default */
  const char* node_id;
  uint64_t open_patience_ms, call_patience_ms, idle_ms, cached_input_bytes;
  const char *link_library, *emulate;
} djinn_coordinator_config;

typedef struct djinn_coordinator_stats {
  uint64_t sessions_opened, operations, round_trips, messages_sent, bytes_sent, messages_received, bytes_received;
  uint64_t inputs_sent, input_bytes_sent, inputs_reused, results_fetched, result_bytes_fetched, connected;
} djinn_coordinator_stats;

typedef struct djinn_remote_info { /* pointers live as long as the handle */
  uint32_t dtype, conjugate, negative, rank;
  const int64_t* sizes;
  uint64_t elements, version;
  const char* target;
} djinn_remote_info;

uint32_t djinn_coordinator_version(void);
djinn_coordinator* djinn_coordinator_make(const djinn_coordinator_config*, djinn_failure*);
void djinn_coordinator_close(djinn_coordinator*); /* its handles are dead; it can be asked for statistics still */
void djinn_coordinator_release(djinn_coordinator*);
/* 1 or 0 and the failure. */
int djinn_coordinator_connect(djinn_coordinator*, const char* target, djinn_failure*);
void djinn_coordinator_statistics(djinn_coordinator*, const char* target, djinn_coordinator_stats*);
/* `names` and the last `keywords` values of `values` belong together. Null and the failure, or results. */
djinn_results* djinn_coordinator_call(djinn_coordinator*, const char* op, const char* target, const djinn_value* values, size_t count,
                                      const char* const* names, size_t keywords, djinn_failure*);
const djinn_value* djinn_results_values(const djinn_results*, size_t* count); /* valid until released, its handles too */
void djinn_results_release(djinn_results*);

djinn_remote* djinn_remote_copy(const djinn_remote*); /* null: out of memory */
void djinn_remote_release(djinn_remote*);             /* may wait for the server, like the last copy in coordinator.hpp */
void djinn_remote_describe(const djinn_remote*, djinn_remote_info*);
/* Row-major numbers, `bytes` = elements × item size. 1, or 0 and the failure. */
int djinn_remote_fetch(const djinn_remote*, void* to, size_t bytes, djinn_failure*);

#ifdef __cplusplus
}
#endif

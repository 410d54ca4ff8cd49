/* Between a worker of djinn-gpu-server and libdjinn_aten.so (one build per torch minor version, dlopened RTLD_LOCAL): executes op records with
 * libtorch on the session's memory. C, no exception crosses. One executor thread calls all of it, in ticket order. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

#define DJINN_EXECUTOR_VERSION 2

typedef struct djinn_executor_host {
  uint32_t version, size;
  void* session;
  /* Is [address, address + bytes) inside live memory of the session? `epoch` changes whenever memory is unmapped, so that checks can be cached. */
  int (*memory_live)(void* session, uint64_t address, uint64_t bytes);
  uint64_t (*memory_epoch)(void* session);
  uint64_t range_address, range_size; /* the session's whole range */
  void (*log)(void* session, int level, const char* text);
  /* As the session's device reports them: the launch grids that random numbers depend on follow from these. Since version 2. */
  uint32_t multiprocessors, threads_per_multiprocessor;
} djinn_executor_host;

typedef struct djinn_executor_result {
  int code;              /* cudaError_t, 0 = success */
  uint32_t error_class;  /* wire::ErrorClass */
  const char* operation; /* "aten::embedding"; valid until the next call */
  const char* text;
  const void* reply; /* op_query: reply payload, valid until the next call */
  size_t reply_size;
} djinn_executor_result;

typedef struct djinn_executor {
  uint32_t version, size;
  const char* torch; /* "2.14.1" */
  /* Names the executor can run, "aten::add.Tensor", sorted. Called once, before any session. */
  const char* const* (*ops)(size_t* count);
  void* (*open)(const djinn_executor_host* host, int threads);
  /* opcode is one of op_define … op_drop, op_call. Malformed payloads give code cudaErrorInvalidValue with class refused and text naming what is
   * wrong. */
  void (*execute)(void* self, uint32_t opcode, uint64_t ticket, const void* payload, size_t size, djinn_executor_result* result);
  void (*set_threads)(void* self, int threads);
  /* Memory range is gone: forget what refers to it. */
  void (*close)(void* self);
  /* CUDA graphs. Keeps an op_run record, checked as if it were run, with the tensor descriptions that it names: later definitions do not touch it.
   * The ops of a graph count from 0. A graph exists from its first op until it is dropped. */
  void (*graph_add)(void* self, uint64_t graph, const void* payload, size_t size, djinn_executor_result* result);
  void (*graph_run)(void* self, uint64_t graph, uint64_t index, djinn_executor_result* result);
  void (*graph_drop)(void* self, uint64_t graph);
} djinn_executor;

/* `op_library`: ':'-separated shared objects with more ops, may be null. Returns null and fills error. */
const djinn_executor* djinn_executor_load(const char* op_library, char* error, size_t error_size);
typedef const djinn_executor* (*djinn_executor_load_fn)(const char*, char*, size_t);

#ifdef __cplusplus
}
#endif

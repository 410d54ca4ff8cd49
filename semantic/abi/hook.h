/* Between libdjinn.so and libdjinn_torch.so: C, so that the two may carry different C++ runtimes. libdjinn.so dlopens the hook RTLD_LOCAL inside
 * the first CUDA call when libtorch_cuda is in the process, and calls djinn_torch_start with this table. All functions may be called from any
 * thread, none throws. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

#define DJINN_HOOK_VERSION 6

/* One per thread. While depth > 0 every entry point of libdjinn.so drops device work (launch, fill, H2D and D2D copies, void library calls), and
 * fails what would hand a device value to the host, setting `abort` and `why`. The hook resets abort before it enters and reads it after. */
typedef struct djinn_scope {
  int depth;
  int abort;
  const char* why;  /* name of the function that asked for a device value */
  uint64_t dropped; /* device work dropped in this scope, for statistics */
  uint32_t id;      /* non-zero with --check: calls are forwarded with kFlagScoped instead of dropped */
  const char* op;   /* "aten::mm", for messages */
  uint32_t module;  /* number of the path of the program's module that is being called, from host->module; 0: not known */
  /* At call level: what the calls of this thread are part of, told to the server before the next one (wire::MeaningOp). annotation: number of the op
   * + 1, 0 = no op; run: which run of it, no two alike. */
  uint32_t annotation, run, context, step;
  uint32_t line;  /* from host->line: of what this thread posts in a thread that has no Python of its own (autograd's); 0: not known */
  uint32_t label; /* number of what the program itself calls what it is doing (djinn_phase_begin), a text as a module's path is; 0: nothing */
} djinn_scope;

typedef struct djinn_span {
  const void* data;
  size_t size;
} djinn_span;

typedef struct djinn_reply {
  int status;       /* cudaError_t of the command: 0 = success */
  const void* data; /* reply payload after wire::Reply, valid until release */
  size_t size;
  const djinn_span* bulk;
  size_t bulk_count;
  const char* error; /* text when status != 0: operation and reason */
  void* owner;
} djinn_reply;

typedef struct djinn_hook_host {
  uint32_t version, size;
  djinn_scope* (*scope)(void);
  /* 1: ops are executed by the server (op level); 0: call level, the scope only annotates */
  int (*op_level)(void);
  int (*checks)(void);
  /* Names "aten::add.Tensor" that the server executes; sorted; lives as long as the process. */
  const char* const* (*ops)(size_t* count);
  /* Posts one record (payload a multiple of 8 bytes). Returns its ticket, 0 when the session is lost (the error is latched). May block on credit. */
  uint64_t (*post)(uint32_t opcode, uint16_t flags, const void* payload, size_t size);
  /* Posts several records so that no other thread's record comes between them. */
  uint64_t (*post_many)(size_t count, const uint32_t* opcodes, const djinn_span* payloads);
  /* A round trip: flushes, waits for the reply. Returns reply->status. The caller releases the reply. */
  int (*call)(uint32_t opcode, uint16_t flags, const void* payload, size_t size, djinn_reply* reply);
  void (*release)(djinn_reply*);
  /* Statistics of the final line. */
  void (*count_op)(int cache_hit, int aborted, int server_first);
  /* `DJINN_PERF` names, e.g. "shape_cache": 1 unless "no_shape_cache" is given. Unknown names were refused at start. */
  int (*perf)(const char* name);
  /* Writes one line to stderr in Djinn's form, at level 0 error 1 warning 2 info 3 debug. */
  void (*log)(int level, const char* text);
  int (*stream_capturing)(void* stream);
  /* With CUDA_LAUNCH_BLOCKING=1: waits until everything posted has been executed; an error that has arrived is delivered here: its code, and `text`
   * is filled with what CUDA would say of it. Else 0 at once. The hook asks after each op that it posts, so that the error names the op's own line.
   */
  int (*blocking_error)(char* text, size_t size);
  /* How many stream captures (CUDA graphs) are under way in the process: while it is 0, which a relaxed load tells, no stream needs to be asked. */
  const int* captures;
  /* While captures are under way: posts an op of this stream, or makes it a node of the stream's graph (`recorded`: it has not been executed).
   * Returns a cudaError_t: of the session, or of the capture. */
  int (*post_op)(void* stream, const void* payload, size_t size, int* recorded);
  /* A sticky error that has arrived, as every launch returns it; else 0. Asked before each op is posted. */
  int (*sticky_error)(char* text, size_t size);
  /* A number for a module's path ("transformer.h.3.attn"), the same each time; 0 when there are too many. */
  uint32_t (*module)(const char* path);
  /* The path, or label, of a number; "" for 0. Valid as long as the process. */
  const char* (*text)(uint32_t number);
  /* 1: what ops are part of is told to the server (DJINN_MEANING). */
  int (*meaning)(void);
  /* The number of the line of the program's Python that this thread is at; 0: not known. It may ask the interpreter: no lock may be held. */
  uint32_t (*line)(void);
} djinn_hook_host;

/* In libdjinn_torch.so. Returns 0, or fills `error` with one sentence. */
int djinn_torch_start(const djinn_hook_host* host, char* error, size_t error_size);
/* "2.14": the minor version this hook was built for; readable before start. */
const char* djinn_torch_version(void);
typedef int (*djinn_torch_start_fn)(const djinn_hook_host*, char*, size_t);
typedef const char* (*djinn_torch_version_fn)(void);

#ifdef __cplusplus
}
#endif

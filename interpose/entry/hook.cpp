// The table that the framework's hook works with (semantic/abi/hook.h), and the loading of the hook: inside cudaGetDeviceCount, which PyTorch asks
// before anything else, when libtorch_cuda is in the process, RTLD_LOCAL from our own folder, the build for its minor version. No such hook, or one
// that cannot be loaded, is said in one sentence; the program then runs at call level, which the CPU device refuses by name.
#include <dlfcn.h>
#include <glob.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <mutex>

#include "interpose/batch/configuration.hpp"
#include "interpose/batch/counters.hpp"
#include "interpose/batch/session.hpp"
#include "interpose/encode/graph.hpp"
#include "interpose/entry/hook_host.hpp"
#include "interpose/shadow/error.hpp"
#include "interpose/shadow/error_line.hpp"
#include "interpose/shadow/module_path.hpp"
#include "interpose/shadow/recorder.hpp"

namespace djinn {

namespace {

struct OwnedReply {
  Reply reply;
  std::vector<djinn_span> bulk;
};

int call_for_hook(uint32_t opcode, uint16_t flags, const void* payload, size_t size, djinn_reply* out) {
  auto* owned = new OwnedReply;
  owned->reply = call(opcode, flags, {static_cast<const std::byte*>(payload), size});
  for (auto& b : owned->reply.bulk) owned->bulk.push_back({b.data(), b.size()});
  const Reply& r = owned->reply;
  *out = {r.status, r.payload.data(), r.payload.size(), owned->bulk.data(), owned->bulk.size(), r.error.c_str(), owned};
  return r.status;
}

int blocking_error(char* text, size_t size) {
  auto* s = session();
  if (!s || !configuration().blocking) return 0;
  recorder::Entry entry("CUDA_LAUNCH_BLOCKING");
  s->log.wait_executed(s->log.last());
  cudaError_t e = take_async_error();
  if (e) snprintf(text, size, "%s", error_string(e));
  return e;
}

int sticky_error_for_hook(char* text, size_t size) {
  cudaError_t e = sticky_error();
  if (e) snprintf(text, size, "%s", error_string(e));
  return e;
}

int stream_capturing(void* stream) {
  CaptureInfo info;
  return capturing() && capture_info(reinterpret_cast<uint64_t>(stream), info) == cudaSuccess && info.status != cudaStreamCaptureStatusNone;
}

int post_op(void* stream, const void* payload, size_t size, int* recorded) {
  bool captured = false;
  cudaError_t e = post_or_capture(reinterpret_cast<uint64_t>(stream), cudaGraphNodeTypeKernel, static_cast<uint32_t>(wire::Opcode::op_run),
                                  {static_cast<const std::byte*>(payload), size}, captured);
  *recorded = captured;
  return fail(e);
}

// C reads the number as an int.
static_assert(sizeof captures == sizeof(int) && std::atomic<int>::is_always_lock_free);

const djinn_hook_host kHost = {
    DJINN_HOOK_VERSION,
    sizeof(djinn_hook_host),
    [] { return &scope(); },
    [] { return static_cast<int>(op_level()); },
    [] { return static_cast<int>(checking()); },
    [](size_t* n) -> const char* const* {
      auto* s = session();
      *n = s ? s->opened.op_count : 0;
      return s ? s->opened.ops : nullptr;
    },
    [](uint32_t opcode, uint16_t flags, const void* payload, size_t size) -> uint64_t {
      return post(opcode, flags, {static_cast<const std::byte*>(payload), size});
    },
    [](size_t n, const uint32_t* opcodes, const djinn_span* payloads) -> uint64_t {
      auto* s = session();
      return s ? s->log.post_many(n, opcodes, payloads) : 0;
    },
    call_for_hook,
    [](djinn_reply* r) {
      delete static_cast<OwnedReply*>(r->owner);
      r->owner = nullptr;
    },
    [](int hit, int aborted, int server_first) {
      Counters& c = counters();
      count(c.ops);
      if (hit) count(c.cache_hits);
      if (aborted) count(c.aborted);
      if (aborted && recorder::recording()) recorder::aborted();
      if (server_first) count(c.server_first);
    },
    [](const char* name) { return static_cast<int>(perf(name)); },
    [](int level, const char* text) { say(static_cast<Level>(level), "%s", text); },
    stream_capturing,
    blocking_error,
    reinterpret_cast<const int*>(&captures),
    post_op,
    sticky_error_for_hook,
    module_number,
    module_path,
    [] { return static_cast<int>(configuration().meaning); },
    error_line::here,
};

}  // namespace

// What the process's maps know of libtorch, without touching it.
TorchInProcess torch_in_process() {
  TorchInProcess t;
  void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  if (!library) return t;
  if (FILE* maps = fopen("/proc/self/maps", "r")) {
    char line[4096];
    while (t.directory.empty() && fgets(line, sizeof line, maps))
      if (char* path = strchr(line, '/'))
        if (char* name = strstr(path, "/lib/libtorch_cuda.so")) t.directory.assign(path, static_cast<size_t>(name - path));
    fclose(maps);
  }
  dlclose(library);
  if (FILE* version = fopen((t.directory + "/version.py").c_str(), "r")) {
    char line[256], value[64];
    while (fgets(line, sizeof line, version))
      if (sscanf(line, "__version__ = '%63[^']'", value) == 1) t.version = value;
    fclose(version);
  }
  return t;
}

static std::string minor_of(const std::string& version) { return version.substr(0, version.find('.', version.find('.') + 1)); }

// "2.14, 2.15": what lies beside us.
static std::string hooks_here() {
  std::string all;
  glob_t found{};
  glob((own_folder() + "/libdjinn_torch-*.so").c_str(), 0, nullptr, &found);
  for (size_t i = 0; i < found.gl_pathc; i++) {
    std::string path = found.gl_pathv[i], name = path.substr(path.rfind('-') + 1);
    all += (all.empty() ? "" : ", ") + name.substr(0, name.size() - strlen(".so"));
  }
  globfree(&found);
  return all.empty() ? "none" : all;
}

void load_hook() {
  static std::mutex mutex;
  static bool loaded = false;
  std::lock_guard lock(mutex);
  if (loaded) return;
  void* torch = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  if (!torch) return;  // later, when it is there
  dlclose(torch);
  loaded = true;
  if (!op_level() && !checking() && !configuration().meaning) return;
  std::string here = torch_in_process().version, path = own_folder() + "/libdjinn_torch-" + minor_of(here) + ".so";
  // lazily: against another torch some symbols are missing, and the version must still be readable
  void* library = dlopen(path.c_str(), RTLD_LAZY | RTLD_LOCAL);
  auto built_for = library ? reinterpret_cast<djinn_torch_version_fn>(dlsym(library, "djinn_torch_version")) : nullptr;
  auto start = library ? reinterpret_cast<djinn_torch_start_fn>(dlsym(library, "djinn_torch_start")) : nullptr;
  const char* without_it = op_level() ? "ops cannot be forwarded" : "what ops are part of is not told";
  char error[1024] = "";
  if (access(path.c_str(), R_OK) != 0)
    snprintf(error, sizeof error, "this process has torch %s, this build has hooks for torch %s: %s", here.c_str(), hooks_here().c_str(), without_it);
  else if (!library) snprintf(error, sizeof error, "the PyTorch hook cannot be loaded: %s", dlerror());
  else if (!start || !built_for) snprintf(error, sizeof error, "%s is not Djinn's PyTorch hook", path.c_str());
  else if (built_for() != minor_of(here))
    snprintf(error, sizeof error, "the PyTorch hook was built for torch %s, this process has torch %s: %s", built_for(), here.c_str(), without_it);
  if (error[0] || start(&kHost, error, sizeof error)) say(Level::error, "%s", error);
}

}  // namespace djinn

DJINN_EXPORT const djinn_hook_host* djinn_hook_host_get(void) { return &djinn::kHost; }

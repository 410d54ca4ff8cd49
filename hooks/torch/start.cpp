// libdjinn_torch-MINOR.so's entry point: refuse another torch, wrap every device kernel of every namespace. Libraries that are loaded later register
// more: the dispatcher says so, and the next op wraps them. Registering takes some milliseconds, when the program first asks for devices, and
// silences the dispatcher's warning about overriding kernels.
#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <torch/csrc/jit/codegen/fuser/interface.h>

#include <cstdio>
#include <mutex>
#include <unordered_set>
#include <vector>

#include "hooks/python/module_path.hpp"
#include "hooks/torch/classify.hpp"
#include "hooks/torch/host.hpp"
#include "hooks/torch/meaning.hpp"
#include "hooks/torch/scope.hpp"

namespace djinn::hook {

namespace {

struct Quiet : c10::WarningHandler {
  void process(const c10::Warning&) override {}
};

struct Registry {  // never destroyed: kernels are called until the process is gone
  std::mutex mutex;
  std::unordered_set<std::string> wrapped;  // others may get a schema or a kernel later
  std::vector<c10::RegistrationHandleRAII> handles;
  uint32_t next_id = 0;
  std::vector<c10::RegistrationHandleRAII> listening;
};
Registry& registry() {
  static Registry* r = new Registry;
  return *r;
}

// A kernel of ours at this key: the explicit one, or for core ops a composite one that would otherwise be decomposed on the client.
bool does_device_work(const c10::OperatorHandle& op, c10::DispatchKey key, const std::string& name) {
  if (op.hasKernelForDispatchKey(key)) return true;
  return key == c10::DispatchKey::CUDA && name.rfind("aten::", 0) == 0 &&
         (op.hasKernelForDispatchKey(c10::DispatchKey::CompositeExplicitAutograd) ||
          op.hasKernelForDispatchKey(c10::DispatchKey::CompositeExplicitAutogradNonFunctional));
}

void wrap(const c10::OperatorName& name) {
  auto& dispatcher = c10::Dispatcher::singleton();
  auto op = dispatcher.findSchema(name);
  if (!op) return;
  for (auto key : device_keys()) {
    if (!does_device_work(*op, key, name.name) || !op->hasComputedKernelForDispatchKey(key)) continue;
    auto original = op->getComputedKernelForDispatchKey(key);
    auto what = host->op_level() ? classify(*op, key, original) : classify_call(*op, key, original);
    if (!what) continue;
    TORCH_CHECK(registry().next_id < wire::kOpIdsMax, "more operators than the wire has ids for");
    what->id = registry().next_id++;
    auto make = host->op_level() ? make_scope : make_annotation;
    registry().wrapped.insert(c10::toString(name));
    registry().handles.push_back(dispatcher.registerImpl(name, key, make(std::move(original), std::move(what)), std::nullopt, nullptr, "djinn"));
  }
}

// At the start one that cannot be wrapped ends it all; later the program is under way, and goes on without that one.
void wrap_newcomer(const c10::OperatorName& name) try { wrap(name); } catch (const std::exception& e) {
  registry().wrapped.insert(c10::toString(name));  // said once
  host->log(1, ("the operator " + c10::toString(name) + " is not followed: " + e.what()).c_str());
}

// Half of the operators wrapped would be worse than none.
void unwrap_all() {
  std::lock_guard lock(registry().mutex);
  registry().handles.clear();
  registry().listening.clear();
  registry().wrapped.clear();
}

// Outside every operator PyTorch asks whether cuDNN would take its recurrent layers, and would then call it directly; "no" makes them programs of
// ops.
struct CudnnIsNotAcceptable final : c10::OperatorKernel {
  void operator()(const c10::OperatorHandle&, c10::DispatchKeySet, torch::jit::Stack* stack) {
    stack->pop_back();
    stack->push_back(false);
  }
};
void decline_cudnn() {
  registry().handles.push_back(c10::Dispatcher::singleton().registerImpl(
      {"aten::cudnn_is_acceptable", ""}, c10::DispatchKey::CUDA, c10::KernelFunction::makeFromBoxedFunctor(std::make_unique<CudnnIsNotAcceptable>()),
      std::nullopt, nullptr, "djinn"));
}

// TorchScript's fuser has NVRTC make machine code of several ops at once, which nothing here could run; unfused they are ops as any other.
void decline_fusion() { torch::jit::overrideCanFuseOnGPU(false); }

struct Newcomers final : c10::OpRegistrationListener {
  void onOperatorRegistered(const c10::OperatorHandle&) override { newcomers.store(true, std::memory_order_relaxed); }
  void onOperatorDeregistered(const c10::OperatorHandle&) override {}
};

}  // namespace

void scan() {
  std::lock_guard lock(registry().mutex);
  bool first = registry().listening.empty();
  if (first) registry().listening.push_back(c10::Dispatcher::singleton().addRegistrationListener(std::make_unique<Newcomers>()));
  newcomers.store(false, std::memory_order_relaxed);
  Quiet quiet;
  c10::WarningUtils::WarningHandlerGuard guard(&quiet);
  if (host->op_level() && first) decline_cudnn(), decline_fusion();
  for (auto& name : c10::Dispatcher::singleton().getAllOpNames())
    if (!registry().wrapped.count(c10::toString(name))) first ? wrap(name) : wrap_newcomer(name);
}

}  // namespace djinn::hook

#define DJINN_HOOK_EXPORT extern "C" __attribute__((visibility("default")))

DJINN_HOOK_EXPORT const char* djinn_torch_version(void) { return DJINN_TORCH_MINOR; }

DJINN_HOOK_EXPORT int djinn_torch_start(const djinn_hook_host* table, char* error, size_t size) try {
  if (table->version != DJINN_HOOK_VERSION || table->size != sizeof(djinn_hook_host)) {
    std::snprintf(error, size, "the PyTorch hook and libdjinn.so are of different builds");
    return 1;
  }
  djinn::hook::host = table;
  djinn::hook::meaning::start();
  if (table->op_level() || djinn::hook::meaning::on()) djinn::hook::scan();
  djinn::hook::track_modules();
  return 0;
} catch (const std::exception& e) {
  djinn::hook::unwrap_all();
  std::snprintf(error, size, "the PyTorch hook could not start: %s", e.what());
  return 1;
}

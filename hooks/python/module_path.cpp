// See module_path.hpp. Python's functions are found in the process: nothing here is built for a version of it, all but one are of its stable ABI.
#include "hooks/python/module_path.hpp"

#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "hooks/torch/host.hpp"
#include "hooks/torch/meaning.hpp"
#include "hooks/torch/scope.hpp"
#include "semantic/abi/thread.hpp"

namespace djinn::hook {

namespace {

// ---- the interpreter ----

struct PyObject;
using Function = PyObject* (*)(PyObject*, PyObject*);
struct PyMethodDef {
  const char* name;
  Function function;
  int flags;
  const char* doc;
};
constexpr int kNoArguments = 4, kOneArgument = 8, kFileInput = 257;  // METH_NOARGS, METH_O, Py_file_input

struct Python {
  int (*AddPendingCall)(int (*)(void*), void*);
  PyObject* (*GetModuleDict)();
  PyObject* (*GetItemString)(PyObject*, const char*);
  int (*SetItemString)(PyObject*, const char*, PyObject*);
  PyObject* (*NewDict)();
  PyObject* (*GetBuiltins)();
  PyObject* (*Compile)(const char*, const char*, int);
  PyObject* (*Eval)(PyObject*, PyObject*, PyObject*);
  PyObject* (*NewFunction)(PyMethodDef*, PyObject*, PyObject*);
  PyObject* (*CallTwo)(PyObject*, ...);
  const char* (*Text)(PyObject*, ssize_t*);
  void* (*Address)(PyObject*);
  void (*IncRef)(PyObject*);
  void (*DecRef)(PyObject*);
  PyObject* (*Error)();
  void (*ClearError)();
  int (*IsInitialized)();
  int (*IsFinalizing)();
  int (*Ensure)();
  void (*Release)(int);
  PyObject* none;
  bool find() {
    auto get = [](auto& f, const char* name, const char* older = nullptr) {
      f = reinterpret_cast<std::decay_t<decltype(f)>>(dlsym(RTLD_DEFAULT, name));
      if (!f && older) f = reinterpret_cast<std::decay_t<decltype(f)>>(dlsym(RTLD_DEFAULT, older));
      return f != nullptr;
    };
    return get(AddPendingCall, "Py_AddPendingCall") && get(GetModuleDict, "PyImport_GetModuleDict") && get(GetItemString, "PyDict_GetItemString") &&
           get(SetItemString, "PyDict_SetItemString") && get(NewDict, "PyDict_New") && get(GetBuiltins, "PyEval_GetBuiltins") &&
           get(Compile, "Py_CompileString") && get(Eval, "PyEval_EvalCode") && get(NewFunction, "PyCFunction_New") &&
           get(CallTwo, "PyObject_CallFunctionObjArgs") && get(Text, "PyUnicode_AsUTF8AndSize") && get(Address, "PyLong_AsVoidPtr") &&
           get(IncRef, "Py_IncRef") && get(DecRef, "Py_DecRef") && get(Error, "PyErr_Occurred") && get(ClearError, "PyErr_Clear") &&
           get(IsInitialized, "Py_IsInitialized") && get(IsFinalizing, "Py_IsFinalizing", "_Py_IsFinalizing") && get(Ensure, "PyGILState_Ensure") &&
           get(Release, "PyGILState_Release") && get(none, "_Py_NoneStruct");
  }
  bool runs() const { return IsInitialized() && !IsFinalizing(); }
  PyObject* nothing() const { return IncRef(none), none; }
} python;

// In a forked child, which has no session: nothing is followed there, and no lock taken that another thread of the parent had.
bool in_child = false;

// ---- where this thread is ----

struct Place {
  uint32_t number;  // of the path, as the host counts them
  PyObject* module;
};
std::vector<Place>& places() {
  static thread_local std::vector<Place> p;
  return p;
}

// What a module was called when it was first called inside another, until it is destroyed: its address may then be another's.
struct Names {
  std::mutex mutex;
  std::unordered_map<PyObject*, std::vector<std::pair<uint32_t, uint32_t>>> of;  // module → (number of the outer, its number)
  std::unordered_map<uint32_t, std::string> prefixes;                            // of what is inside; none: the path begins there
  PyObject* name = nullptr;                                                      // the function below
};
Names& names() {
  static Names* n = new Names;
  return *n;
}

uint32_t known(uint32_t outer, PyObject* module) {
  std::lock_guard lock(names().mutex);
  if (auto i = names().of.find(module); i != names().of.end())
    for (auto [o, number] : i->second)
      if (o == outer) return number;
  return 0;
}

// Asks Python what the module is called inside the outer one. A module that is not of it begins a path of its own, with the name of its class. With
// an error set it is the program's own (an interrupt), which goes on. Once the host has no numbers left nobody is asked again.
uint32_t learn(const Place& outer, PyObject* module) {
  static std::atomic<bool> full{false};
  if (full.load(std::memory_order_relaxed)) return 0;
  PyObject* answer = python.CallTwo(names().name, outer.module ? outer.module : python.none, module, nullptr);
  if (!answer) return 0;
  const char* text = python.Text(answer, nullptr);
  if (!text) {
    python.ClearError();
    python.DecRef(answer);
    return 0;
  }
  bool inside = text[0] == '.';
  std::lock_guard lock(names().mutex);
  std::string prefix = inside ? names().prefixes[outer.number] : std::string();
  std::string path = inside ? (prefix.empty() ? text + 1 : prefix + text) : text;
  python.DecRef(answer);
  uint32_t number = host->module(path.c_str());
  if (!number) return full = true, 0;
  if (inside) names().prefixes[number] = path;
  names().of[module].emplace_back(outer.number, number);
  return number;
}

// Whatever comes of it, the stack has one more: Python calls leave() for each enter().
PyObject* enter(PyObject*, PyObject* module) {
  if (in_child) return python.nothing();
  auto& stack = places();
  Place outer = stack.empty() ? Place{0, nullptr} : stack.back();
  if (meaning::on()) meaning::enter_module();
  stack.push_back({0, module});
  uint32_t number = known(outer.number, module);
  if (!number) number = learn(outer, module);
  scope().module = stack.back().number = number;
  return python.Error() ? nullptr : python.nothing();
}

PyObject* leave(PyObject*, PyObject*) {
  if (in_child) return python.nothing();
  auto& stack = places();
  if (meaning::on()) meaning::leave_module();
  if (!stack.empty()) stack.pop_back();
  scope().module = stack.empty() ? 0 : stack.back().number;
  return python.nothing();
}

// By the address that Python calls id().
PyObject* forget(PyObject*, PyObject* id) {
  if (in_child) return python.nothing();
  if (const char* text = python.Text(id, nullptr)) {
    std::lock_guard lock(names().mutex);
    names().of.erase(reinterpret_cast<PyObject*>(std::strtoull(text, nullptr, 10)));
  } else {
    python.ClearError();
  }
  return python.nothing();
}

PyObject* step(PyObject*, PyObject*) {
  if (!in_child) meaning::enter_optimizer();
  return python.nothing();
}

PyObject* stepped(PyObject*, PyObject*) {
  if (!in_child) meaning::leave_optimizer();
  return python.nothing();
}

// The storage of a parameter or buffer, by its address.
PyObject* own(PyObject*, PyObject* storage) {
  if (in_child) return python.nothing();
  if (void* address = python.Address(storage)) meaning::own(static_cast<c10::StorageImpl*>(address));
  else python.ClearError();
  return python.nothing();
}

PyObject* wrap_newcomers(PyObject*, PyObject*) {
  if (!in_child && newcomers.load(std::memory_order_relaxed)) scan();
  return python.nothing();
}

PyMethodDef functions[] = {{"enter", enter, kOneArgument, nullptr},
                           {"leave", leave, kNoArguments, nullptr},
                           {"forget", forget, kOneArgument, nullptr},
                           {"step", step, kNoArguments, nullptr},
                           {"stepped", stepped, kNoArguments, nullptr},
                           {"own", own, kOneArgument, nullptr},
                           {"wrap_newcomers", wrap_newcomers, kNoArguments, nullptr}};

// Runs once, in a namespace of its own that holds these functions. A module's weights are named when it is first called, when they are moved or
// replaced (_apply, registration), so that a step costs nothing for them. enter() and step() stand inside of their try: an interrupt may come right
// after them. What is asked of tensors here is no business of the program's __torch_function__.
constexpr const char* kSource = R"(
import functools, weakref
import torch

def follow_modules(enter, leave, forget, weights):
    original, compiling, alive = torch.nn.Module.__call__, torch.compiler.is_dynamo_compiling, {}
    plain = original is torch.nn.Module._wrapped_call_impl

    def name(outer, module):
        key = id(module)

        def gone(_):
            alive.pop(key, None)
            forget(str(key))
        try:
            if key not in alive:
                alive[key] = weakref.ref(module, gone)
            weights(module)
            if outer is not None:
                for path, inner in outer.named_modules():
                    if inner is module and path:
                        return "." + path
        except Exception:  # a module with a mind of its own
            pass
        return type(module).__name__

    @functools.wraps(original)
    def call(self, *args, **kwargs):
        if compiling():
            return original(self, *args, **kwargs)
        try:
            enter(self)
            if plain and self._compiled_call_impl is None:  # what original does, without its frame
                return self._call_impl(*args, **kwargs)
            return original(self, *args, **kwargs)
        finally:
            leave()
    torch.nn.Module.__call__ = call
    return name

def follow_weights(own):
    def one(tensor):
        try:
            with torch._C.DisableTorchFunction():
                if tensor is not None and tensor.is_cuda:
                    own(tensor.untyped_storage()._cdata)
        except Exception:  # a subclass without storage
            pass

    def weights(module):
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            one(tensor)
    apply = torch.nn.Module._apply

    @functools.wraps(apply)
    def _apply(self, *args, **kwargs):
        result = apply(self, *args, **kwargs)
        weights(self)
        return result
    torch.nn.Module._apply = _apply
    registered = lambda module, name, tensor: one(tensor)
    torch.nn.modules.module.register_module_parameter_registration_hook(registered)
    torch.nn.modules.module.register_module_buffer_registration_hook(registered)
    return weights

def follow_optimizers(step, stepped):
    compiling, hook = torch.compiler.is_dynamo_compiling, torch.optim.Optimizer.profile_hook_step

    def surround(function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            if compiling():
                return function(*args, **kwargs)
            try:
                step()
                return function(*args, **kwargs)
            finally:
                stepped()
        return call

    def classes(base):
        for c in base.__subclasses__():
            yield c
            yield from classes(c)
    # PyTorch surrounds a class's step when the first optimizer of it is made; those that it has surrounded already
    for c in classes(torch.optim.Optimizer):
        if getattr(c.__dict__.get("step"), "hooked", False):
            c.step = surround(c.step)
    torch.optim.Optimizer.profile_hook_step = staticmethod(lambda function: surround(hook(function)))

def follow_operators(wrap_newcomers):
    found = torch._ops._OpNamespace.__getattr__  # once for each name: then it is an attribute

    @functools.wraps(found)
    def __getattr__(self, name):
        operator = found(self, name)
        wrap_newcomers()
        return operator
    torch._ops._OpNamespace.__getattr__ = __getattr__

follow_operators(wrap_newcomers)
name = follow_modules(enter, leave, forget, follow_weights(own) if meaning else lambda module: None)
if meaning:
    follow_optimizers(step, stepped)
)";

std::atomic<bool> surrounded{false};

// With the interpreter's lock. 0: a pending call has done what it could, and says nothing to the program.
int surround(void*) {
  if (!python.GetItemString(python.GetModuleDict(), "torch.nn.modules.module") || surrounded.exchange(true)) return 0;
  PyObject *space = python.NewDict(), *code = python.Compile(kSource, "<djinn>", kFileInput), *done = nullptr;
  if (space && code) {
    python.SetItemString(space, "__builtins__", python.GetBuiltins());
    for (PyMethodDef& f : functions)
      if (PyObject* o = python.NewFunction(&f, nullptr, nullptr)) {
        python.SetItemString(space, f.name, o);
        python.DecRef(o);
      }
    python.SetItemString(space, "meaning", meaning::on() ? python.GetItemString(space, "own") : python.none);
    done = python.Eval(code, space, space);
    names().name = done ? python.GetItemString(space, "name") : nullptr;
  }
  if (!names().name) {
    python.ClearError();
    host->log(1, "Djinn cannot follow the program's modules: errors will not name them");
  }
  if (done) python.DecRef(done);
  if (code) python.DecRef(code);
  return 0;  // `space` stays: the functions live in it
}

// The main thread runs pending calls between two of Python's instructions. While it waits in C for the thread that uses CUDA (join) there are none,
// so that after this long another thread does the same.
constexpr useconds_t kMainThreadUs = 100'000;

// Nothing with a destructor lives across Ensure: an interpreter that is ending ends the threads that wait for its lock there and then.
void* surround_instead(void*) {
  usleep(kMainThreadUs);
  if (surrounded || !python.runs()) return nullptr;
  int state = python.Ensure();
  surround(nullptr);
  python.Release(state);
  return nullptr;
}

}  // namespace

void track_modules() {
  if (!host->perf("module_paths") || !python.find()) return;
  pthread_atfork(nullptr, nullptr, [] { in_child = true; });
  python.AddPendingCall(surround, nullptr);
  start_detached(surround_instead, "djinn-modules");
}

}  // namespace djinn::hook

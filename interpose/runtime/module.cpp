// See module.hpp.
#include "interpose/runtime/module.hpp"

#include <elf.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <unordered_set>

#include "interpose/batch/session.hpp"

namespace djinn {

struct LoadedModule {
  const void* wrapper = nullptr;  // as registered
  bool opened = false;
  uint64_t id = 0;  // on the wire; 0 = not sent, `code` and `error` say why
  cudaError_t code = cudaSuccess;
  std::string error;
  std::unordered_map<std::string, module::Kernel> kernels;
  std::unordered_map<std::string, const void*> handles;  // of module_function
};

namespace {

// A library registers tens of thousands of kernels in its constructors: they are appended to a list, and sorted into the map when first asked for.
struct Pending {
  const void* host;
  RegisteredKernel kernel;
};
struct Registry {
  std::mutex mutex;
  std::vector<Pending> pending;
  std::unordered_map<const void*, RegisteredKernel> kernels;
  std::unordered_map<const void*, LaunchableKernel> launchable;
  std::unordered_set<LoadedModule*> loaded;  // by load_module
  uint64_t next_id = 1;                      // modules and kernels
};
Registry& registry() {
  static Registry* r = new Registry;  // never destroyed: kernels are launched from exit handlers
  return *r;
}

RegisteredKernel find_locked(const void* function) {
  Registry& r = registry();
  for (auto& p : r.pending) r.kernels.emplace(p.host, p.kernel);
  r.pending.clear();
  auto i = r.kernels.find(function);
  return i == r.kernels.end() ? RegisteredKernel{} : i->second;
}

bool refuse(LoadedModule& m, cudaError_t code, std::string why) {
  m.code = code;
  m.error = std::move(why);
  return false;
}

bool cubin_of_fatbin(LoadedModule& m, const void* fatbin, std::vector<std::byte>& cubin) {
  size_t size = module::fatbin_bytes(fatbin);
  if (!size) return refuse(m, cudaErrorInvalidKernelImage, "not a fatbin");
  auto images = module::images({static_cast<const std::byte*>(fatbin), size});
  if (!images) return refuse(m, cudaErrorInvalidKernelImage, images.error());
  const djinn_link_device& device = session()->device(0);  // a module is the session's, whose devices are of one kind
  uint32_t sm = device.major * 10 + device.minor;
  const module::Image* image = module::choose_cubin(*images, sm);
  if (!image) return refuse(m, cudaErrorNoKernelImageForDevice, "its fatbin has no machine code for sm_" + std::to_string(sm));
  auto unpacked = module::unpack(*image);
  if (!unpacked) return refuse(m, cudaErrorInvalidKernelImage, unpacked.error());
  cubin = std::move(*unpacked);
  return true;
}

bool cubin_of_image(LoadedModule& m, const void* image, std::vector<std::byte>& cubin) {
  uint32_t magic;
  std::memcpy(&magic, image, sizeof magic);
  if (magic == module::kWrapperMagic) return cubin_of_fatbin(m, static_cast<const module::FatbinWrapper*>(image)->fatbin, cubin);
  if (std::memcmp(image, ELFMAG, SELFMAG) != 0) {
    if (module::fatbin_bytes(image)) return cubin_of_fatbin(m, image, cubin);
    return refuse(m, cudaErrorNoKernelImageForDevice, "it is PTX or unknown, and this device compiles none");
  }
  size_t size = module::cubin_bytes(image);
  if (!size) return refuse(m, cudaErrorInvalidKernelImage, "not a 64-bit cubin");
  auto bytes = static_cast<const std::byte*>(image);
  cubin.assign(bytes, bytes + size);
  return true;
}

// The image in parts of their own, which the link frees.
void send_image(uint64_t id, const std::vector<std::byte>& cubin) {
  std::vector<djinn_part> parts;
  for (size_t at = 0; at < cubin.size(); at += wire::kBulkBytesMax) {
    size_t n = std::min<size_t>(cubin.size() - at, wire::kBulkBytesMax);
    void* copy = std::malloc(n);
    std::memcpy(copy, cubin.data() + at, n);
    parts.push_back({copy, n, [](void* data, void*) { std::free(data); }, nullptr});
  }
  post(wire::Opcode::module_load, wire::ModuleLoad{id, cubin.size(), {0, 0}}, parts);
}

void open_image(LoadedModule& m, const void* image) {
  m.opened = true;
  std::vector<std::byte> cubin;
  if (!cubin_of_image(m, image, cubin)) return;
  auto kernels = module::kernels(cubin);
  if (!kernels) return void(refuse(m, cudaErrorInvalidKernelImage, kernels.error()));
  for (module::Kernel& k : *kernels) {
    std::string name = k.name;
    m.kernels.emplace(std::move(name), std::move(k));
  }
  m.id = registry().next_id++;
  send_image(m.id, cubin);
}

void make_launchable(LaunchableKernel& k, const RegisteredKernel& registered) {
  if (!registered.name) {
    k.code = cudaErrorInvalidDeviceFunction;
    k.error = "the function is not a registered kernel";
    return;
  }
  LoadedModule& m = *registered.module;
  if (!m.opened) open_image(m, m.wrapper);
  auto found = m.kernels.find(registered.name);
  if (!m.id || found == m.kernels.end()) {
    k.code = m.id ? cudaErrorInvalidDeviceFunction : m.code;
    k.error = m.id ? "its module has no kernel of that name" : m.error;
    return;
  }
  k.params = found->second.params;
  k.param_bytes = found->second.param_bytes;
  for (auto& p : k.params)
    if (p.offset > k.param_bytes || p.size > k.param_bytes - p.offset || k.param_bytes > wire::kLaunchParamBytesMax) {
      k.code = cudaErrorInvalidKernelImage;
      k.error = "its parameters do not fit what its cubin says of them";
      return;
    }
  k.id = registry().next_id++;
  std::vector<std::byte>& payload = scratch();
  wire::Writer w(payload);
  w.put(wire::KernelGet{k.id, m.id});
  w.put_string(registered.name);
  post(static_cast<uint32_t>(wire::Opcode::kernel_get), 0, payload);
}

}  // namespace

LoadedModule* register_fatbin(const void* wrapper) {
  auto* m = new LoadedModule;
  m->wrapper = wrapper;
  return m;
}

void register_kernel(LoadedModule* module, const void* host, const char* name) {
  std::lock_guard lock(registry().mutex);
  registry().pending.push_back({host, {name, module}});
}

RegisteredKernel find_kernel(const void* function) {
  std::lock_guard lock(registry().mutex);
  return find_locked(function);
}

const LaunchableKernel& launchable(const void* function) {
  std::lock_guard lock(registry().mutex);
  auto [i, fresh] = registry().launchable.try_emplace(function);
  if (fresh) make_launchable(i->second, find_locked(function));
  return i->second;  // stays where it is: the map's nodes do not move
}

LoadedModule* load_module(const void* image, cudaError_t& code) {
  auto* m = new LoadedModule;
  std::lock_guard lock(registry().mutex);
  open_image(*m, image);
  code = m->code;
  if (m->id) {
    registry().loaded.insert(m);
    return m;
  }
  say(Level::warning, "a module cannot be loaded: %s", m->error.c_str());
  delete m;
  return nullptr;
}

const void* module_function(LoadedModule* m, const char* name) {
  std::lock_guard lock(registry().mutex);
  if (!registry().loaded.count(m)) return nullptr;
  auto kernel = m->kernels.find(name);
  if (kernel == m->kernels.end()) return nullptr;
  auto [handle, fresh] = m->handles.try_emplace(name, &kernel->second);
  if (fresh) registry().kernels[handle->second] = {kernel->first.c_str(), m};
  return handle->second;
}

bool unload_module(LoadedModule* m) {
  std::lock_guard lock(registry().mutex);
  if (!registry().loaded.erase(m)) return false;
  for (auto& [name, handle] : m->handles) {
    registry().kernels.erase(handle);
    registry().launchable.erase(handle);
  }
  post(wire::Opcode::module_unload, wire::Handle{m->id});
  delete m;
  return true;
}

}  // namespace djinn

// See module.hpp.
#include "interpose/runtime/module.hpp"

#include <mutex>
#include <unordered_map>

#include "interpose/client.hpp"

namespace djinn {

struct FatbinHandle {
  const void* wrapper;
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
};
Registry& registry() {
  static Registry* r = new Registry;
  return *r;
}

RegisteredKernel find_locked(const void* host) {
  Registry& r = registry();
  for (auto& p : r.pending) r.kernels.emplace(p.host, p.kernel);
  r.pending.clear();
  auto i = r.kernels.find(host);
  return i == r.kernels.end() ? RegisteredKernel{} : i->second;
}
}  // namespace

FatbinHandle* register_fatbin(const void* wrapper) { return new FatbinHandle{wrapper}; }

void register_kernel(FatbinHandle* fatbin, const void* host, const char* name) {
  std::lock_guard lock(registry().mutex);
  registry().pending.push_back({host, {name, fatbin}});
}

RegisteredKernel find_kernel(const void* host) {
  std::lock_guard lock(registry().mutex);
  return find_locked(host);
}

const LaunchableKernel& launchable(const void* host) {
  std::lock_guard lock(registry().mutex);
  auto [i, fresh] = registry().launchable.try_emplace(host);
  if (fresh) i->second.error = find_locked(host).name ? "launches outside an op scope are not built yet" : "the function is not a registered kernel";
  return i->second;
}

}  // namespace djinn

// Modules and their kernels, by the client's handles. The CPU device executes no machine code of GPUs, so that an image is dropped
// unless the check layer wants to read it.
#include <algorithm>

#include "server/decode/decode.hpp"

namespace djinn::server::decode {

using wire::ErrorClass;

// Images that the check layer keeps of one session: all of libtorch_cuda's cubins of one architecture are about 600 MiB.
constexpr uint64_t kCheckedImagesMax = 2ull << 30;

Failure module_load(Session& s, const Command& c) {
  wire::Reader r(c.payload);
  auto m = r.get<wire::ModuleLoad>();
  if (!r.finished()) return malformed("module_load");
  uint64_t sent = 0;
  for (auto part : c.bulk) sent += part.size();
  if (sent != m.bytes) return malformed("module_load");
  if (s.opened().checks && sent > kCheckedImagesMax - std::min(kCheckedImagesMax, s.image_bytes))
    return {cuda_error::memory_allocation, ErrorClass::refused, "module_load", "more images than the check layer keeps"};
  if (m.id == 0 || s.modules.count(m.id)) return invalid("module_load", "the id is taken");
  if (s.modules.size() >= kModulesMax) return {cuda_error::memory_allocation, ErrorClass::refused, "module_load", "too many modules"};
  Module module;
  if (s.opened().checks)
    for (auto part : c.bulk) module.image.insert(module.image.end(), part.begin(), part.end());
  s.image_bytes += module.image.size();
  s.modules.emplace(m.id, std::move(module));
  return {};
}

Failure module_unload(Session& s, const Command& c) {
  wire::Handle m;
  if (!read_all(c, m)) return malformed("module_unload");
  auto it = s.modules.find(m.id);
  if (it == s.modules.end()) return unknown_handle("module_unload", "module", m.id);
  for (uint64_t kernel : it->second.kernels) s.kernels.erase(kernel);
  s.image_bytes -= it->second.image.size();
  s.modules.erase(it);
  return {};
}

Failure kernel_get(Session& s, const Command& c) {
  wire::Reader r(c.payload);
  auto m = r.get<wire::KernelGet>();
  auto name = r.get_string(wire::kNameBytesMax);
  if (!r.finished() || !c.bulk.empty()) return malformed("kernel_get");
  auto module = s.modules.find(m.module);
  if (module == s.modules.end()) return unknown_handle("kernel_get", "module", m.module);
  if (m.id == 0 || s.kernels.count(m.id)) return invalid("kernel_get", "the id is taken");
  if (s.kernels.size() >= kKernelsMax) return {cuda_error::memory_allocation, ErrorClass::refused, "kernel_get", "too many kernels"};
  module->second.kernels.insert(m.id);
  Kernel& kernel = s.kernels[m.id];
  kernel.module = m.module;
  kernel.name = name;
  if (s.opened().checks) check::describe_kernel(module->second, kernel);
  return {};
}

}  // namespace djinn::server::decode

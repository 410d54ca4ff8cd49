// Modules and their kernels, by the client's handles. The CPU device executes no machine code of GPUs, so that an image is dropped
// unless the check layer wants to read it.
#include "server/decode/decode.hpp"

namespace djinn::server::decode {

using wire::ErrorClass;

Failure module_load(Session& s, const Command& c) {
  wire::Reader r(c.payload);
  auto m = r.get<wire::ModuleLoad>();
  if (!r.finished()) return malformed("module_load");
  uint64_t sent = 0;
  for (auto part : c.bulk) sent += part.size();
  if (sent != m.bytes) return malformed("module_load");
  if (m.id == 0 || s.modules.count(m.id)) return invalid("module_load", "the id is taken");
  if (s.modules.size() >= kModulesMax) return {cuda_error::memory_allocation, ErrorClass::refused, "module_load", "too many modules"};
  Module module;
  if (s.opened().checks)
    for (auto part : c.bulk) module.image.insert(module.image.end(), part.begin(), part.end());
  s.modules.emplace(m.id, std::move(module));
  return {};
}

Failure module_unload(Session& s, const Command& c) {
  wire::Handle m;
  if (!read_all(c, m)) return malformed("module_unload");
  auto it = s.modules.find(m.id);
  if (it == s.modules.end()) return unknown_handle("module_unload", "module", m.id);
  for (uint64_t kernel : it->second.kernels) s.kernels.erase(kernel);
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
  s.kernels[m.id] = {m.module, std::string(name)};
  return {};
}

}  // namespace djinn::server::decode

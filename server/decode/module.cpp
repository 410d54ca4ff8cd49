// Modules, kernels, launches. Mirror: interpose/encode/launch.cpp. The device decides whether it can run a kernel; the check layer validates launches
// that an op computes anyway (kFlagScoped).
#include "server/decode/decode.hpp"
#include "server/execute/check/check.hpp"

namespace djinn::server::decode {

// What one session may keep of module images; PyTorch's largest fatbin member is about 90 MB.
constexpr uint64_t kModuleBytesMax = 1ull << 30;

void module_load(Session& s) {
  wire::ModuleLoad m;
  if (!read_fixed(s, m, "module_load")) return;
  uint64_t held = 0;
  for (auto& [id, module] : s.modules) held += module.image.size();
  if (m.bytes > kModuleBytesMax || held > kModuleBytesMax - m.bytes || s.modules.contains(m.id)) return s.malformed("module_load");
  Module module;
  for (uint16_t i = 0; i < s.now.record->head.bulk; i++) {
    auto part = s.now.bulk(i);
    module.image.insert(module.image.end(), part.begin(), part.end());
  }
  if (module.image.size() != m.bytes) return s.malformed("module_load");
  s.modules.emplace(m.id, std::move(module));
}

void module_unload(Session& s) {
  wire::Handle h;
  if (!read_fixed(s, h, "module_unload")) return;
  s.modules.erase(h.id);
  std::erase_if(s.kernels, [&](auto& k) { return k.second.module == h.id; });
}

void kernel_get(Session& s) {
  wire::Reader r(s.now.record->payload);
  auto k = r.get<wire::KernelGet>();
  auto name = r.get_string(wire::kNameBytesMax);
  if (!r.finished() || s.kernels.size() >= kHandlesMax || s.kernels.contains(k.id)) return s.malformed("kernel_get");
  if (!s.modules.contains(k.module)) return s.fail({cuda_error::invalid_resource_handle, wire::ErrorClass::exception, std::string(name), "unknown module"});
  s.kernels[k.id] = {std::string(name), k.module};
}

void launch(Session& s) {
  wire::Reader r(s.now.record->payload);
  auto l = r.get<wire::Launch>();
  auto parameters = r.get_bytes(wire::kLaunchParamBytesMax);
  if (!r.finished()) return s.malformed("launch");
  auto kernel = s.kernels.find(l.kernel);
  if (kernel == s.kernels.end()) {
    if (s.check()) ++s.count.violations;
    return s.fail({cuda_error::invalid_resource_handle, wire::ErrorClass::exception, "launch", "unknown kernel"});
  }
  if (s.check()) {
    if (auto f = check::validate_launch(s, kernel->second, l, parameters)) {
      ++s.count.violations;
      return s.fail(f);
    }
    ++s.count.launches_validated;
    return;  // an op computes it, or (blind) nobody does
  }
  if (s.now.record->head.flags & wire::kFlagScoped) return s.malformed("launch");
  if (auto f = s.device().launch(kernel->second.name, l, parameters)) {
    ++s.count.launches_refused;
    s.fail(f);
  }
}

}  // namespace djinn::server::decode

// Kernel launches: limits that a client must have kept, the kernel's handle, then the check layer or the device.
#include "server/decode/decode.hpp"

namespace djinn::server::decode {

// CUDA's own limits on a launch, of every device since compute capability 3.0.
static bool within_limits(const wire::Launch& l) {
  uint64_t threads = 1;
  for (int i = 0; i < 3; i++) {
    if (!l.grid[i] || !l.block[i] || l.block[i] > (i < 2 ? 1024u : 64u) || l.grid[i] > (i < 1 ? 2147483647u : 65535u)) return false;
    threads *= l.block[i];
  }
  return threads <= 1024;
}

static Failure validate(Session& s, const Kernel& kernel, const wire::Launch& l, std::span<const std::byte> parameters) {
  s.scope_check().saw_words(parameters);
  Failure f = check::validate_launch(s, kernel, l, parameters);
  ++(f.code ? s.counts().violations : s.counts().launches_validated);
  return f;
}

Failure launch(Session& s, const Command& c) {
  wire::Reader r(c.payload);
  auto l = r.get<wire::Launch>();
  auto parameters = r.get_bytes(wire::kLaunchParamBytesMax);
  if (!r.finished() || !c.bulk.empty()) return malformed("launch");
  if (!within_limits(l)) return invalid("launch", "grid or block outside CUDA's limits");
  if (!s.known_stream(l.stream)) return unknown_handle("launch", "stream", l.stream);
  auto kernel = s.kernels.find(l.kernel);
  if (kernel == s.kernels.end()) return unknown_handle("launch", "kernel", l.kernel);
  bool scoped = c.head.flags & wire::kFlagScoped;
  if (scoped && !s.opened().checks) return invalid("launch", "a scoped launch for a server that does not validate (--check)");
  Failure f;
  if (s.opened().checks) f = validate(s, kernel->second, l, parameters);
  if (f.code || scoped || s.blind() || s.adding()) return f;
  f = s.device().launch(kernel->second.name, l, parameters);
  if (f.code) ++s.counts().launches_refused;
  return f;
}

}  // namespace djinn::server::decode

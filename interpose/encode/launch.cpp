// See launch.hpp.
#include "interpose/encode/launch.hpp"

#include <cstring>

#include "interpose/batch/counters.hpp"
#include "interpose/batch/session.hpp"
#include "interpose/encode/graph.hpp"
#include "interpose/runtime/module.hpp"
#include "interpose/shadow/device.hpp"
#include "interpose/shadow/event.hpp"

namespace djinn {

static bool shape_is_legal(const LaunchRequest& r) {
  auto any_zero = [](const dim3& d) { return !d.x || !d.y || !d.z; };
  if (any_zero(r.grid) || any_zero(r.block) || r.grid.x > 2147483647u || r.grid.y > kGridYZMax || r.grid.z > kGridYZMax) return false;
  return r.block.z <= kBlockZMax && uint64_t{r.block.x} * r.block.y * r.block.z <= kThreadsPerBlockMax && r.shared <= kSharedBytesMax;
}

// The parameters where the kernel wants them. False: they are not as many bytes.
static bool pack(const LaunchRequest& r, const LaunchableKernel& k, std::byte* to) {
  if (r.packed) {
    if (r.packed_bytes > k.param_bytes) return false;
    std::memcpy(to, r.packed, r.packed_bytes);
    return true;
  }
  if (!r.arguments && !k.params.empty()) return false;
  for (size_t i = 0; i < k.params.size(); i++) std::memcpy(to + k.params[i].offset, r.arguments[i], k.params[i].size);
  return true;
}

cudaError_t launch(const LaunchRequest& r, const char* name) {
  if (!shape_is_legal(r)) return fail(cudaErrorInvalidConfiguration);  // also in a scope: CUDA would say so, and PyTorch expects it
  count(counters().entry_launches);
  Work work = begin_work(name);
  if (work == Work::drop) return cudaSuccess;
  if (work == Work::refuse) return fail(session_error());
  if (cudaError_t e = need_context()) return fail(e);
  auto stream = stream_state(reinterpret_cast<uint64_t>(r.stream));
  if (!stream || stream->device_or(current_device()) != current_device()) return fail(cudaErrorInvalidResourceHandle);
  const LaunchableKernel& k = launchable(r.function);
  if (!k.id) {
    const char* kernel = find_kernel(r.function).name;
    say_absent(kernel ? kernel : name, k.error.c_str());
    return fail(k.code);
  }
  std::vector<std::byte>& payload = scratch();
  wire::Writer w(payload);
  wire::Launch l{k.id,
                 reinterpret_cast<uint64_t>(r.stream),
                 {r.grid.x, r.grid.y, r.grid.z},
                 {r.block.x, r.block.y, r.block.z},
                 static_cast<uint32_t>(r.shared),
                 r.cooperative};
  w.put(l);
  w.put<uint64_t>(k.param_bytes);
  if (!pack(r, k, w.grow(wire::align8(k.param_bytes)))) return fail(cudaErrorInvalidValue);
  uint16_t flags = work == Work::scoped ? uint16_t{wire::kFlagScoped} : uint16_t{0};
  return fail(post_on(l.stream, cudaGraphNodeTypeKernel, static_cast<uint32_t>(wire::Opcode::launch), flags, payload));
}

}  // namespace djinn

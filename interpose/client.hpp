// The inside of libdjinn.so as its entry points see it: this thread's op scope, the process's session, and the two verbs `post` and `call`.
// Every exported function is one of: answered in shadow, posted, or called; the verb stands visibly in its body.
#pragma once
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "semantic/abi/hook.h"
#include "semantic/abi/parts.hpp"
#include "semantic/wire/codec.hpp"
#include "semantic/wire/command.hpp"
#include "semantic/wire/frame.hpp"

#define DJINN_EXPORT extern "C" __attribute__((visibility("default")))

namespace djinn {

using Ticket = uint64_t;  // 0 = not posted: the session is lost

// ---- the op scope of this thread ----
djinn_scope& scope();

// What an entry point does with device work (a launch, a fill, a void library call).
enum class Work : uint8_t {
  run,     // outside every scope: encode and post
  drop,    // inside an op scope: the op computes it; return success
  scoped,  // inside an op scope under --check: encode and post with wire::kFlagScoped
  refuse,  // no session (no server, lost, forked child): return the error in last_session_error()
};
// `name` is the entry point, for statistics and for the invariant that at op level nothing runs outside a scope.
Work begin_work(const char* name);
// A call that would hand a device value to the host. Inside a scope: marks the abort, returns true, and the entry point returns its library's error.
bool abort_scope(const char* name);

// ---- the session ----
// Opens it at first use. False when there is none; then session_error() is the code that CUDA functions return.
bool open_session();
cudaError_t session_error();

// Posts one record; blocks when the credit window is full. Bulk parts are taken over: their release is called exactly once, also on failure.
Ticket post(uint32_t opcode, uint16_t flags, std::span<const std::byte> payload, std::span<const djinn_part> bulk = {});

struct Reply {
  int32_t status = 0;              // cudaError_t
  std::vector<std::byte> payload;  // after wire::Reply
  std::vector<std::vector<std::byte>> bulk;
  std::string error;  // operation and reason, when status != 0
};
// A round trip: posts, flushes, waits for the reply or for the loss of the session.
Reply call(uint32_t opcode, uint16_t flags, std::span<const std::byte> payload, std::span<const djinn_part> bulk = {});

template <class Fixed>
Ticket post(wire::Opcode op, const Fixed& fixed, std::span<const djinn_part> bulk = {}) {
  return post(static_cast<uint32_t>(op), 0, std::as_bytes(std::span(&fixed, 1)), bulk);
}
template <class Fixed>
Reply call(wire::Opcode op, const Fixed& fixed) {
  return call(static_cast<uint32_t>(op), wire::kFlagCall, std::as_bytes(std::span(&fixed, 1)));
}
// This thread's scratch buffer for payloads with a variable part; cleared by each call.
std::vector<std::byte>& scratch();

// ---- errors ----
// Records `e` as this thread's last error (cudaGetLastError) and returns it.
cudaError_t fail(cudaError_t e);
// An asynchronous error that has arrived and not been delivered; cudaSuccess if none. Entry points that may report one return it.
cudaError_t take_async_error();

// ---- saying so ----
enum class Level : int { error = 0, warning = 1, info = 2, debug = 3 };
void say(Level level, const char* format, ...) __attribute__((format(printf, 2, 3)));
// Names an unsupported function once per process.
void say_absent(const char* function, const char* reason);

// ---- kernels (interpose/runtime/module.cpp) ----
// `DJINN_PERF=no_…` switches: true unless switched off. An unknown name in the variable is refused at start.
bool perf(const char* name);

}  // namespace djinn

// What the hook has from libdjinn.so, reached from everywhere in it: the table of semantic/abi/hook.h and this thread's scope.
#pragma once
#include <c10/util/Exception.h>

#include <string>

#include "semantic/abi/hook.h"
#include "semantic/wire/codec.hpp"
#include "semantic/wire/command.hpp"
#include "semantic/wire/frame.hpp"
#include "semantic/wire/limits.hpp"
#include "semantic/wire/op.hpp"

namespace djinn::hook {

inline const djinn_hook_host* host = nullptr;  // set once by djinn_torch_start, before any kernel is wrapped

inline djinn_scope& scope() {
  static thread_local djinn_scope* s = host->scope();
  return *s;
}

// Posts one record; a lost session is an exception that the program sees.
inline void post(wire::Opcode opcode, const void* payload, size_t bytes) {
  TORCH_CHECK(host->post(static_cast<uint32_t>(opcode), 0, payload, bytes) != 0,
              "Djinn: the connection to the server is lost; the operation was not executed");
}

}  // namespace djinn::hook

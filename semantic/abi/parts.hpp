// What C++ code on both sides does with the C struct djinn_part: gives it back to whoever made it.
#pragma once
#include <span>

#include "semantic/abi/link.h"

namespace djinn {

inline void release(const djinn_part& p) {
  if (p.release) p.release(const_cast<void*>(p.data), p.hint);
}
inline void release(std::span<const djinn_part> parts) {
  for (const djinn_part& p : parts) release(p);
}

}  // namespace djinn

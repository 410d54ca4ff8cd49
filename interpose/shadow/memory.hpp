// Device memory as every allocating function has it: a block of the current session's arena, and what must be told when it goes.
#pragma once
#include "interpose/client.hpp"

namespace djinn {

cudaError_t allocate_block(void** p, size_t bytes, int device);
// False when it is not an allocation's first byte.
bool free_block(void* p);

}  // namespace djinn

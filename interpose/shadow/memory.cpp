// See memory.hpp.
#include "interpose/shadow/memory.hpp"

#include "interpose/batch/session.hpp"
#include "interpose/shadow/memory_pool.hpp"
#include "interpose/shadow/sharing.hpp"

namespace djinn {

cudaError_t allocate_block(void** p, size_t bytes, int device) {
  auto address = session()->arenas->of(device).allocate(bytes);
  if (!address) return session()->log.lost() ? session_error() : cudaErrorMemoryAllocation;
  *p = reinterpret_cast<void*>(*address);
  return cudaSuccess;
}

bool free_block(void* p) {
  uint64_t address = reinterpret_cast<uint64_t>(p);
  if (!session()->arenas->release(address)) return false;
  pool_freed(address);
  sharing().freed(address);
  return true;
}

}  // namespace djinn

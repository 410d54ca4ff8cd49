// Stream-ordered allocation (cudaMallocAsync): each device's default pool. The log has one order for all streams, so an allocation is there for
// whatever follows and a free comes after whatever came before: both are the arena's ordinary ones, and the pool is what is counted here. It keeps
// nothing back: what is reserved is what is used, whatever the release threshold.
#pragma once
#include "interpose/client.hpp"

namespace djinn {

void pool_allocated(int device, uint64_t address, uint64_t bytes);
// Of any allocation; those of cudaMalloc are none of the pool's.
void pool_freed(uint64_t address);

cudaMemPool_t default_pool(int device);
// -1: not a pool.
int device_of_pool(cudaMemPool_t pool);
cudaError_t pool_attribute(int device, cudaMemPoolAttr attribute, void* value);
cudaError_t set_pool_attribute(int device, cudaMemPoolAttr attribute, const void* value);

}  // namespace djinn

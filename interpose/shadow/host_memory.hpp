// Pinned host memory: what cudaHostAlloc gave and cudaHostRegister named. Transfers from and to it are asynchronous and refer to the memory itself
// until their ticket is executed, so freeing it waits for them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>

#include "interpose/client.hpp"

namespace djinn {

cudaError_t allocate_pinned(void** p, size_t bytes);
cudaError_t free_pinned(void* p);
cudaError_t register_pinned(void* p, size_t bytes);
cudaError_t unregister_pinned(void* p);
// Does [p, p + bytes) lie in one pinned block?
bool is_pinned(const void* p, size_t bytes);
// The device that was current when the block that holds `p` was pinned; nothing: it is not pinned.
std::optional<int> pinned_device(const void* p);
// A transfer with this ticket refers to pinned memory.
void pinned_in_use(Ticket t);
// A download with this ticket writes into the pinned block of p.
void pinned_written(const void* p, Ticket t);
// Waits until no download is under way into the block of p. A stream's copies take place in order: what a download brings there, an upload behind it
// must find.
void await_downloads(const void* p);

}  // namespace djinn

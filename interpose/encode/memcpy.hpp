// Copies and fills, lowered to the wire's upload, download, copy and fill. Mirror: server/decode/memcpy.cpp.
#pragma once
#include "interpose/client.hpp"

namespace djinn {

struct Copy2D {
  void* destination;
  size_t destination_pitch;
  const void* source;
  size_t source_pitch;
  size_t width, height;
};
// `kind` as the caller said (cudaMemcpyDefault: by address). `asynchronous`: may return before pinned memory has been read or written.
cudaError_t copy(const Copy2D& c, cudaMemcpyKind kind, uint64_t stream, bool asynchronous, const char* name);
// The same between host and device, never waited for: what comes back is there when the stream has been.
cudaError_t copy_unawaited(const Copy2D& c, bool upload, uint64_t stream);
cudaError_t fill(void* p, size_t pitch, uint32_t value, uint32_t element, size_t width, size_t height, uint64_t stream, const char* name);

}  // namespace djinn

// See memcpy.hpp. Who owns which buffer decides everything: pageable memory may be reused when the call returns, so its bytes are taken now; pinned
// memory is referred to until the ticket is executed; what comes back to pageable memory must be waited for.
#include "interpose/encode/memcpy.hpp"

#include <cstdlib>
#include <cstring>
#include <memory>

#include "interpose/batch/counters.hpp"
#include "interpose/batch/session.hpp"
#include "interpose/shadow/device.hpp"
#include "interpose/shadow/error.hpp"
#include "interpose/shadow/event.hpp"
#include "interpose/shadow/host_memory.hpp"

namespace djinn {

namespace {

bool on_device(const void* p) {
  auto* s = session();
  return s && s->arena->in_range(reinterpret_cast<uint64_t>(p));
}

cudaMemcpyKind direction(const Copy2D& c, cudaMemcpyKind kind) {
  if (kind != cudaMemcpyDefault) return kind;
  bool from = on_device(c.source), to = on_device(c.destination);
  return from ? (to ? cudaMemcpyDeviceToDevice : cudaMemcpyDeviceToHost) : (to ? cudaMemcpyHostToDevice : cudaMemcpyHostToHost);
}

// A device side outside the session's range is the caller's mistake; CUDA finds it at once.
bool device_extent(const void* p, size_t pitch, size_t width, size_t height) {
  uint64_t rows, extent;
  if (__builtin_mul_overflow(pitch, height - 1, &rows) || __builtin_add_overflow(rows, width, &extent)) return false;
  auto first = reinterpret_cast<uint64_t>(p);
  auto* s = session();
  return s->arena->in_range(first) && (extent <= 1 || s->arena->in_range(first + extent - 1));
}

void pack_rows(std::byte* to, const void* from, size_t pitch, size_t width, size_t height) {
  if (pitch == width || height == 1) {
    std::memcpy(to, from, width * height);
    return;
  }
  for (size_t row = 0; row < height; row++) std::memcpy(to + row * width, static_cast<const std::byte*>(from) + row * pitch, width);
}

void spread_rows(void* to, size_t pitch, size_t width, size_t height, std::span<const djinn_part> parts) {
  size_t at = 0;  // in the packed rows
  for (const djinn_part& p : parts)
    for (size_t done = 0; done < p.size;) {
      size_t row = at / width, column = at % width, n = std::min(pitch == width || height == 1 ? p.size - done : width - column, p.size - done);
      std::memcpy(static_cast<std::byte*>(to) + row * pitch + column, static_cast<const std::byte*>(p.data) + done, n);
      done += n;
      at += n;
    }
}

void release_copy(void* data, void*) { std::free(data); }
void release_nothing(void*, void*) {}

// The bytes as parts of at most kBulkBytesMax: copies that the link frees, or the pinned memory itself.
std::vector<djinn_part> parts_of(const Copy2D& c, bool by_reference) {
  std::vector<djinn_part> parts;
  size_t total = c.width * c.height;
  if (by_reference) {
    auto data = static_cast<const std::byte*>(c.source);
    for (size_t at = 0; at < total; at += wire::kBulkBytesMax)
      parts.push_back({data + at, std::min<size_t>(total - at, wire::kBulkBytesMax), release_nothing, nullptr});
    return parts;
  }
  size_t rows = c.height == 1 ? 1 : std::max<size_t>(1, wire::kBulkBytesMax / c.width);
  for (size_t row = 0; row < c.height; row += rows)
    for (size_t column = 0; column < c.width; column += wire::kBulkBytesMax) {  // more than once for one wide row only
      size_t width = std::min<size_t>(c.width - column, wire::kBulkBytesMax), height = std::min(rows, c.height - row);
      auto* data = static_cast<std::byte*>(std::malloc(width * height));
      pack_rows(data, static_cast<const std::byte*>(c.source) + row * c.source_pitch + column, c.source_pitch, width, height);
      parts.push_back({data, width * height, release_copy, nullptr});
    }
  return parts;
}

cudaError_t upload(const Copy2D& c, uint64_t stream, bool asynchronous) {
  wire::Upload u{stream, reinterpret_cast<uint64_t>(c.destination), c.destination_pitch, c.width, c.height};
  size_t total = c.width * c.height;
  auto opcode = static_cast<uint32_t>(wire::Opcode::upload);
  if (total <= wire::kInlineBytesMax) {
    std::vector<std::byte>& payload = scratch();
    wire::Writer w(payload);
    w.put(u);
    w.put<uint64_t>(total);
    pack_rows(w.grow(wire::align8(total)), c.source, c.source_pitch, c.width, c.height);
    return post(opcode, 0, payload) ? cudaSuccess : session_error();
  }
  bool contiguous = c.source_pitch == c.width || c.height == 1;
  bool by_reference = asynchronous && contiguous && is_pinned(c.source, total);
  auto parts = parts_of(c, by_reference);
  Ticket t = post(opcode, 0, std::as_bytes(std::span(&u, 1)), parts);
  if (by_reference) pinned_in_use(t);
  return t ? cudaSuccess : session_error();
}

cudaError_t download(const Copy2D& c, uint64_t stream, bool asynchronous) {
  wire::Download d{stream, reinterpret_cast<uint64_t>(c.source), c.source_pitch, c.width, c.height};
  if (asynchronous && is_pinned(c.destination, (c.height - 1) * c.destination_pitch + c.width)) {
    Ticket t = session()->log.post_download(std::as_bytes(std::span(&d, 1)), [c](std::span<const djinn_part> parts) {
      spread_rows(c.destination, c.destination_pitch, c.width, c.height, parts);
    });
    pinned_in_use(t);
    return t ? cudaSuccess : session_error();
  }
  size_t got = 0;
  auto store = [&](std::span<const djinn_part> parts) {
    for (const djinn_part& p : parts) got += p.size;
    if (got == c.width * c.height) spread_rows(c.destination, c.destination_pitch, c.width, c.height, parts);
  };
  Reply r = session()->log.call(static_cast<uint32_t>(wire::Opcode::download), wire::kFlagCall, std::as_bytes(std::span(&d, 1)), {}, store);
  if (cudaError_t e = take_async_error()) return e;
  if (r.status) return fail_with(r);
  return got == c.width * c.height ? cudaSuccess : cudaErrorUnknown;  // the server broke its word
}

cudaError_t on_the_device(const Copy2D& c, uint64_t stream) {
  wire::Copy w{stream,  reinterpret_cast<uint64_t>(c.destination), c.destination_pitch, reinterpret_cast<uint64_t>(c.source), c.source_pitch, c.width,
               c.height};
  return post(wire::Opcode::copy, w) ? cudaSuccess : session_error();
}

cudaError_t on_the_host(const Copy2D& c) {
  if (auto* s = session()) s->log.wait_executed(s->log.last());
  for (size_t row = 0; row < c.height; row++)
    std::memmove(static_cast<std::byte*>(c.destination) + row * c.destination_pitch, static_cast<const std::byte*>(c.source) + row * c.source_pitch,
                 c.width);
  return cudaSuccess;
}

}  // namespace

cudaError_t copy(const Copy2D& c, cudaMemcpyKind kind, uint64_t stream, bool asynchronous, const char* name) {
  if (cudaError_t e = need_context()) return fail(e);
  if (!stream_state(stream)) return fail(cudaErrorInvalidResourceHandle);
  if (!c.width || !c.height) return cudaSuccess;
  if (!c.destination || !c.source) return fail(cudaErrorInvalidValue);
  if (c.height > 1 && (c.width > c.destination_pitch || c.width > c.source_pitch)) return fail(cudaErrorInvalidPitchValue);
  cudaMemcpyKind way = direction(c, kind);
  bool to_device = way == cudaMemcpyHostToDevice || way == cudaMemcpyDeviceToDevice,
       from_device = way == cudaMemcpyDeviceToHost || way == cudaMemcpyDeviceToDevice;
  if (to_device && !device_extent(c.destination, c.destination_pitch, c.width, c.height)) return fail(cudaErrorInvalidValue);
  if (from_device && !device_extent(c.source, c.source_pitch, c.width, c.height)) return fail(cudaErrorInvalidValue);
  // In an op scope the op computes: copies towards the device are part of it, and a value that the host wants ends the scope.
  if (scope().depth > 0) {
    if (way == cudaMemcpyDeviceToHost) return abort_scope(name), fail(cudaErrorNotSupported);
    if (way != cudaMemcpyHostToHost) return begin_work(name), cudaSuccess;
  }
  if (to_device || from_device) count(counters().calls);
  switch (way) {
    case cudaMemcpyHostToDevice: return fail(upload(c, stream, asynchronous));
    case cudaMemcpyDeviceToHost: return fail(download(c, stream, asynchronous));
    case cudaMemcpyDeviceToDevice: return fail(on_the_device(c, stream));
    case cudaMemcpyHostToHost: return fail(on_the_host(c));
    case cudaMemcpyDefault: break;
  }
  return fail(cudaErrorInvalidMemcpyDirection);
}

cudaError_t fill(void* p, size_t pitch, uint32_t value, uint32_t element, size_t width, size_t height, uint64_t stream, const char* name) {
  if (cudaError_t e = need_context()) return fail(e);
  if (!stream_state(stream)) return fail(cudaErrorInvalidResourceHandle);
  if (!width || !height) return cudaSuccess;
  if (!device_extent(p, pitch, width, height)) return fail(cudaErrorInvalidValue);
  if (scope().depth > 0) return begin_work(name), cudaSuccess;
  count(counters().calls);
  wire::Fill f{stream, reinterpret_cast<uint64_t>(p), pitch, width, height, value, element};
  return fail(post(wire::Opcode::fill, f) ? cudaSuccess : session_error());
}

}  // namespace djinn

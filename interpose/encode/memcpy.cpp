// See memcpy.hpp. Who owns which buffer decides everything: pageable memory may be reused when the call returns, so its bytes are taken now; pinned
// memory is referred to until the ticket is executed; what comes back to pageable memory must be waited for.
#include "interpose/encode/memcpy.hpp"

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <vector>

#include "interpose/batch/counters.hpp"
#include "interpose/batch/session.hpp"
#include "interpose/encode/graph.hpp"
#include "interpose/shadow/activity.hpp"
#include "interpose/shadow/device.hpp"
#include "interpose/shadow/error.hpp"
#include "interpose/shadow/event.hpp"
#include "interpose/shadow/host_memory.hpp"

namespace djinn {

namespace {

// Small enough to stay in a cache between two hands, large enough that a message's own cost does not show. At most so many pieces, because each is a
// ticket of the credit window.
constexpr size_t kPieceBytes = 1u << 20, kPiecesMax = 4096;
constexpr size_t kStagedMax = 16;  // pieces that are kept for the next copy

bool on_device(const void* p) {
  auto* s = session();
  return s && s->arenas->in_range(reinterpret_cast<uint64_t>(p));
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
  return s->arenas->in_range(first) && (extent <= 1 || s->arenas->in_range(first + extent - 1));
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

// What is packed for the link, which frees it on its own thread. Pieces of full size are used again: the first touch of fresh memory costs more than
// the copy.
class Staging {
 public:
  djinn_part part(size_t size) {
    bool full = size > kPieceBytes / 4 && size <= kPieceBytes;
    void* data = full ? take() : std::malloc(size);
    return {data, size, full ? give : [](void* p, void*) { std::free(p); }, this};
  }

 private:
  void* take() {
    std::lock_guard lock(mutex_);
    if (free_.empty()) return std::malloc(kPieceBytes);
    void* data = free_.back();
    free_.pop_back();
    return data;
  }
  static void give(void* data, void* hint) {
    auto& self = *static_cast<Staging*>(hint);
    std::lock_guard lock(self.mutex_);
    if (self.free_.size() < kStagedMax) self.free_.push_back(data);
    else std::free(data);
  }
  std::mutex mutex_;
  std::vector<void*> free_;
};
Staging& staging() {
  static auto* s = new Staging;  // never destroyed: the link frees parts until the process ends
  return *s;
}
void release_nothing(void*, void*) {}

// A large copy travels in pieces, each a command and a message of its own: while one is on its way, the next is packed and the one before stored.
std::vector<Copy2D> pieces_of(const Copy2D& c) {
  Copy2D all = c;
  if (c.source_pitch == c.width && c.destination_pitch == c.width)
    all = {c.destination, c.width * c.height, c.source, c.width * c.height, c.width * c.height, 1};
  size_t piece = std::max(kPieceBytes, all.width * all.height / kPiecesMax);
  size_t rows = std::max<size_t>(1, piece / all.width);
  std::vector<Copy2D> pieces;
  for (size_t row = 0; row < all.height; row += rows)
    for (size_t column = 0; column < all.width; column += piece)  // more than once for one wide row only
      pieces.push_back({static_cast<std::byte*>(all.destination) + row * all.destination_pitch + column, all.destination_pitch,
                        static_cast<const std::byte*>(all.source) + row * all.source_pitch + column, all.source_pitch,
                        std::min(piece, all.width - column), std::min(rows, all.height - row)});
  return pieces;
}

// The bytes: a copy that the link frees, or the pinned memory itself.
djinn_part part_of(const Copy2D& c, bool by_reference) {
  size_t total = c.width * c.height;
  if (by_reference) return {c.source, total, release_nothing, nullptr};
  djinn_part part = staging().part(total);
  pack_rows(static_cast<std::byte*>(const_cast<void*>(part.data)), c.source, c.source_pitch, c.width, c.height);
  return part;
}

cudaError_t upload_piece(const Copy2D& c, uint64_t stream, bool pinned) {
  wire::Upload u{stream, reinterpret_cast<uint64_t>(c.destination), c.destination_pitch, c.width, c.height};
  constexpr auto kOpcode = static_cast<uint32_t>(wire::Opcode::upload);
  size_t total = c.width * c.height;
  if (total <= wire::kInlineBytesMax) {
    std::vector<std::byte>& payload = scratch();
    wire::Writer w(payload);
    w.put(u);
    w.put<uint64_t>(total);
    pack_rows(w.grow(wire::align8(total)), c.source, c.source_pitch, c.width, c.height);
    return post(kOpcode, 0, payload) ? cudaSuccess : session_error();
  }
  bool by_reference = pinned && (c.source_pitch == c.width || c.height == 1);
  djinn_part part = part_of(c, by_reference);
  Ticket t = post(kOpcode, 0, std::as_bytes(std::span(&u, 1)), {&part, 1});
  if (by_reference) pinned_in_use(t);
  return t ? cudaSuccess : session_error();
}

cudaError_t upload(const Copy2D& c, uint64_t stream, bool asynchronous) {
  await_downloads(c.source);
  if (c.width * c.height <= wire::kInlineBytesMax) return upload_piece(c, stream, false);
  bool pinned = asynchronous && is_pinned(c.source, (c.height - 1) * c.source_pitch + c.width);
  for (const Copy2D& piece : pieces_of(c))
    if (cudaError_t e = upload_piece(piece, stream, pinned)) return e;
  return cudaSuccess;
}

wire::Download rows_of(const Copy2D& c, uint64_t stream) { return {stream, reinterpret_cast<uint64_t>(c.source), c.source_pitch, c.width, c.height}; }

// The server sends the rows unasked.
cudaError_t push_download(const Copy2D& c, uint64_t stream) {
  for (const Copy2D& p : pieces_of(c)) {
    wire::Download wanted = rows_of(p, stream);
    Ticket t = session()->log.post_download(std::as_bytes(std::span(&wanted, 1)), [p](std::span<const djinn_part> parts) {
      spread_rows(p.destination, p.destination_pitch, p.width, p.height, parts);
    });
    if (!t) return session_error();
    pinned_written(p.destination, t);
  }
  return cudaSuccess;
}

cudaError_t download(const Copy2D& c, uint64_t stream, bool asynchronous) {
  if (asynchronous && is_pinned(c.destination, (c.height - 1) * c.destination_pitch + c.width)) return push_download(c, stream);
  std::vector<Copy2D> pieces = pieces_of(c);
  std::vector<wire::Download> wanted;
  for (const Copy2D& p : pieces) wanted.push_back(rows_of(p, stream));
  size_t got = 0;
  std::vector<Log::Request> requests;
  for (size_t i = 0; i < pieces.size(); i++)
    requests.push_back({static_cast<uint32_t>(wire::Opcode::download),
                        0,
                        std::as_bytes(std::span(&wanted[i], 1)),
                        {},
                        [&got, &p = pieces[i]](std::span<const djinn_part> parts) {
                          size_t bytes = 0;
                          for (const djinn_part& part : parts) bytes += part.size;
                          if (bytes != p.width * p.height) return;
                          spread_rows(p.destination, p.destination_pitch, p.width, p.height, parts);
                          got += bytes;
                        }});
  Reply r = session()->log.call(requests);
  if (cudaError_t e = take_async_error()) return e;
  if (r.status) return fail_with(r);
  return got == c.width * c.height ? cudaSuccess : cudaErrorUnknown;  // the server broke its word
}

cudaError_t on_the_device(const Copy2D& c, uint64_t stream) {
  wire::Copy w{stream,  reinterpret_cast<uint64_t>(c.destination), c.destination_pitch, reinterpret_cast<uint64_t>(c.source), c.source_pitch, c.width,
               c.height};
  return post_on(stream, cudaGraphNodeTypeMemcpy, wire::Opcode::copy, w);
}

// A synchronous copy waits, which no capture may; one between host and device becomes a node. On the device: see on_the_device.
cudaError_t capture_copy(const Copy2D& c, cudaMemcpyKind way, uint64_t stream, bool asynchronous, bool& captured) {
  captured = false;
  if (cudaError_t e = asynchronous ? cudaSuccess : refuse_unsafe()) return e;
  if (way == cudaMemcpyHostToDevice || way == cudaMemcpyDeviceToHost) return capture_host_copy(c, way == cudaMemcpyHostToDevice, stream, captured);
  if (way != cudaMemcpyHostToHost) return cudaSuccess;
  cudaError_t e = refuse_in_capture(stream);
  if (e == cudaErrorStreamCaptureUnsupported) say_absent("a copy from host to host in a capturing stream", "the server cannot see host memory");
  return e;
}

record::Direction direction_of(cudaMemcpyKind way) {
  return way == cudaMemcpyHostToDevice   ? record::Direction::to_device
         : way == cudaMemcpyDeviceToHost ? record::Direction::to_host
                                         : record::Direction::on_device;
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
  const uint32_t watched = work::watched();
  bool pinned = watched && pinned_device(to_device ? c.source : c.destination);
  activity::Call traced(name, pinned);
  if (watched & work::kRecorder && (to_device || from_device)) recorder::copied(direction_of(way), c.width * c.height, pinned, asynchronous, name);
  if (capturing()) {
    bool captured;
    if (cudaError_t e = capture_copy(c, way, stream, asynchronous, captured); e || captured) return fail(e);
  }
  switch (way) {
    case cudaMemcpyHostToDevice: return fail(upload(c, stream, asynchronous));
    case cudaMemcpyDeviceToHost: return fail(download(c, stream, asynchronous));
    case cudaMemcpyDeviceToDevice: return fail(on_the_device(c, stream));
    case cudaMemcpyHostToHost: return fail(on_the_host(c));
    case cudaMemcpyDefault: break;
  }
  return fail(cudaErrorInvalidMemcpyDirection);
}

cudaError_t copy_unawaited(const Copy2D& c, bool to_device, uint64_t stream) {
  return to_device ? upload(c, stream, true) : push_download(c, stream);
}

cudaError_t fill(void* p, size_t pitch, uint32_t value, uint32_t element, size_t width, size_t height, uint64_t stream, const char* name) {
  if (cudaError_t e = need_context()) return fail(e);
  if (!stream_state(stream)) return fail(cudaErrorInvalidResourceHandle);
  if (!width || !height) return cudaSuccess;
  if (!device_extent(p, pitch, width, height)) return fail(cudaErrorInvalidValue);
  if (scope().depth > 0) return begin_work(name), cudaSuccess;
  count(counters().calls);
  activity::Call traced(name);
  wire::Fill f{stream, reinterpret_cast<uint64_t>(p), pitch, width, height, value, element};
  return fail(post_on(stream, cudaGraphNodeTypeMemset, wire::Opcode::fill, f));
}

}  // namespace djinn

// Copies in every direction and fills. An extent is `height` rows of `width` bytes, `pitch` apart; all of it lies in live memory or the session has
// an illegal address, as on a GPU. Host rows travel packed, over as many parts as the sender liked.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "server/decode/decode.hpp"

namespace djinn::server::decode {

using wire::ErrorClass;

namespace {

// Below this a copy is cheaper than waiting for the network before the next command.
constexpr uint64_t kBorrowBytesMin = 256 << 10;

// The bytes of `height` packed rows, or false when that is no number.
bool packed(uint64_t width, uint64_t height, uint64_t& bytes) { return !__builtin_mul_overflow(width, height, &bytes); }

Failure check_extent(Session& s, const char* command, uint64_t stream, uint64_t address, uint64_t pitch, uint64_t width, uint64_t height) {
  if (!s.known_stream(stream)) return unknown_handle(command, "stream", stream);
  if (!s.device().live(address, pitch, width, height)) return illegal_address(command, address, height > 1 ? pitch * (height - 1) + width : width);
  return {};
}

// The rows of a download in parts. Borrowed ones are device memory itself: for a caller that waits, and only until the next command.
Failure gather(Session& s, const char* command, const wire::Download& d, bool may_borrow, std::vector<djinn_part>& parts) {
  if (Failure f = check_extent(s, command, d.stream, d.address, d.pitch, d.width, d.height)) return f;
  uint64_t total = 0;
  if (!packed(d.width, d.height, total) || total > wire::kBulkBytesMax * (wire::kBulkPartsMax / 2))
    return invalid(command, "more bytes than one command may carry");
  s.await_bulk_room();
  bool contiguous = d.height == 1 || d.pitch == d.width;
  const std::byte* direct = may_borrow && contiguous && !s.blind() && total >= kBorrowBytesMin ? s.device().host_view(d.address, total) : nullptr;
  for (uint64_t first = 0; first < total; first += wire::kBulkBytesMax) {
    uint64_t n = std::min(wire::kBulkBytesMax, total - first);
    if (direct) {
      parts.push_back(s.report().borrow(direct + first, n));
      continue;
    }
    auto rows = std::make_unique_for_overwrite<std::byte[]>(n);
    if (s.blind()) std::memset(rows.get(), 0, n);
    else s.device().download(d, first, {rows.get(), n});
    parts.push_back(s.report().own(std::move(rows), n));
  }
  return {};
}

}  // namespace

Failure upload(Session& s, const Command& c) {
  wire::Reader r(c.payload);
  auto u = r.get<wire::Upload>();
  std::span<const std::byte> inlined;
  if (c.bulk.empty()) inlined = r.get_bytes(wire::kInlineBytesMax);
  if (!r.finished()) return malformed("upload");
  uint64_t total = 0, sent = inlined.size();
  for (auto part : c.bulk) sent += part.size();
  if (!packed(u.width, u.height, total) || total != sent) return malformed("upload");
  if (Failure f = check_extent(s, "upload", u.stream, u.address, u.pitch, u.width, u.height)) return f;
  if (!inlined.empty()) s.device().upload(u, inlined, 0);
  uint64_t first = 0;
  for (auto part : c.bulk) {
    s.device().upload(u, part, first);
    first += part.size();
  }
  s.meaning().uploaded(u.address);
  return {};
}

Failure download(Session& s, const Command& c) {
  wire::Download d;
  if (!read_all(c, d)) return malformed("download");
  // only a waiting caller gets the rows: push_download is for the others
  if (!(c.head.flags & wire::kFlagCall)) return invalid("download", "not sent as a call");
  return gather(s, "download", d, true, s.answer_bulk);
}

Failure push_download(Session& s, const Command& c) {
  wire::Download d;
  if (!read_all(c, d)) return malformed("push_download");
  std::vector<djinn_part> parts;
  if (Failure f = gather(s, "push_download", d, false, parts)) return f;
  s.report().pushed(c.ticket, parts);
  return {};
}

Failure copy(Session& s, const Command& c) {
  wire::Copy m;
  if (!read_all(c, m)) return malformed("copy");
  if (Failure f = check_extent(s, "copy", m.stream, m.source, m.source_pitch, m.width, m.height)) return f;
  if (Failure f = check_extent(s, "copy", m.stream, m.destination, m.destination_pitch, m.width, m.height)) return f;
  if (!s.adding()) s.device().copy(m);
  return {};
}

Failure fill(Session& s, const Command& c) {
  wire::Fill m;
  if (!read_all(c, m)) return malformed("fill");
  if (m.element != 1 && m.element != 2 && m.element != 4) return invalid("fill", fmt::format("elements of {} bytes", m.element));
  if (m.width % m.element || m.address % m.element || (m.height > 1 && m.pitch % m.element)) return invalid("fill", "not whole, aligned elements");
  if (Failure f = check_extent(s, "fill", m.stream, m.address, m.pitch, m.width, m.height)) return f;
  if (!s.adding()) s.device().fill(m);
  return {};
}

}  // namespace djinn::server::decode

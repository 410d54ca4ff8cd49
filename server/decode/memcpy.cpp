// Copies and fills. Both ends of every copy are checked against live memory before a byte moves. Mirror: interpose/encode/memcpy.cpp.
#include "server/decode/decode.hpp"

namespace djinn::server::decode {

static bool extent(Session& s, const char* command, uint64_t address, uint64_t pitch, uint64_t width, uint64_t height) {
  if (s.device().live(address, pitch, width, height)) return true;
  illegal_address(s, command, address, width);
  return false;
}

void upload(Session& s) {
  wire::Reader r(s.now.record->payload);
  auto u = r.get<wire::Upload>();
  std::span<const std::byte> inline_bytes;
  uint16_t parts = s.now.record->head.bulk;
  if (!parts) inline_bytes = r.get_bytes(wire::kInlineBytesMax);
  uint64_t total;
  if (!r.finished() || __builtin_mul_overflow(u.width, u.height, &total)) return s.malformed("upload");
  uint64_t sent = inline_bytes.size();
  for (uint16_t i = 0; i < parts; i++) sent += s.now.bulk(i).size();
  if (sent != total) return s.malformed("upload");
  if (!extent(s, "cudaMemcpy host to device", u.address, u.pitch, u.width, u.height)) return;
  if (!parts) return s.device().upload(u, inline_bytes, 0);
  uint64_t first = 0;
  for (uint16_t i = 0; i < parts; first += s.now.bulk(i).size(), i++) s.device().upload(u, s.now.bulk(i), first);
}

// Splits what comes back into parts of at most kBulkBytesMax.
static std::vector<std::vector<std::byte>> read_back(Session& s, const wire::Download& d) {
  std::vector<std::vector<std::byte>> parts;
  uint64_t rows_at_once = d.height == 1 ? 1 : std::max<uint64_t>(1, wire::kBulkBytesMax / d.width);
  for (uint64_t row = 0; row < d.height; row += rows_at_once)
    for (uint64_t column = 0; column < d.width; column += wire::kBulkBytesMax) {  // more than once for one wide row only
      wire::Download piece = d;
      piece.address += row * d.pitch + column;
      piece.width = std::min<uint64_t>(d.width - column, wire::kBulkBytesMax);
      piece.height = std::min(rows_at_once, d.height - row);
      parts.emplace_back(piece.width * piece.height);
      s.device().download(piece, parts.back().data());
    }
  return parts;
}

static bool read_download(Session& s, wire::Download& d) {
  if (!read_fixed(s, d, "download")) return false;
  uint64_t total;
  bool rows_fit = d.height <= 1 || d.width <= wire::kBulkBytesMax;
  if (__builtin_mul_overflow(d.width, d.height, &total) || !rows_fit || total / wire::kBulkBytesMax >= wire::kBulkPartsMax - 1) return s.malformed("download"), false;
  return extent(s, "cudaMemcpy device to host", d.address, d.pitch, d.width, d.height);
}

void download(Session& s) {
  wire::Download d;
  if (read_download(s, d)) s.reply(0, {}, read_back(s, d));
}

void push_download(Session& s) {
  wire::Download d;
  if (!read_download(s, d)) return;
  wire::Pushed p{s.now.ticket};
  s.report().add(wire::ReportOpcode::pushed, std::as_bytes(std::span(&p, 1)), read_back(s, d));
}

void copy(Session& s) {
  wire::Copy c;
  if (!read_fixed(s, c, "copy")) return;
  const char* what = "cudaMemcpy device to device";
  if (extent(s, what, c.destination, c.destination_pitch, c.width, c.height) && extent(s, what, c.source, c.source_pitch, c.width, c.height)) s.device().copy(c);
}

void fill(Session& s) {
  wire::Fill f;
  if (!read_fixed(s, f, "fill")) return;
  if (f.element != 1 && f.element != 2 && f.element != 4) return s.malformed("fill");
  if (extent(s, "cudaMemset", f.address, f.pitch, f.width, f.height)) s.device().fill(f);
}

}  // namespace djinn::server::decode

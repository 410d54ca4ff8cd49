// The one parser of frames, for both sides. Every byte is hostile; nothing here allocates in proportion to a number that the peer names
// before that number has been checked against bytes that are really there.
#include "semantic/wire/frame.hpp"

namespace djinn::wire {

std::string_view name(FrameError e) {
  switch (e) {
    case FrameError::none: return "none";
    case FrameError::too_short: return "too short for a header";
    case FrameError::bad_magic: return "not a Djinn frame";
    case FrameError::bad_version: return "another protocol version";
    case FrameError::bad_kind: return "unknown frame kind";
    case FrameError::bad_length: return "length does not match the message";
    case FrameError::bad_count: return "record count does not match the records";
    case FrameError::bad_bulk: return "bulk parts do not match the records";
    case FrameError::bad_record: return "a record does not fit the frame";
    case FrameError::reserved_not_zero: return "a reserved field is not zero";
  }
  return "?";
}

static FrameError check_header(const FrameHeader& h, size_t bytes, size_t bulk_parts) {
  if (h.magic != kFrameMagic) return FrameError::bad_magic;
  if (h.version != kVersion) return FrameError::bad_version;
  if (h.kind < FrameKind::hello || h.kind > FrameKind::refused) return FrameError::bad_kind;
  if (h.reserved) return FrameError::reserved_not_zero;
  if (h.length > kFrameBytesMax || h.length != bytes) return FrameError::bad_length;
  if (h.count > kFrameCommandsMax || uint64_t{h.count} * sizeof(RecordHeader) > h.length) return FrameError::bad_count;
  if (h.bulk > kBulkPartsMax || h.bulk != bulk_parts) return FrameError::bad_bulk;
  return FrameError::none;
}

FrameError parse_frame(std::span<const std::byte> frame, size_t bulk_parts, FrameHeader& h, std::vector<Record>& records) {
  records.clear();
  if (frame.size() < sizeof h) return FrameError::too_short;
  std::memcpy(&h, frame.data(), sizeof h);
  std::span<const std::byte> body = frame.subspan(sizeof h);
  if (auto e = check_header(h, body.size(), bulk_parts); e != FrameError::none) return e;
  if (h.kind == FrameKind::hello)
    return h.count || h.bulk ? FrameError::bad_count : h.length == sizeof(Hello) ? FrameError::none : FrameError::bad_length;
  uint32_t bulk = 0;
  while (!body.empty()) {
    Record r;
    if (body.size() < sizeof r.head) return FrameError::bad_record;
    std::memcpy(&r.head, body.data(), sizeof r.head);
    body = body.subspan(sizeof r.head);
    if (r.head.reserved) return FrameError::reserved_not_zero;
    if (r.head.size % 8 || r.head.size > body.size()) return FrameError::bad_record;
    if (r.head.bulk > h.bulk - bulk) return FrameError::bad_bulk;
    r.payload = body.first(r.head.size);
    r.bulk_first = bulk;
    bulk += r.head.bulk;
    body = body.subspan(r.head.size);
    if (records.size() == h.count) return FrameError::bad_count;
    records.push_back(r);
  }
  if (records.size() != h.count) return FrameError::bad_count;
  return bulk == h.bulk ? FrameError::none : FrameError::bad_bulk;
}

}  // namespace djinn::wire

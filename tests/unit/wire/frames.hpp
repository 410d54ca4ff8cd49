// Well-formed frames for tests and fuzzers to start from.
#pragma once
#include <cstring>
#include <span>
#include <vector>

#include "semantic/wire/frame.hpp"

namespace djinn::test {

using Bytes = std::vector<std::byte>;

template <class T>
void append(Bytes& to, const T& value) {
  to.resize(to.size() + sizeof value);  // GCC 12 has a false alarm on insert() at -O3
  std::memcpy(to.data() + to.size() - sizeof value, &value, sizeof value);
}

struct RecordSpec {
  uint32_t opcode = 1;
  uint16_t bulk = 0;
  uint32_t words = 0;  // of payload
};

inline Bytes frame_of(wire::FrameHeader h, std::span<const RecordSpec> records) {
  Bytes body;
  for (const RecordSpec& r : records) {
    wire::RecordHeader head;
    head.opcode = r.opcode;
    head.bulk = r.bulk;
    head.size = r.words * 8;
    append(body, head);
    for (uint64_t i = 0; i < r.words; i++) append(body, i);
    h.bulk += r.bulk;
  }
  h.count = static_cast<uint32_t>(records.size());
  h.length = static_cast<uint32_t>(body.size());
  Bytes frame;
  append(frame, h);
  for (std::byte b : body) frame.push_back(b);
  return frame;
}

inline Bytes hello_frame() {
  wire::FrameHeader h;
  h.kind = wire::FrameKind::hello;
  h.session = 7;
  h.length = sizeof(wire::Hello);
  Bytes frame;
  append(frame, h);
  append(frame, wire::Hello{{1, 2, 3}});
  return frame;
}

}  // namespace djinn::test

// The parser of frames: what is well-formed comes out as it went in, and every single lie that a header can tell is refused under its own name.
#include <functional>

#include "tests/unit/catch.hpp"
#include "tests/unit/wire/frames.hpp"

using namespace djinn;
using namespace djinn::test;
using wire::FrameError;
using wire::FrameHeader;
using wire::FrameKind;
using wire::Record;

namespace {

const RecordSpec kRecords[] = {{0x20, 2, 5}, {0x43, 0, 0}, {0x53, 1, 12}};

struct Parsed {
  FrameError error;
  FrameHeader header;
  std::vector<Record> records;
};
Parsed parse(const Bytes& frame, size_t bulk) {
  Parsed p;
  p.error = wire::parse_frame(frame, bulk, p.header, p.records);
  return p;
}

// The frame with one thing changed in its header.
Bytes changed(const std::function<void(FrameHeader&)>& change) {
  Bytes frame = frame_of({}, kRecords);
  FrameHeader h;
  std::memcpy(&h, frame.data(), sizeof h);
  change(h);
  std::memcpy(frame.data(), &h, sizeof h);
  return frame;
}

// The same for the header of the first record.
Bytes changed_record(const std::function<void(wire::RecordHeader&)>& change) {
  Bytes frame = frame_of({}, kRecords);
  wire::RecordHeader r;
  std::memcpy(&r, frame.data() + sizeof(FrameHeader), sizeof r);
  change(r);
  std::memcpy(frame.data() + sizeof(FrameHeader), &r, sizeof r);
  return frame;
}

}  // namespace

TEST_CASE("a batch comes out as it went in") {
  FrameHeader h;
  h.session = 11;
  h.first_ticket = 12;
  h.ack = 13;
  h.report = 14;
  h.incarnation = 2;
  Bytes frame = frame_of(h, kRecords);
  Parsed p = parse(frame, 3);
  REQUIRE(p.error == FrameError::none);
  CHECK(p.header.session == 11);
  CHECK(p.header.first_ticket == 12);
  CHECK(p.header.ack == 13);
  CHECK(p.header.report == 14);
  CHECK(p.header.incarnation == 2);
  REQUIRE(p.records.size() == 3);
  uint32_t bulk = 0;
  for (size_t i = 0; i < 3; i++) {
    CHECK(p.records[i].head.opcode == kRecords[i].opcode);
    CHECK(p.records[i].payload.size() == kRecords[i].words * 8);
    CHECK(p.records[i].bulk_first == bulk);
    CHECK(p.records[i].payload.data() >= frame.data());
    CHECK(p.records[i].payload.data() + p.records[i].payload.size() <= frame.data() + frame.size());
    bulk += kRecords[i].bulk;
  }
}

TEST_CASE("frames without records") {
  for (FrameKind kind : {FrameKind::ping, FrameKind::pong, FrameKind::goodbye, FrameKind::welcome, FrameKind::report, FrameKind::batch}) {
    FrameHeader h;
    h.kind = kind;
    Parsed p = parse(frame_of(h, {}), 0);
    CHECK(p.error == FrameError::none);
    CHECK(p.header.kind == kind);
    CHECK(p.records.empty());
  }
}

TEST_CASE("a hello carries a token and nothing else") {
  Bytes frame = hello_frame();
  CHECK(parse(frame, 0).error == FrameError::none);
  CHECK(parse(frame, 1).error == FrameError::bad_bulk);
  Bytes longer = frame;
  longer.resize(longer.size() + 8);
  CHECK(parse(longer, 0).error == FrameError::bad_length);
  FrameHeader h;
  h.kind = FrameKind::hello;
  CHECK(parse(frame_of(h, {}), 0).error == FrameError::bad_length);
  CHECK(parse(frame_of(h, kRecords), 3).error == FrameError::bad_count);
}

TEST_CASE("every prefix and every extension of a frame is refused") {
  for (const Bytes& frame : {frame_of({}, kRecords), hello_frame()}) {
    size_t bulk = frame == hello_frame() ? 0 : 3;
    REQUIRE(parse(frame, bulk).error == FrameError::none);
    for (size_t n = 0; n < frame.size(); n++)
      CHECK(parse(Bytes(frame.begin(), frame.begin() + static_cast<ptrdiff_t>(n)), bulk).error != FrameError::none);
    for (size_t n = 1; n < 40; n++) {
      Bytes longer = frame;
      longer.resize(frame.size() + n);
      CHECK(parse(longer, bulk).error == FrameError::bad_length);
    }
  }
}

TEST_CASE("each lie of a header has its name") {
  CHECK(parse(Bytes(10), 0).error == FrameError::too_short);
  CHECK(parse(changed([](auto& h) { h.magic ^= 1; }), 3).error == FrameError::bad_magic);
  CHECK(parse(changed([](auto& h) { h.version++; }), 3).error == FrameError::bad_version);
  CHECK(parse(changed([](auto& h) { h.kind = FrameKind(0); }), 3).error == FrameError::bad_kind);
  CHECK(parse(changed([](auto& h) { h.kind = FrameKind(9); }), 3).error == FrameError::bad_kind);
  CHECK(parse(changed([](auto& h) { h.length += 8; }), 3).error == FrameError::bad_length);
  CHECK(parse(changed([](auto& h) { h.length = 0xffffffff; }), 3).error == FrameError::bad_length);
  CHECK(parse(changed([](auto& h) { h.count++; }), 3).error == FrameError::bad_count);
  CHECK(parse(changed([](auto& h) { h.count--; }), 3).error == FrameError::bad_count);
  CHECK(parse(changed([](auto& h) { h.count = 0xffffffff; }), 3).error == FrameError::bad_count);
  CHECK(parse(changed([](auto& h) { h.bulk++; }), 3).error == FrameError::bad_bulk);
  CHECK(parse(changed([](auto& h) { h.bulk++; }), 4).error == FrameError::bad_bulk);
  CHECK(parse(changed([](auto& h) { h.bulk = wire::kBulkPartsMax + 1; }), wire::kBulkPartsMax + 1).error == FrameError::bad_bulk);
  CHECK(parse(changed([](auto& h) { h.reserved = 1; }), 3).error == FrameError::reserved_not_zero);
  CHECK(parse(frame_of({}, kRecords), 2).error == FrameError::bad_bulk);
}

TEST_CASE("each lie of a record has its name") {
  CHECK(parse(changed_record([](auto& r) { r.size += 4; }), 3).error == FrameError::bad_record);
  CHECK(parse(changed_record([](auto& r) { r.size = 0xfffffff8; }), 3).error == FrameError::bad_record);
  CHECK(parse(changed_record([](auto& r) { r.bulk = 0xffff; }), 3).error == FrameError::bad_bulk);
  CHECK(parse(changed_record([](auto& r) { r.bulk = 0; }), 3).error == FrameError::bad_bulk);
  CHECK(parse(changed_record([](auto& r) { r.reserved = 1; }), 3).error == FrameError::reserved_not_zero);
}

TEST_CASE("every frame error has words of its own") {
  std::vector<std::string_view> seen;
  for (int e = 0; e <= static_cast<int>(FrameError::reserved_not_zero); e++) {
    auto name = wire::name(FrameError(e));
    CHECK(name.size() > 3);
    CHECK(std::count(seen.begin(), seen.end(), name) == 0);
    seen.push_back(name);
  }
}

// What the worker tells the client: frames that parse, numbers without a gap, acknowledgements, and bulk that is counted until it has left.
#include "server/session/report.hpp"
#include "tests/unit/catch.hpp"

using namespace djinn;
using namespace djinn::server;

namespace {
struct Sent {
  wire::FrameHeader header;
  std::vector<wire::Record> records;
  std::vector<std::byte> bytes;
};
struct Fixture {
  std::vector<Sent> sent;
  std::vector<djinn_part> held;
  Report report{42, 1, [this](std::span<const std::byte> f, std::span<const djinn_part> bulk) {
                  Sent s;
                  s.bytes.assign(f.begin(), f.end());
                  REQUIRE(wire::parse_frame(s.bytes, bulk.size(), s.header, s.records) == wire::FrameError::none);
                  sent.push_back(std::move(s));
                  held.insert(held.end(), bulk.begin(), bulk.end());
                  return true;
                }};
  void release() {
    for (auto& p : held) p.release(const_cast<void*>(p.data), p.hint);
    held.clear();
  }
};
}  // namespace

TEST_CASE("report: frames are numbered, acknowledge, and nothing new is nothing sent") {
  Fixture f;
  f.report.flush(0);
  CHECK(f.sent.empty());
  f.report.flush(5);
  f.report.flush(5);
  REQUIRE(f.sent.size() == 1);
  f.report.event_done({1, 6, 99});
  f.report.error(7, {1, wire::ErrorClass::refused, "op", "why"});
  f.report.flush(7);
  REQUIRE(f.sent.size() == 2);
  CHECK(f.sent[0].header.report == 1);
  CHECK(f.sent[1].header.report == 2);
  CHECK(f.sent[0].header.ack == 5);
  CHECK(f.sent[1].header.ack == 7);
  REQUIRE(f.sent[1].records.size() == 2);
  wire::Reader r(f.sent[1].records[1].payload);
  CHECK(r.get<wire::Error>().ticket == 7);
  CHECK(r.get_string(100) == "op");
  CHECK(r.get_string(100) == "why");
  CHECK(r.finished());
}

TEST_CASE("report: bulk is outstanding until it has left") {
  Fixture f;
  auto part = f.report.own(std::make_unique<std::byte[]>(1000), 1000);
  CHECK(f.report.outstanding() == 1000);
  f.report.pushed(3, std::span(&part, 1));
  f.report.flush(3);
  CHECK(f.report.outstanding() == 1000);
  CHECK(f.sent[0].records[0].head.bulk == 1);
  f.release();
  CHECK(f.report.outstanding() == 0);
  f.report.await_outstanding(0);
  std::byte memory[8];
  part = f.report.borrow(memory, 8);
  f.report.pushed(4, std::span(&part, 1));
  f.report.flush(4);
  CHECK(f.report.outstanding() == 8);
  f.release();
  f.report.await_borrowed();
  CHECK(f.report.outstanding() == 0);
}

TEST_CASE("report: long texts are cut to what the wire allows") {
  Fixture f;
  f.report.error(1, {1, wire::ErrorClass::exception, std::string(100000, 'o'), std::string(100000, 't')});
  f.report.flush(1);
  wire::Reader r(f.sent[0].records[0].payload);
  r.get<wire::Error>();
  CHECK(r.get_string(wire::kNameBytesMax).size() == wire::kNameBytesMax);
  CHECK(r.get_string(wire::kErrorTextMax).size() == wire::kErrorTextMax);
  CHECK(r.finished());
}

TEST_CASE("report: the refused frame parses and says why") {
  auto frame = refused_frame(42, 1, "because");
  wire::FrameHeader h;
  std::vector<wire::Record> records;
  REQUIRE(wire::parse_frame(frame, 0, h, records) == wire::FrameError::none);
  CHECK(h.kind == wire::FrameKind::refused);
  REQUIRE(records.size() == 1);
  wire::Reader r(records[0].payload);
  CHECK(r.get<wire::Error>().error_class == wire::ErrorClass::lost);
}

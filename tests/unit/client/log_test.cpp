// The log: tickets, flush rules, credit, replies, and many threads at once. Each case has a log and a link of its own; the worker at its end is
// stepped by the test, so that "under way" is a state.
#include "interpose/batch/log.hpp"

#include <cstring>
#include <numeric>
#include <thread>

#include "interpose/batch/counters.hpp"
#include "tests/unit/client/fixture.hpp"

using namespace djinn;
using djinn::test::FakeLink;
using djinn::test::Sent;
using wire::Opcode;

namespace {

struct Rig {
  explicit Rig(bool flush_when_idle, bool automatic = false) {
    djinn_link_events events{};
    events.self = &log;
    events.on_frame = [](void* self, const void* frame, size_t size, const djinn_part* bulk, size_t count) {
      static_cast<Log*>(self)->on_frame({static_cast<const std::byte*>(frame), size}, {bulk, count});
    };
    events.on_lost = [](void* self, const char*) { static_cast<Log*>(self)->on_lost(); };
    events.on_tick = [](void* self) { static_cast<Log*>(self)->on_tick(); };
    link.attach(events);
    link.automatic = automatic;
    log.start(FakeLink::api(), link.handle(), 7, 3, flush_when_idle);
  }
  ~Rig() { CHECK(link.complaints() == std::vector<std::string>{}); }
  Ticket post(uint64_t value) { return log.post(static_cast<uint32_t>(Opcode::tensor_forget), 0, std::as_bytes(std::span(&value, 1)), {}); }
  Reply echo(uint64_t value) { return log.call(static_cast<uint32_t>(Opcode::op_query), 0, std::as_bytes(std::span(&value, 1)), {}); }
  size_t arrived() { return link.sent().size(); }
  FakeLink link;
  Log log;
};

struct Released {
  std::atomic<int> times{0};
  static void one(void*, void* hint) { ++static_cast<Released*>(hint)->times; }
};

}  // namespace

TEST_CASE("tickets count up from 1 without a gap and records arrive in their order") {
  Rig rig(false);
  for (uint64_t i = 1; i <= 300; i++) REQUIRE(rig.post(i) == i);
  CHECK(rig.log.last() == 300);
  rig.log.flush();
  auto sent = rig.link.sent();
  REQUIRE(sent.size() == 300);
  for (uint64_t i = 0; i < 300; i++) {
    REQUIRE(sent[i].ticket == i + 1);
    REQUIRE(sent[i].as<uint64_t>() == i + 1);
  }
  for (auto& h : rig.link.frames()) {
    CHECK(h.session == 7);
    CHECK(h.incarnation == 3);
    CHECK(h.kind == wire::FrameKind::batch);
  }
}

TEST_CASE("with nothing to do at the server a post leaves at once; while it works, posts gather") {
  Rig rig(true);
  rig.post(1);
  CHECK(rig.arrived() == 1);
  rig.post(2);
  rig.post(3);
  CHECK(rig.arrived() == 1);
  REQUIRE(rig.link.step());  // the acknowledgement lets the rest go, in one frame
  CHECK(rig.arrived() == 3);
  CHECK(rig.link.frames().size() == 2);
}

TEST_CASE("with one message under way sixteen commands are the next, with two under way they gather") {
  Rig rig(true);
  rig.post(1);
  for (uint64_t i = 2; i <= 16; i++) rig.post(i);
  CHECK(rig.arrived() == 1);
  rig.post(17);
  CHECK(rig.arrived() == 17);
  for (uint64_t i = 18; i <= 40; i++) rig.post(i);
  CHECK(rig.arrived() == 17);
  CHECK(rig.link.frames().size() == 2);
  REQUIRE(rig.link.step(1));  // the first is executed: one is under way
  CHECK(rig.arrived() == 40);
  CHECK(rig.link.frames().size() == 3);
}

TEST_CASE("several calls are one round trip; the answer is the last one's, or the first failure") {
  Rig rig(false, true);
  uint64_t before = counters().round_trips, values[] = {1, 2, 3};
  std::vector<Log::Request> requests;
  for (uint64_t& v : values) requests.push_back({static_cast<uint32_t>(Opcode::op_query), 0, std::as_bytes(std::span(&v, 1)), {}});
  Reply all = rig.log.call(requests);
  CHECK(all.status == 0);
  CHECK(wire::Reader(all.payload).get<uint64_t>() == 3);
  CHECK(counters().round_trips == before + 1);
  rig.link.fail_next(Opcode::op_query, {1, wire::ErrorClass::exception, "aten::nonzero", "no"});
  Reply failed = rig.log.call(requests);
  CHECK(failed.status == 1);
  CHECK(failed.error.find("aten::nonzero") != std::string::npos);
  CHECK(rig.arrived() == 6);
}

TEST_CASE("without the idle rule a batch leaves at 128 commands, at 32 KiB, at 1 MiB of bulk, on a tick and before a call") {
  Rig rig(false);
  SECTION("commands") {
    for (int i = 0; i < 127; i++) rig.post(0);
    CHECK(rig.arrived() == 0);
    rig.post(0);
    CHECK(rig.arrived() == 128);
    CHECK(rig.link.frames().size() == 1);
  }
  SECTION("bytes") {
    std::vector<std::byte> payload(8192);
    for (int i = 0; i < 3; i++) rig.log.post(static_cast<uint32_t>(Opcode::tensor_forget), 0, payload, {});
    CHECK(rig.arrived() == 0);
    rig.log.post(static_cast<uint32_t>(Opcode::tensor_forget), 0, payload, {});
    CHECK(rig.arrived() == 4);
  }
  SECTION("bulk") {
    static std::byte data[1 << 20];
    djinn_part part{data, sizeof data, nullptr, nullptr};
    rig.log.post(static_cast<uint32_t>(Opcode::module_load), 0, {}, std::span(&part, 1));
    CHECK(rig.arrived() == 1);
  }
  SECTION("tick") {
    rig.post(0);
    rig.link.tick();
    CHECK(rig.arrived() == 1);
  }
  SECTION("call") {
    rig.link.automatic = true;
    rig.post(1);
    rig.echo(2);
    CHECK(rig.arrived() == 2);
    CHECK(rig.link.frames().size() == 1);
  }
}

TEST_CASE("payloads are padded to 8 bytes with zeroes") {
  Rig rig(true);
  const char text[] = "abc";
  rig.log.post(static_cast<uint32_t>(Opcode::tensor_forget), 5, std::as_bytes(std::span(text, 3)), {});
  auto sent = rig.link.sent();
  REQUIRE(sent.size() == 1);
  CHECK(sent[0].head.flags == 5);
  REQUIRE(sent[0].payload.size() == 8);
  CHECK(std::memcmp(sent[0].payload.data(), "abc\0\0\0\0\0", 8) == 0);
}

TEST_CASE("a call brings its own reply back") {
  Rig rig(true, true);
  uint64_t trips = counters().round_trips;
  for (uint64_t i = 0; i < 50; i++) {
    Reply r = rig.echo(i);
    REQUIRE(r.status == 0);
    REQUIRE(wire::Reader(r.payload).get<uint64_t>() == i);
    REQUIRE(r.error.empty());
  }
  CHECK(counters().round_trips - trips == 50);
}

TEST_CASE("a failed call carries its own words and no payload") {
  Rig rig(true, true);
  rig.link.fail_next(Opcode::op_query, {801, wire::ErrorClass::refused, "aten::first", "cannot be done"});
  Reply r = rig.echo(1);
  CHECK(r.status == 801);
  CHECK(r.error == "aten::first: cannot be done");
  CHECK(r.payload.empty());
  rig.link.fail_next(Opcode::op_query, {999, wire::ErrorClass::exception, "", "no operation"});
  CHECK(rig.echo(1).error == "no operation");
  CHECK(rig.echo(2).status == 0);
}

TEST_CASE("a reply is seen together with what it implies: every earlier ticket is executed") {
  Rig rig(true, true);
  for (int i = 0; i < 100; i++) {
    Ticket t = rig.post(1);
    rig.echo(2);
    REQUIRE(rig.log.executed(t + 1));
  }
}

TEST_CASE("waiting for a ticket is one round trip, and none when it has been executed") {
  Rig rig(true, true);
  Ticket t = rig.post(1);
  uint64_t trips = counters().round_trips;
  CHECK(rig.log.wait_executed(t));
  CHECK(counters().round_trips - trips <= 1);
  trips = counters().round_trips;
  CHECK(rig.log.wait_executed(t));
  CHECK(rig.log.wait_executed(0));
  CHECK(counters().round_trips == trips);
}

TEST_CASE("every waiting thread wakes up") {
  Rig rig(false);
  std::vector<Ticket> tickets;
  for (int i = 0; i < 8; i++) tickets.push_back(rig.post(1));
  std::atomic<int> woken{0};
  std::vector<std::thread> threads;
  for (Ticket t : tickets) threads.emplace_back([&, t] { woken += rig.log.wait_executed(t); });
  std::thread caller([&] { woken += rig.echo(9).status == 0; });
  while (rig.link.waiting() < 9) std::this_thread::yield();
  while (rig.link.step(1)) {}
  for (auto& t : threads) t.join();
  caller.join();
  CHECK(woken == 9);
}

TEST_CASE("no more tickets are under way than the window allows, and a stall is counted") {
  Rig rig(true);
  constexpr uint64_t kPosts = wire::kCreditTickets + 5000;
  uint64_t stalls = counters().stalls;
  std::atomic<bool> done{false};
  std::thread poster([&] {
    for (uint64_t i = 0; i < kPosts; i++) rig.post(i);
    rig.log.flush();
    done = true;
  });
  while (rig.log.last() < wire::kCreditTickets) std::this_thread::yield();
  while (!done || rig.link.waiting()) rig.link.step(1000);
  poster.join();
  CHECK(rig.link.executed() == kPosts);
  CHECK(rig.link.most_tickets_under_way() <= wire::kCreditTickets);
  CHECK(counters().stalls > stalls);
}

TEST_CASE("no more bytes are under way than the window allows") {
  Rig rig(true);
  static std::vector<std::byte> data(wire::kBulkBytesMax);
  std::atomic<bool> done{false};
  std::thread poster([&] {
    for (int i = 0; i < 12; i++) {
      djinn_part part{data.data(), data.size(), nullptr, nullptr};
      rig.log.post(static_cast<uint32_t>(Opcode::module_load), 0, {}, std::span(&part, 1));
    }
    done = true;
  });
  while (!done || rig.link.waiting()) rig.link.step(1);
  poster.join();
  CHECK(rig.link.executed() == 12);
  // headers are not worth accounting for
  CHECK(rig.link.most_bytes_under_way() <= wire::kCreditBytes + 4096);
}

TEST_CASE("bulk parts are released exactly once, executed or lost") {
  Released released;
  static std::byte data[64];
  djinn_part parts[2] = {{data, 64, Released::one, &released}, {data, 64, Released::one, &released}};
  {
    Rig rig(true, true);
    Ticket t = rig.log.post(static_cast<uint32_t>(Opcode::module_load), 0, {}, parts);
    CHECK(released.times == 0);
    rig.log.wait_executed(t);
    CHECK(released.times == 2);
    rig.link.lose("over");
    CHECK(rig.log.post(static_cast<uint32_t>(Opcode::module_load), 0, {}, parts) == 0);
    CHECK(released.times == 4);
    rig.log.call(static_cast<uint32_t>(Opcode::module_load), 0, {}, parts);
    CHECK(released.times == 6);
  }
  CHECK(released.times == 6);
}

TEST_CASE("records of several threads interleave, those of one thread and of one post_many do not change their order") {
  Rig rig(true);
  constexpr int kThreads = 4, kEach = 3000;
  std::atomic<int> running{kThreads}, refused{0};  // Catch's assertions belong to one thread
  std::vector<std::thread> threads;
  for (uint64_t n = 0; n < kThreads; n++)
    threads.emplace_back([&, n] {
      for (uint64_t i = 0; i < kEach; i++) {
        if (i % 10) {
          refused += rig.post(n << 32 | i) == 0;
          continue;
        }
        uint64_t pair[2] = {n << 32 | i, 1ull << 63 | n << 32 | i};
        uint32_t opcodes[2] = {static_cast<uint32_t>(Opcode::tensor_forget), static_cast<uint32_t>(Opcode::tensor_forget)};
        djinn_span spans[2] = {{&pair[0], 8}, {&pair[1], 8}};
        refused += rig.log.post_many(2, opcodes, spans) == 0;
      }
      --running;
    });
  while (running) rig.link.step(500);
  for (auto& t : threads) t.join();
  CHECK(refused == 0);
  rig.log.flush();
  while (rig.link.step()) rig.log.flush();
  std::vector<uint64_t> next(kThreads, 0);
  auto sent = rig.link.sent();
  for (size_t i = 0; i < sent.size(); i++) {
    auto v = sent[i].as<uint64_t>();
    auto thread = static_cast<size_t>(v >> 32 & 0xff);
    if (v >> 63) {
      REQUIRE(sent[i - 1].as<uint64_t>() == (v & ~(1ull << 63)));
      continue;
    }
    REQUIRE((v & 0xffffffff) == next[thread]++);
  }
  for (uint64_t n : next) CHECK(n == kEach);
}

TEST_CASE("pushed rows are stored before their ticket counts as executed") {
  Rig rig(true, true);
  wire::MapMemory m{0x200000000000, wire::kGranule};
  wire::Lease lease{0, m.size};
  rig.log.call(static_cast<uint32_t>(Opcode::lease), 0, std::as_bytes(std::span(&lease, 1)), {});
  rig.log.post(static_cast<uint32_t>(Opcode::map_memory), 0, std::as_bytes(std::span(&m, 1)), {});
  wire::Download d{0, m.address, 100, 100, 1};
  size_t got = 0;
  bool early = true;
  Ticket t = 0;
  t = rig.log.post_download(std::as_bytes(std::span(&d, 1)), [&](std::span<const djinn_part> parts) {
    for (auto& p : parts) got += p.size;
    early = rig.log.executed(t);
  });
  REQUIRE(rig.log.wait_executed(t));
  CHECK(got == 100);
  CHECK_FALSE(early);
}

TEST_CASE("a malformed report changes nothing") {
  Rig rig(true);
  Ticket t = rig.post(1);
  wire::FrameHeader h;
  h.kind = wire::FrameKind::report;
  h.ack = t;
  auto deliver = [&](wire::FrameHeader header, std::vector<std::byte> body) {
    std::vector<std::byte> frame(sizeof header);
    std::memcpy(frame.data(), &header, sizeof header);
    frame.insert(frame.end(), body.begin(), body.end());
    rig.link.deliver_raw(frame);
    CHECK_FALSE(rig.log.executed(t));
  };
  rig.link.deliver_raw({});
  auto bad = h;
  bad.magic ^= 1;
  deliver(bad, {});
  bad = h;
  bad.version = 9;
  deliver(bad, {});
  bad = h;
  bad.length = 8;
  deliver(bad, {});
  bad = h;
  bad.bulk = 1;
  deliver(bad, {});
  bad = h;
  bad.count = 1;
  bad.length = 8;
  deliver(bad, std::vector<std::byte>(8));
  // records cut short inside a well-formed frame are dropped one by one; their frame's acknowledgement holds
  std::vector<std::byte> body;
  wire::Writer w(body);
  for (uint32_t opcode = 0; opcode < 6; opcode++) {
    wire::RecordHeader r;
    r.opcode = opcode;
    w.put(r);
  }
  h.count = 6;
  h.length = static_cast<uint32_t>(body.size());
  std::vector<std::byte> frame(sizeof h);
  std::memcpy(frame.data(), &h, sizeof h);
  frame.insert(frame.end(), body.begin(), body.end());
  rig.link.deliver_raw(frame);
  CHECK(rig.log.executed(t));
}

TEST_CASE("losing the session ends every wait and every post") {
  Rig rig(true);
  Ticket t = rig.post(1);
  bool executed = true;
  int status = 0;
  std::thread waiter([&] { executed = rig.log.wait_executed(t); });
  std::thread caller([&] { status = rig.echo(1).status; });
  while (rig.log.last() < 2) std::this_thread::yield();
  rig.link.lose("gone");
  waiter.join();
  caller.join();
  CHECK_FALSE(executed);
  CHECK(status != 0);
  CHECK(rig.post(1) == 0);
  CHECK(rig.echo(1).status != 0);
  CHECK(rig.log.lost());
}

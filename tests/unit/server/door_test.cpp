// Tickets, tokens, identities: what passes the door and what does not.
#include <cstring>

#include "semantic/wire/command.hpp"
#include "server/session/door.hpp"
#include "tests/unit/catch.hpp"

using namespace djinn;
using namespace djinn::server;
using wire::FrameKind;

namespace {

constexpr std::array<uint8_t, 16> kToken = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

std::vector<std::byte> frame(FrameKind kind, uint64_t first = 0, uint32_t count = 0, uint64_t session = 42) {
  wire::FrameHeader h;
  h.kind = kind;
  h.session = session;
  h.incarnation = 1;
  h.first_ticket = first;
  h.count = count;
  std::vector<std::byte> out;
  wire::Writer w(out);
  if (kind == FrameKind::hello) h.length = 16;
  else h.length = count * static_cast<uint32_t>(sizeof(wire::RecordHeader));
  w.put(h);
  if (kind == FrameKind::hello) w.put(kToken);
  else
    for (uint32_t i = 0; i < count; i++) w.put(wire::RecordHeader{0x36, 0, 0, 0, 0});
  return out;
}

transport::Message message(const std::string& identity, const std::vector<std::byte>& frame) {
  transport::Message m;
  m.parts.emplace_back(identity.data(), identity.size());
  m.parts.emplace_back(frame.data(), frame.size());
  return m;
}

struct Guarded {
  Rejections rejections;
  Door door{kToken, 42, 1, rejections};
  Batch batch;
  Verdict::Kind receive(const std::string& from, const std::vector<std::byte>& f) {
    auto m = message(from, f);
    return door.receive(m, batch).kind;
  }
};

}  // namespace

TEST_CASE("tickets: in order, once, without a gap") {
  TicketLog log;
  CHECK_FALSE(log.admit(0, 1));
  CHECK_FALSE(log.admit(2, 1));
  CHECK(log.admit(1, 3) == 0u);
  CHECK(log.last() == 3);
  CHECK(log.admit(1, 3) == 3u);
  CHECK(log.admit(2, 4) == 2u);
  CHECK(log.last() == 5);
  CHECK(log.admit(6, 0) == 0u);
  CHECK_FALSE(log.admit(7, 1));
  CHECK_FALSE(log.admit(~0ull, 2));
  CHECK(log.admit(1, 1) == 1u);
  CHECK(log.last() == 5);
}

TEST_CASE("door: nothing before the token") {
  Guarded g;
  for (FrameKind k : {FrameKind::batch, FrameKind::ping, FrameKind::goodbye, FrameKind::report})
    CHECK(g.receive("a", frame(k, 1, k == FrameKind::batch)) == Verdict::Kind::drop);
  auto wrong = frame(FrameKind::hello);
  wrong.back() ^= std::byte{1};
  CHECK(g.receive("a", wrong) == Verdict::Kind::drop);
  CHECK(g.receive("a", frame(FrameKind::hello, 0, 0, 43)) == Verdict::Kind::drop);
  CHECK(g.door.identity().empty());
  CHECK(g.rejections.list() == std::vector<std::string>{"bad token: 1", "frame of another session: 1", "frame without a token: 4"});
}

TEST_CASE("door: one connection, and only that one") {
  Guarded g;
  CHECK(g.receive("a", frame(FrameKind::hello)) == Verdict::Kind::welcome);
  CHECK(g.receive("b", frame(FrameKind::hello)) == Verdict::Kind::turn_away);
  CHECK(g.receive("b", frame(FrameKind::batch, 1, 1)) == Verdict::Kind::drop);
  CHECK(g.receive("b", std::vector<std::byte>(10)) == Verdict::Kind::drop);
  CHECK(g.receive("a", frame(FrameKind::ping)) == Verdict::Kind::pong);
  CHECK(g.receive("a", frame(FrameKind::hello)) == Verdict::Kind::welcome);
  CHECK(g.receive("a", frame(FrameKind::batch, 1, 2)) == Verdict::Kind::work);
  CHECK(g.batch.records.size() == 2);
  CHECK(g.batch.skip == 0);
}

TEST_CASE("door: replays are quiet, partial replays are skipped, gaps and garbage are violations") {
  Guarded g;
  REQUIRE(g.receive("a", frame(FrameKind::hello)) == Verdict::Kind::welcome);
  CHECK(g.receive("a", frame(FrameKind::batch, 1, 2)) == Verdict::Kind::work);
  CHECK(g.receive("a", frame(FrameKind::batch, 1, 2)) == Verdict::Kind::quiet);
  CHECK(g.receive("a", frame(FrameKind::batch, 2, 2)) == Verdict::Kind::work);
  CHECK(g.batch.skip == 1);
  CHECK(g.receive("a", frame(FrameKind::batch, 5, 1)) == Verdict::Kind::violation);
  CHECK(g.receive("a", frame(FrameKind::welcome)) == Verdict::Kind::violation);
  CHECK(g.receive("a", frame(FrameKind::ping, 0, 0, 7)) == Verdict::Kind::violation);
  auto whole = frame(FrameKind::batch, 4, 2);
  for (size_t n = 0; n < whole.size(); n++)
    CHECK(g.receive("a", {whole.begin(), whole.begin() + static_cast<ptrdiff_t>(n)}) == Verdict::Kind::violation);
  CHECK(g.receive("a", whole) == Verdict::Kind::work);
}

TEST_CASE("door: tokens are compared whole") {
  for (size_t i = 0; i < 16; i++) {
    auto other = kToken;
    other[i] ^= 0x80;
    CHECK_FALSE(same_token(kToken, other.data()));
  }
  CHECK(same_token(kToken, kToken.data()));
}

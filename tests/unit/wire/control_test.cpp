// Control messages: encode, decode and encode again gives the same bytes; everything shorter, longer, lying or of another kind is refused, and a
// lying count allocates nothing.
#include "semantic/wire/frame.hpp"
#include "tests/unit/catch.hpp"
#include "tests/unit/wire/control_messages.hpp"

using namespace djinn;
using namespace djinn::test;
using control::Kind;

namespace {

using Bytes = std::vector<std::byte>;

void write_word(Bytes& to, size_t at, uint64_t word) { std::memcpy(to.data() + at, &word, sizeof word); }
uint64_t read_word(const Bytes& from, size_t at) {
  uint64_t word;
  std::memcpy(&word, from.data() + at, sizeof word);
  return word;
}

template <class T>
void round_trip(Kind kind, const T& body) {
  Bytes message = control::encode(kind, body);
  REQUIRE(message.size() % 8 == 0);
  auto back = control::decode<T>(message, kind);
  REQUIRE(back);
  CHECK(control::encode(kind, *back) == message);
  CHECK_FALSE(control::encode(kind, T{}) == message);  // the body is in the bytes
  for (size_t n = 0; n < message.size(); n++) CHECK_FALSE(control::decode<T>(std::span(message).first(n), kind));
  Bytes longer = message;
  longer.resize(longer.size() + 8);
  CHECK_FALSE(control::decode<T>(longer, kind));
  for (Kind other : {Kind::open, Kind::opened, Kind::refused, Kind::stats, Kind::stats_reply, Kind::graph, Kind::graph_reply})
    if (other != kind) CHECK_FALSE(control::decode<T>(message, other));
}

// Each word of the message in turn becomes a huge number: never more than a refusal, or another value.
template <class T>
void survives_huge_words(Kind kind, const T& body) {
  Bytes message = control::encode(kind, body);
  for (size_t at = 0; at < message.size(); at += 8)
    for (uint64_t huge : std::initializer_list<uint64_t>{~0ull, 1ull << 63, 0xffffffff, 1ull << 32, ~0ull >> 1, wire::kControlListMax + 1,
                                                         wire::kControlStringMax + 1}) {
      Bytes bad = message;
      write_word(bad, at, huge);
      if (auto back = control::decode<T>(bad, kind)) CHECK(control::encode(kind, *back).size() == bad.size());
    }
}

}  // namespace

TEST_CASE("control messages come out as they went in") {
  round_trip(Kind::open, full_open());
  round_trip(Kind::opened, full_opened());
  round_trip(Kind::refused, control::Refused{"no room"});
  round_trip(Kind::stats_reply, full_stats());
  round_trip(Kind::stats_reply, full_counters());
  round_trip(Kind::graph, control::GraphWanted{7});
  round_trip(Kind::graph_reply, full_graph());
}

TEST_CASE("fields keep their values") {
  auto open = control::decode<control::Open>(control::encode(Kind::open, full_open()), Kind::open);
  REQUIRE(open);
  CHECK(open->program == "python train.py");
  CHECK(open->level == control::Level::op);
  REQUIRE(open->ranges.size() == 2);
  CHECK(open->ranges[1].size == 1ull << 35);
  auto opened = control::decode<control::Opened>(control::encode(Kind::opened, full_opened()), Kind::opened);
  REQUIRE(opened);
  CHECK(opened->token == full_opened().token);
  CHECK(opened->server_key == std::vector<uint8_t>{1, 2, 3});
  CHECK(opened->checks);
  REQUIRE(opened->devices.size() == 2);
  CHECK(opened->devices[0].clock_khz == 1500000);
  CHECK(opened->devices[1].lease_bytes == 1ull << 29);
  CHECK(opened->ops == full_opened().ops);
  auto stats = control::decode<control::StatsReply>(control::encode(Kind::stats_reply, full_stats()), Kind::stats_reply);
  REQUIRE(stats);
  CHECK(stats->sessions[0].queued == 113);
  CHECK(stats->sessions[0].meaning.label == "warm-up");
  CHECK(stats->sessions[0].meaning.memory == full_meaning().memory);
  auto graph = control::decode<control::Graph>(control::encode(Kind::graph_reply, full_graph()), Kind::graph_reply);
  REQUIRE(graph);
  CHECK(graph->nodes[0].bytes_read[6] == 12);
  CHECK(graph->nodes[0].bytes_written == 5);
  CHECK(graph->edges[0].lifetime_ops == 5);
  CHECK(graph->edges_left_out == 14);
}

TEST_CASE("counts and sizes fail closed") {
  survives_huge_words(Kind::open, full_open());
  survives_huge_words(Kind::opened, full_opened());
  survives_huge_words(Kind::refused, control::Refused{"no room"});
  survives_huge_words(Kind::stats_reply, full_stats());
  survives_huge_words(Kind::graph, control::GraphWanted{7});
  survives_huge_words(Kind::graph_reply, full_graph());
}

TEST_CASE("values that their types cannot hold are refused") {
  Bytes message = control::encode(Kind::open, full_open());
  size_t pid = 0;
  for (size_t at = 0; at < message.size(); at += 8)
    if (read_word(message, at) == 4711) pid = at;
  REQUIRE(pid);
  write_word(message, pid, 0x100000000ull);  // beyond 32 bits
  CHECK_FALSE(control::decode<control::Open>(message, Kind::open));
  control::Open odd = full_open();
  odd.level = control::Level(3);
  CHECK_FALSE(control::decode<control::Open>(control::encode(Kind::open, odd), Kind::open));
}

TEST_CASE("limits hold for messages that are otherwise true") {
  control::Refused longest{std::string(wire::kControlStringMax, 'x')};
  CHECK(control::decode<control::Refused>(control::encode(Kind::refused, longest), Kind::refused));
  longest.reason += 'x';
  CHECK_FALSE(control::decode<control::Refused>(control::encode(Kind::refused, longest), Kind::refused));
  control::Opened opened = full_opened();
  opened.devices.resize(wire::kDevicesMax);
  CHECK(control::decode<control::Opened>(control::encode(Kind::opened, opened), Kind::opened));
  opened.devices.emplace_back();
  CHECK_FALSE(control::decode<control::Opened>(control::encode(Kind::opened, opened), Kind::opened));
  opened = full_opened();
  opened.range.size = 4 * wire::kGranule - 1;
  CHECK(control::decode<control::Opened>(control::encode(Kind::opened, opened), Kind::opened));
  opened.range.size = 2 * wire::kGranule - 1;
  CHECK_FALSE(control::decode<control::Opened>(control::encode(Kind::opened, opened), Kind::opened));
  opened.devices.clear();
  CHECK_FALSE(control::decode<control::Opened>(control::encode(Kind::opened, opened), Kind::opened));
  control::Opened many = full_opened();
  many.ops.assign(wire::kControlListMax, "a");
  CHECK(control::decode<control::Opened>(control::encode(Kind::opened, many), Kind::opened));
  many.ops.push_back("a");
  CHECK_FALSE(control::decode<control::Opened>(control::encode(Kind::opened, many), Kind::opened));
}

TEST_CASE("what is no control message is not looked at") {
  Bytes message = control::encode(Kind::open, full_open());
  auto header = control::peek(message);
  REQUIRE(header);
  CHECK(header->kind == Kind::open);
  CHECK(header->version == wire::kVersion);
  Bytes other = message;
  other[0] ^= std::byte{1};
  CHECK_FALSE(control::peek(other));
  CHECK_FALSE(control::peek(std::span(message).first(7)));
  CHECK_FALSE(control::peek(Bytes(wire::kControlBytesMax + 8, message[0])));
  other = message;
  other[4] ^= std::byte{2};  // the version: the header is told, so that the server can answer in words; the body is not
  REQUIRE(control::peek(other));
  CHECK(control::peek(other)->version != wire::kVersion);
  CHECK_FALSE(control::decode<control::Open>(other, Kind::open));
}

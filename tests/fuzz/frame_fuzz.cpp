// Throws damaged frames and control messages at the parsers that meet strangers first. Nothing may crash (run it under asan), every prefix of a good
// message is refused, and what is accepted must be true: records tile the frame and stay inside it, a decoded control message encodes to the
// size that it came with. `frame_fuzz --seconds N --seed S`; DJINN_FUZZ_SECONDS is the default time.
#include "tests/fuzz/mutation.hpp"
#include "tests/unit/wire/control_messages.hpp"
#include "tests/unit/wire/frames.hpp"

using namespace djinn;
using namespace djinn::test;
using namespace djinn::fuzz;
using control::Kind;

namespace {

uint64_t accepted = 0, refused = 0;

[[noreturn]] void fail(const char* what, const Bytes& message) { djinn::fuzz::fail("frame_fuzz", what, message); }

// In a buffer of exactly its size, so that the sanitizer sees a read of one byte too many.
bool parses(const Bytes& m, size_t bulk) {
  Bytes exact(m);
  exact.shrink_to_fit();
  wire::FrameHeader h;
  std::vector<wire::Record> records;
  if (wire::parse_frame(exact, bulk, h, records) != wire::FrameError::none) return ++refused, false;
  ++accepted;
  size_t tiled = sizeof h;
  uint32_t parts = 0;
  for (const auto& r : records) {
    if (r.payload.data() != exact.data() + tiled + sizeof r.head) fail("records do not tile the frame", m);
    if (r.bulk_first != parts) fail("bulk parts overlap", m);
    tiled += sizeof r.head + r.payload.size();
    parts += r.head.bulk;
  }
  if (h.kind != wire::FrameKind::hello && (tiled != exact.size() || parts != bulk)) fail("records do not fill the frame", m);
  return true;
}

template <class T>
bool decodes(const Bytes& m, Kind kind) {
  Bytes exact(m);
  exact.shrink_to_fit();
  auto body = control::decode<T>(exact, kind);
  if (!body) return ++refused, false;
  ++accepted;
  if (control::encode(kind, *body).size() != m.size()) fail("a decoded message has another size", m);
  return true;
}

void fuzz_frames() {
  std::vector<RecordSpec> specs(below(6));
  size_t bulk = 0;
  for (auto& s : specs) {
    s = {static_cast<uint32_t>(random_bits()), static_cast<uint16_t>(below(3)), static_cast<uint32_t>(below(20))};
    bulk += s.bulk;
  }
  wire::FrameHeader h;
  h.kind = wire::FrameKind(2 + below(7));
  h.session = random_bits();
  h.first_ticket = random_bits();
  Bytes good = below(8) ? frame_of(h, specs) : hello_frame();
  if (good == hello_frame()) bulk = 0;
  if (!parses(good, bulk)) fail("a good frame is refused", good);
  Bytes prefix(good.begin(), good.begin() + static_cast<ptrdiff_t>(below(good.size())));
  if (parses(prefix, bulk)) fail("a prefix is accepted", prefix);
  for (int i = 0; i < 20; i++) {
    Bytes bad = good;
    mutate(bad);
    parses(bad, below(4) ? bulk : below(5));
  }
}

template <class T>
void fuzz_control(Kind kind, const T& body) {
  Bytes good = control::encode(kind, body);
  if (!decodes<T>(good, kind)) fail("a good message is refused", good);
  Bytes prefix(good.begin(), good.begin() + static_cast<ptrdiff_t>(below(good.size())));
  if (decodes<T>(prefix, kind)) fail("a prefix is accepted", prefix);
  for (int i = 0; i < 5; i++) {
    Bytes bad = good;
    mutate(bad);
    control::peek(bad);
    decodes<T>(bad, kind);
  }
}

void fuzz_noise() {
  Bytes noise(below(300));
  for (auto& b : noise) b = std::byte(random_bits());
  if (noise.size() >= 4 && below(2)) std::memcpy(noise.data(), below(2) ? &wire::kFrameMagic : &control::kControlMagic, 4);
  parses(noise, below(3));
  decodes<control::Open>(noise, Kind::open);
  decodes<control::Opened>(noise, Kind::opened);
  decodes<control::GraphWanted>(noise, Kind::graph);
}

}  // namespace

int main(int argc, char** argv) {
  return djinn::fuzz::run("frame_fuzz", argc, argv, accepted, refused, [] {
    for (int i = 0; i < 10; i++) fuzz_frames();
    fuzz_control(Kind::open, full_open());
    fuzz_control(Kind::opened, full_opened());
    fuzz_control(Kind::refused, control::Refused{"no room"});
    fuzz_control(Kind::stats_reply, full_stats());
    fuzz_control(Kind::graph_reply, full_graph());
    fuzz_noise();
  });
}

// Every generated command, by the same seven rules: what is encoded decodes to the same, sizes are as predicted, each field matters, every prefix and
// every surplus is refused, noise does no harm. The list of commands is the generated one, so that a new command is tested by being declared.
#include <random>
#include <set>

#include "djinn_api/commands.hpp"
#include "semantic/wire/command.hpp"
#include "semantic/wire/limits.hpp"
#include "tests/unit/catch.hpp"

using namespace djinn;

namespace {

std::mt19937_64& random_bits() {
  static std::mt19937_64 bits(20260714);
  return bits;
}

template <class T>
void randomize(T& v) {
  uint64_t words[(sizeof v + 7) / 8];
  for (uint64_t& w : words) w = random_bits()();
  std::memcpy(&v, words, sizeof v);
}

template <class C>
C random_command() {
  C c;
  c.each_field([](const char*, auto& field) { randomize(field); });
  return c;
}

template <class C>
std::vector<std::byte> encoded(const C& c) {
  std::vector<std::byte> bytes;
  wire::Writer w(bytes);
  c.encode(w);
  return bytes;
}

template <class C>
bool decodes(std::span<const std::byte> bytes, C& c) {
  wire::Reader r(bytes);
  return c.decode(r);
}

// Runs `check.operator()<C>()` for each command and tells its name on failure.
template <class F>
void each_command(F&& check) {
  api::for_each_command([&]<class C>() {
    INFO(C::kName);
    check.template operator()<C>();
  });
}

}  // namespace

TEST_CASE("encode, decode, encode gives the same bytes") {
  each_command([]<class C>() {
    for (int i = 0; i < 64; i++) {
      C c = random_command<C>(), back;
      auto bytes = encoded(c);
      REQUIRE(decodes(bytes, back));
      REQUIRE(encoded(back) == bytes);
    }
  });
}

TEST_CASE("the predicted size is the written size") {
  each_command([]<class C>() {
    REQUIRE(encoded(random_command<C>()).size() == C::kBytes);
    REQUIRE(C::kBytes % 8 == 0);
    REQUIRE(C::kBytes <= wire::kFrameBytesMax);
  });
}

TEST_CASE("a command appended to others leaves them alone") {
  each_command([]<class C>() {
    std::vector<std::byte> bytes(24, std::byte{0x5a});
    wire::Writer w(bytes);
    random_command<C>().encode(w);
    REQUIRE(bytes.size() == 24 + C::kBytes);
    REQUIRE(std::all_of(bytes.begin(), bytes.begin() + 24, [](std::byte b) { return b == std::byte{0x5a}; }));
  });
}

TEST_CASE("a changed argument changes the wire, and nothing else does") {
  each_command([]<class C>() {
    C c = random_command<C>();
    auto bytes = encoded(c);
    c.each_field([&](const char* name, auto& field) {
      INFO(name);
      auto original = field;
      auto* byte = reinterpret_cast<unsigned char*>(&field);
      for (size_t i = 0; i < sizeof field; i++) {
        byte[i] ^= 1;
        auto changed = encoded(c);
        size_t differing = 0;
        for (size_t j = 0; j < bytes.size(); j++) differing += changed[j] != bytes[j];
        REQUIRE(differing == 1);
        byte[i] ^= 1;
      }
      REQUIRE(field == original);
    });
  });
}

TEST_CASE("every prefix and every surplus is refused") {
  each_command([]<class C>() {
    auto bytes = encoded(random_command<C>());
    C c;
    for (size_t n = 0; n < bytes.size(); n++) {
      std::vector<std::byte> cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(n));  // its own allocation: asan sees a read beyond
      REQUIRE_FALSE(decodes(cut, c));
    }
    for (size_t surplus : {1, 8, 64}) {
      auto longer = bytes;
      longer.insert(longer.end(), surplus, std::byte{0});
      REQUIRE_FALSE(decodes(longer, c));
    }
  });
}

TEST_CASE("noise of any length decodes or is refused, and does no harm") {
  each_command([]<class C>() {
    for (int i = 0; i < 200; i++) {
      std::vector<std::byte> noise(random_bits()() % (2 * C::kBytes));
      for (std::byte& b : noise) b = static_cast<std::byte>(random_bits()());
      C c;
      REQUIRE(decodes(noise, c) == (noise.size() == C::kBytes));
    }
  });
}

// The fixed parts of the hand-written commands, by the same rules.
template <class Fixed>
static void check_fixed() {
  Fixed v, back;
  randomize(v);
  std::vector<std::byte> bytes;
  wire::Writer(bytes).put(v);
  REQUIRE(bytes.size() == sizeof v);
  wire::Reader r(bytes);
  back = r.get<Fixed>();
  REQUIRE(r.finished());
  REQUIRE(std::memcmp(&v, &back, sizeof v) == 0);
  for (size_t i = 0; i < sizeof v; i++) {
    reinterpret_cast<unsigned char*>(&v)[i] ^= 1;
    std::vector<std::byte> changed;
    wire::Writer(changed).put(v);
    REQUIRE(changed != bytes);
    reinterpret_cast<unsigned char*>(&v)[i] ^= 1;
  }
  for (size_t n = 0; n < bytes.size(); n++) {
    std::vector<std::byte> cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(n));
    wire::Reader short_reader(cut);
    short_reader.get<Fixed>();
    REQUIRE_FALSE(short_reader.ok());
  }
}
template <class... Fixed>
static void check_all_fixed() {
  (check_fixed<Fixed>(), ...);
}
TEST_CASE("fixed parts of hand-written commands and reports") {
  using namespace djinn::wire;
  check_all_fixed<MapMemory, Lease, LeaseReply, MemoryInfo, Upload, Download, Copy, Fill, Handle, StreamCreate, StreamWait, EventRecord, ModuleLoad,
                  KernelGet, Launch, Reply, EventDone, Error, Pushed>();
}

TEST_CASE("counts fail closed: a length beyond the message or the limit gives nothing") {
  for (uint64_t length : {uint64_t{9}, uint64_t{4096}, uint64_t{1} << 32, ~uint64_t{0}, ~uint64_t{0} - 7}) {
    std::vector<std::byte> bytes;
    wire::Writer w(bytes);
    w.put(length);
    w.put<uint64_t>(0);
    wire::Reader r(bytes);
    REQUIRE(r.get_bytes(~uint64_t{0}).empty());
    REQUIRE_FALSE(r.ok());
    wire::Reader array(bytes);
    REQUIRE(array.get_array<uint32_t>(1 << 20).empty());
    REQUIRE_FALSE(array.ok());
  }
}

TEST_CASE("opcodes are generated ones, and each is one command's") {
  std::set<uint32_t> seen;
  each_command([&]<class C>() {
    REQUIRE((C::kOpcode & wire::kGeneratedOpcode) != 0);
    REQUIRE(seen.insert(C::kOpcode).second);
  });
  REQUIRE(seen.size() >= 1);
}

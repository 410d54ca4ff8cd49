// What every fuzzer needs. Seeded damage: flipped bits, numbers that break arithmetic put over a field, cuts, insertions, removals; and its main:
// rounds until the time is over.
#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <random>
#include <string_view>
#include <vector>

namespace djinn::fuzz {

inline std::mt19937_64 random_bits;
inline uint64_t below(uint64_t n) { return random_bits() % n; }

// Numbers that break arithmetic more often than random ones do.
inline uint64_t interesting() {
  static constexpr uint64_t kValues[] = {0,          1,          7,          8,          16,         0x7f,       0xff,       0x100, 0xffff, 0x10000,
                                         0x7fffffff, 0x80000000, 0xfffffff8, 0xffffffff, 1ull << 32, 1ull << 62, 1ull << 63, ~7ull, ~0ull};
  return kValues[below(std::size(kValues))];
}

inline void mutate(std::vector<std::byte>& m) {
  for (uint64_t n = 1 + below(4); n; n--) {
    if (m.empty()) return;
    size_t at = below(m.size());
    switch (below(6)) {
      case 0: m[at] ^= std::byte(1u << below(8)); break;
      case 1: m[at] = std::byte(random_bits()); break;
      case 2: {  // a field, at its own alignment
        uint64_t v = interesting();
        size_t width = size_t{2} << below(3);
        at -= at % width;
        if (at + width <= m.size()) std::memcpy(m.data() + at, &v, width);
        break;
      }
      case 3: m.resize(at); break;
      case 4: {
        size_t n = 1 + below(24), old = m.size();
        m.resize(old + n);
        std::memmove(m.data() + at + n, m.data() + at, old - at);
        std::memset(m.data() + at, static_cast<int>(below(256)), n);
        break;
      }
      case 5: {
        size_t n = 1 + below(m.size() - at), rest = m.size() - at - n;
        std::memmove(m.data() + at, m.data() + at + n, rest);
        m.resize(at + rest);
        break;
      }
    }
  }
}

// The end of a fuzzer that found something: what, and the input.
[[noreturn]] inline void fail(const char* fuzzer, const char* what, const std::vector<std::byte>& input) {
  std::fprintf(stderr, "%s: %s\n", fuzzer, what);
  for (std::byte b : input) std::fprintf(stderr, "%02x", static_cast<unsigned>(b));
  std::fprintf(stderr, "\n");
  std::abort();
}

// `NAME --seconds N --seed S`; DJINN_FUZZ_SECONDS is the default time. A fuzzer that accepts nothing, or refuses nothing, has tested nothing.
template <class Round>
int run(const char* fuzzer, int argc, char** argv, const uint64_t& accepted, const uint64_t& refused, Round round) {
  const char* variable = std::getenv("DJINN_FUZZ_SECONDS");
  double seconds = variable ? std::atof(variable) : 2;
  uint64_t seed = 1;
  for (int i = 1; i < argc; i += 2) {
    std::string_view option = argv[i];
    if (option == "--seconds" && i + 1 < argc) seconds = std::atof(argv[i + 1]);
    else if (option == "--seed" && i + 1 < argc) seed = std::strtoull(argv[i + 1], nullptr, 10);
    else return std::fprintf(stderr, "usage: %s [--seconds N] [--seed S]\n", fuzzer), 2;
  }
  random_bits.seed(seed);
  auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  uint64_t rounds = 0;
  do {
    round();
    ++rounds;
  } while (std::chrono::steady_clock::now() < end);
  std::printf("%s: seed %llu, %llu rounds, %llu inputs refused, %llu accepted\n", fuzzer, static_cast<unsigned long long>(seed),
              static_cast<unsigned long long>(rounds), static_cast<unsigned long long>(refused), static_cast<unsigned long long>(accepted));
  return refused && accepted ? 0 : 1;
}

}  // namespace djinn::fuzz

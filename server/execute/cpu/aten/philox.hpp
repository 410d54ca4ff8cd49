// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3; SC 2011), and how cuRAND and PyTorch's CUDA kernels number
// its outputs. A CUDA thread draws from the sequence of its own index: the counter's high half is that index, its low half counts the blocks of four
// words; the generator's offset counts words and is a multiple of four. So each element's words follow from (seed, offset, thread, round) alone, and
// a CPU computes them in any order. Conversions to real numbers follow cuRAND's documented bounds: uniform is (0, 1].
#pragma once
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

#include "semantic/random/launch.hpp"

namespace djinn::aten {

using Words = std::array<uint32_t, 4>;

constexpr Words philox(Words counter, uint32_t key0, uint32_t key1) {
  constexpr uint64_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  constexpr int kRounds = 10;
  for (int i = 0; i < kRounds; i++) {
    uint64_t a = kMultiplier0 * counter[0], b = kMultiplier1 * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key0, static_cast<uint32_t>(b), static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key1,
               static_cast<uint32_t>(a)};
    key0 += kWeyl0, key1 += kWeyl1;
  }
  return counter;
}

// What a kernel is given: the generator's seed, and its offset when the kernel was launched.
struct Philox {
  uint64_t seed, offset;

  // The round-th block of four words that CUDA's thread `thread` draws in this kernel.
  constexpr Words block(uint64_t thread, uint64_t round) const {
    uint64_t n = offset / 4 + round;
    return philox({static_cast<uint32_t>(n), static_cast<uint32_t>(n >> 32), static_cast<uint32_t>(thread), static_cast<uint32_t>(thread >> 32)},
                  static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  }
  // The n-th single word of a thread.
  constexpr uint32_t word(uint64_t thread, uint64_t n) const { return block(thread, n / 4)[n % 4]; }
};

using random::DeviceShape;
using random::Launch;

constexpr uint64_t pair(uint32_t high, uint32_t low) { return uint64_t{high} << 32 | low; }

// (0, 1]
inline float uniform(uint32_t x) { return static_cast<float>(x) * 0x1p-32f + 0x1p-33f; }
inline double uniform_double(uint32_t x, uint32_t y) { return static_cast<double>(uint64_t{x} ^ uint64_t{y} << 21) * 0x1p-53 + 0x1p-54; }

// Box and Muller: two uniform words (four for doubles) to two normal numbers.
inline std::array<float, 2> normal_pair(uint32_t x, uint32_t y) {
  constexpr float kTurn = 0x1p-32f * 6.2831855f;
  float radius = std::sqrt(-2.0f * std::log(uniform(x))), angle = std::fma(static_cast<float>(y), kTurn, kTurn / 2);
  return {std::sin(angle) * radius, std::cos(angle) * radius};
}
inline std::array<double, 2> normal_pair_double(const Words& w) {
  constexpr double kPi = 3.14159265358979323846;
  double half_turns = static_cast<double>(uint64_t{w[2]} ^ uint64_t{w[3]} << 21) * 0x1p-52 + 0x1p-53;
  double radius = std::sqrt(-2.0 * std::log(uniform_double(w[0], w[1])));
  return {std::sin(half_turns * kPi) * radius, std::cos(half_turns * kPi) * radius};
}

// -log(u) / lambda, never zero: PyTorch keeps log away from 0 by half an epsilon.
template <class T>
T exponential(T u, T lambda) {
  constexpr T kHalfEpsilon = std::numeric_limits<T>::epsilon() / 2;
  return T(-1) / lambda * (u >= 1 - kHalfEpsilon ? -kHalfEpsilon : std::log(u));
}

}  // namespace djinn::aten

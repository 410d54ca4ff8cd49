// float16 and bfloat16 as bits, to and from float: round to nearest, ties to even, as the GPU does. Portable, since not every compiler has the types.
#pragma once
#include <bit>
#include <cstdint>

namespace djinn::server {

struct Half {
  uint16_t bits;
};
struct Bfloat {
  uint16_t bits;
};

inline float to_float(float v) { return v; }
inline float to_float(Bfloat v) { return std::bit_cast<float>(uint32_t{v.bits} << 16); }
inline float to_float(Half v) {
  uint32_t sign = (v.bits & 0x8000u) << 16, exponent = v.bits >> 10 & 31u, mantissa = v.bits & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | mantissa << 13);
  // subnormal: mantissa · 2⁻²⁴, exactly
  if (exponent == 0) return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(static_cast<float>(mantissa) * 0x1p-24f));
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

inline void from_float(float f, float& out) { out = f; }
inline void from_float(float f, Bfloat& out) {
  uint32_t u = std::bit_cast<uint32_t>(f);
  if (f != f) out.bits = static_cast<uint16_t>(u >> 16 | 0x40u);  // quiet, and still a NaN after the cut
  else out.bits = static_cast<uint16_t>((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}
inline void from_float(float f, Half& out) {
  uint32_t u = std::bit_cast<uint32_t>(f), sign = u >> 16 & 0x8000u, magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) out.bits = static_cast<uint16_t>(sign | 0x7e00u);
  else if (magnitude >= 0x477ff000u) out.bits = static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and above round to infinity
  else if (magnitude < 0x38800000u)
    // subnormal: adding 0.5 puts the half's last bit at the float's last bit, so that the addition rounds
    out.bits = static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u));
  else out.bits = static_cast<uint16_t>(sign | (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13);
}

}  // namespace djinn::server

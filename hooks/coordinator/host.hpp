// Tensors in the caller's memory: how their elements lie, packing them, and a fingerprint by which an equal input is recognised.
#pragma once
#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace djinn::coordinator {

struct Fingerprint {
  uint64_t word[2];
  friend auto operator<=>(const Fingerprint&, const Fingerprint&) = default;
};
// 128 bits, and fast. It is no cryptographic hash; whoever may choose inputs must not know the seed, or could make two that look equal.
using Seed = std::array<uint64_t, 4>;
Fingerprint fingerprint(std::span<const std::byte> bytes, const Seed& seed = {});

std::vector<int64_t> contiguous_strides(std::span<const int64_t> sizes);
// The bytes from the first element to behind the last; false when a size is negative or something overflows, be it that (of expanded dimensions) or
// the bytes of all elements side by side. Strides must not be negative.
bool span_bytes(std::span<const int64_t> sizes, std::span<const int64_t> strides, size_t item, uint64_t& bytes);
// False when a size is negative or it overflows.
bool count_elements(std::span<const int64_t> sizes, uint64_t& elements);
bool packed_bytes(std::span<const int64_t> sizes, size_t item, uint64_t& bytes);
// Do the elements lie side by side, without holes and overlaps, in whatever order?
bool is_dense(std::span<const int64_t> sizes, std::span<const int64_t> strides);
// Copies the elements in row-major order.
void pack(std::byte* to, const std::byte* from, std::span<const int64_t> sizes, std::span<const int64_t> strides, size_t item);

}  // namespace djinn::coordinator

// See host.hpp.
#include "hooks/coordinator/host.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

namespace djinn::coordinator {

namespace {

constexpr uint64_t kOdd[4] = {0x9E3779B97F4A7C15ull, 0xBF58476D1CE4E5B9ull, 0x94D049BB133111EBull, 0xD6E8FEB86659FD93ull};

uint64_t finish(uint64_t h) {
  h = (h ^ (h >> 32)) * kOdd[3];
  h = (h ^ (h >> 29)) * kOdd[1];
  return h ^ (h >> 32);
}

template <class T>
void pack_row(std::byte* to, const std::byte* from, int64_t n, int64_t stride) {
  for (int64_t i = 0; i < n; i++) std::memcpy(to + i * sizeof(T), from + i * stride * static_cast<int64_t>(sizeof(T)), sizeof(T));
}

struct Pair {
  uint64_t half[2];
};

void pack_row(std::byte* to, const std::byte* from, int64_t n, int64_t stride, size_t item) {
  if (stride == 1) return static_cast<void>(std::memcpy(to, from, static_cast<size_t>(n) * item));
  switch (item) {
    case 1: return pack_row<uint8_t>(to, from, n, stride);
    case 2: return pack_row<uint16_t>(to, from, n, stride);
    case 4: return pack_row<uint32_t>(to, from, n, stride);
    case 8: return pack_row<uint64_t>(to, from, n, stride);
    default: return pack_row<Pair>(to, from, n, stride);  // 16: item_bytes() has no other
  }
}

std::byte* pack_dimension(std::byte* to, const std::byte* from, std::span<const int64_t> sizes, std::span<const int64_t> strides, size_t item) {
  if (sizes.size() == 1) {
    pack_row(to, from, sizes[0], strides[0], item);
    return to + static_cast<size_t>(sizes[0]) * item;
  }
  for (int64_t i = 0; i < sizes[0]; i++)
    to = pack_dimension(to, from + i * strides[0] * static_cast<int64_t>(item), sizes.subspan(1), strides.subspan(1), item);
  return to;
}

}  // namespace

// Four lanes, because one multiplication waits for the one before. Both halves of the product are kept: with the lower one alone the top bit of a
// word (a sign) could be undone by one bit of the next.
Fingerprint fingerprint(std::span<const std::byte> bytes, const Seed& seed) {
  uint64_t lane[4] = {kOdd[3] ^ seed[0] ^ bytes.size(), kOdd[2] ^ seed[1], kOdd[1] ^ seed[2], kOdd[0] ^ seed[3]};
  const std::byte* p = bytes.data();
  size_t left = bytes.size();
  auto step = [&](int i, uint64_t w) {
    auto product = static_cast<unsigned __int128>(lane[i] ^ w) * kOdd[i];
    lane[i] = static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  };
  for (; left >= 32; p += 32, left -= 32) {
    uint64_t w[4];
    std::memcpy(w, p, sizeof w);
    for (int i = 0; i < 4; i++) step(i, w[i]);
  }
  for (int i = 0; left; i++) {
    uint64_t w = 0;
    size_t n = std::min<size_t>(left, 8);
    std::memcpy(&w, p, n);
    step(i, w);
    p += n, left -= n;
  }
  uint64_t a = finish(lane[0]) ^ std::rotl(finish(lane[1]), 17), b = finish(lane[2]) ^ std::rotl(finish(lane[3]), 31);
  return {{finish(a + kOdd[0] * b), finish(b + kOdd[1] * std::rotl(a, 7))}};
}

std::vector<int64_t> contiguous_strides(std::span<const int64_t> sizes) {
  std::vector<int64_t> strides(sizes.size());
  uint64_t next = 1;  // of an empty tensor it may overflow
  for (size_t i = sizes.size(); i-- > 0;) {
    strides[i] = static_cast<int64_t>(next);
    next *= static_cast<uint64_t>(std::max<int64_t>(sizes[i], 1));
  }
  return strides;
}

bool count_elements(std::span<const int64_t> sizes, uint64_t& elements) {
  bool none = false;
  for (int64_t s : sizes) {
    if (s < 0) return false;
    none |= s == 0;
  }
  elements = none ? 0 : 1;
  for (int64_t s : sizes)
    if (__builtin_mul_overflow(elements, static_cast<uint64_t>(s), &elements) || elements > static_cast<uint64_t>(INT64_MAX)) return false;
  return true;
}

bool packed_bytes(std::span<const int64_t> sizes, size_t item, uint64_t& bytes) {
  uint64_t elements;
  return count_elements(sizes, elements) && !__builtin_mul_overflow(elements, item, &bytes);
}

bool span_bytes(std::span<const int64_t> sizes, std::span<const int64_t> strides, size_t item, uint64_t& bytes) {
  uint64_t last = 0, step;
  if (!packed_bytes(sizes, item, bytes)) return false;
  if (!bytes) return true;
  for (size_t i = 0; i < sizes.size(); i++)
    if (strides[i] < 0 || __builtin_mul_overflow(static_cast<uint64_t>(sizes[i] - 1), static_cast<uint64_t>(strides[i]), &step) ||
        __builtin_add_overflow(last, step, &last))
      return false;
  return !__builtin_add_overflow(last, 1, &last) && !__builtin_mul_overflow(last, item, &bytes);
}

bool is_dense(std::span<const int64_t> sizes, std::span<const int64_t> strides) {
  std::vector<std::pair<int64_t, int64_t>> dimensions;
  for (size_t i = 0; i < sizes.size(); i++)
    if (sizes[i] != 1) dimensions.emplace_back(strides[i], sizes[i]);
  std::sort(dimensions.begin(), dimensions.end());
  int64_t next = 1;
  for (auto [stride, size] : dimensions) {
    if (stride != next) return false;
    next *= size;
  }
  return true;
}

void pack(std::byte* to, const std::byte* from, std::span<const int64_t> sizes, std::span<const int64_t> strides, size_t item) {
  uint64_t elements;
  if (!count_elements(sizes, elements) || !elements) return;
  if (sizes.empty()) return static_cast<void>(std::memcpy(to, from, item));
  pack_dimension(to, from, sizes, strides, item);
}

}  // namespace djinn::coordinator

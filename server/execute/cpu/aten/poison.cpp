#include "server/execute/cpu/aten/poison.hpp"

#include <algorithm>
#include <cstring>

namespace djinn::aten {

namespace {

constexpr uint64_t kStamp = 0xd1e5a7c3b94f2e86u;  // no number that a program would upload
constexpr uint64_t kStampStep = 512;
constexpr uint64_t kSamplesMax = 4096;  // words of a checksum: 4 KiB … 32 KiB read per failure

const std::byte* at(uint64_t address) { return reinterpret_cast<const std::byte*>(address); }

uint64_t checksum(uint64_t low, uint64_t high) {
  uint64_t sum = 0xcbf29ce484222325u, bytes = high - low, step = std::max<uint64_t>(8, bytes / kSamplesMax / 8 * 8);
  for (uint64_t i = 0; i < bytes; i += step) {
    uint64_t word = 0;
    std::memcpy(&word, at(low + i), std::min<uint64_t>(8, bytes - i));
    sum = (sum ^ word) * 0x100000001b3u;
    sum ^= sum >> 29;
  }
  return sum;
}

uint64_t stamp_bytes(uint64_t address, uint64_t high) { return std::min<uint64_t>(8, high - address); }

}  // namespace

void Poison::add(uint64_t low, uint64_t high, bool stamp, const std::shared_ptr<Failure>& origin) {
  if (high <= low || !live_(low, high - low)) return;
  written(low, high);
  if (ranges_.size() >= kPoisonRangesMax) ranges_.erase(ranges_.begin());
  Range r{low, high, stamp, 0, origin};
  if (stamp)
    for (uint64_t a = low; a < high; a += kStampStep) std::memcpy(reinterpret_cast<void*>(a), &kStamp, stamp_bytes(a, high));
  else r.checksum = checksum(low, high);
  ranges_.push_back(std::move(r));
}

// Is what the op left still there, where [low, high) meets the range?
bool Poison::spoilt(const Range& r, uint64_t low, uint64_t high) const {
  if (!r.stamped) return live_(r.low, r.high - r.low) && checksum(r.low, r.high) == r.checksum;
  uint64_t from = std::max(low, r.low), to = std::min(high, r.high);
  uint64_t block = r.low + (from - r.low + kStampStep - 1) / kStampStep * kStampStep;  // first stamp inside, or else the one before
  if (block >= to) block -= kStampStep;
  uint64_t bytes = stamp_bytes(block, r.high);
  return live_(block, bytes) && std::memcmp(at(block), &kStamp, bytes) == 0;
}

std::shared_ptr<Failure> Poison::find(uint64_t low, uint64_t high) {
  for (size_t i = 0; i < ranges_.size();) {
    Range& r = ranges_[i];
    if (r.low >= high || low >= r.high) {
      i++;
      continue;
    }
    if (spoilt(r, low, high)) return r.origin;
    if (!r.stamped)  // overwritten, and a checksum cannot tell where
      ranges_.erase(ranges_.begin() + i);
    else i++;
  }
  return nullptr;
}

void Poison::written(uint64_t low, uint64_t high) {
  std::erase_if(ranges_, [&](const Range& r) { return r.low >= low && r.high <= high; });
}

}  // namespace djinn::aten

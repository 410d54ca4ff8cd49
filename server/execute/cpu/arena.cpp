// See arena.hpp.
#include "server/execute/cpu/arena.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace djinn::server {

using wire::kGranule;

Arena::~Arena() {
  if (size_) munmap(reinterpret_cast<void*>(address_), size_);
  if (memory_ >= 0) close(memory_);
}

bool Arena::reserve(uint64_t address, uint64_t size) {
  if (size_ || !size || address % kGranule || size % kGranule || address + size < address) return false;
  void* at = mmap(reinterpret_cast<void*>(address), size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
  if (at == MAP_FAILED) return false;
  memory_ = memfd_create("djinn-device", MFD_CLOEXEC);
  if (reinterpret_cast<uint64_t>(at) != address || memory_ < 0 || ftruncate(memory_, static_cast<off_t>(size)) != 0) {
    munmap(at, size);
    return false;
  }
  address_ = address;
  size_ = size;
  live_.assign(size / kGranule, 0);
  return true;
}

bool Arena::granules(uint64_t address, uint64_t size, size_t& first, size_t& count) const {
  if (!size || address < address_ || address - address_ > size_ || size > size_ - (address - address_)) return false;
  if ((address - address_) % kGranule || size % kGranule) return false;
  first = (address - address_) / kGranule;
  count = size / kGranule;
  return true;
}

std::string Arena::map(uint64_t address, uint64_t size) {
  size_t first, count;
  if (!granules(address, size, first, count)) return "not whole granules of the session's range";
  auto begin = live_.begin() + static_cast<ptrdiff_t>(first), end = begin + static_cast<ptrdiff_t>(count);
  if (std::find(begin, end, 1) != end) return "mapped already";
  void* at =
      mmap(reinterpret_cast<void*>(address), size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory_, static_cast<off_t>(address - address_));
  if (at == MAP_FAILED) return std::string("mmap: ") + strerror(errno);
  std::fill(begin, end, 1);
  mapped_ += size;
  peak_ = std::max(peak_, mapped_);
  return {};
}

std::string Arena::unmap(uint64_t address, uint64_t size) {
  size_t first, count;
  if (!granules(address, size, first, count)) return "not whole granules of the session's range";
  auto begin = live_.begin() + static_cast<ptrdiff_t>(first), end = begin + static_cast<ptrdiff_t>(count);
  if (std::find(begin, end, 0) != end) return "not mapped";
  // the pages leave the memfd: an address space without memory behind it
  fallocate(memory_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(address - address_), static_cast<off_t>(size));
  mmap(reinterpret_cast<void*>(address), size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  std::fill(begin, end, 0);
  mapped_ -= size;
  ++epoch_;
  return {};
}

bool Arena::live(uint64_t address, uint64_t bytes) const {
  if (!bytes) return true;
  if (address < address_ || address - address_ >= size_ || bytes > size_ - (address - address_)) return false;
  size_t first = (address - address_) / kGranule, last = (address - address_ + bytes - 1) / kGranule;
  for (size_t i = first; i <= last; i++)
    if (!live_[i]) return false;
  return true;
}

bool Arena::live(uint64_t address, uint64_t pitch, uint64_t width, uint64_t height) const {
  if (!width || !height) return true;
  if (height == 1) return live(address, width);
  uint64_t rows, extent;
  if (pitch < width || __builtin_mul_overflow(pitch, height - 1, &rows) || __builtin_add_overflow(rows, width, &extent)) return false;
  return live(address, extent);
}

}  // namespace djinn::server

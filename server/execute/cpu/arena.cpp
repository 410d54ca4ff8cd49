// See arena.hpp.
#include "server/execute/cpu/arena.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace djinn::server {

using wire::kGranule;
// Twice the range is the file's length, which is a signed number.
constexpr uint64_t kSizeMax = 1ull << 61;
// Handles of physical memory: far more than granules of any machine's memory, so that a client that leaks them meets the lease first.
constexpr size_t kPhysicalMax = 1 << 20;

Arena::~Arena() {
  if (size_) munmap(reinterpret_cast<void*>(address_), size_);
  if (memory_ >= 0) close(memory_);
}

bool Arena::reserve(uint64_t address, uint64_t size) {
  if (size_ || !size || address % kGranule || size % kGranule || address + size < address || size > kSizeMax) return false;
  void* at = mmap(reinterpret_cast<void*>(address), size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
  if (at == MAP_FAILED) return false;
  memory_ = memfd_create("djinn-device", MFD_CLOEXEC);
  if (reinterpret_cast<uint64_t>(at) != address || memory_ < 0 || ftruncate(memory_, static_cast<off_t>(2 * size)) != 0) {
    munmap(at, size);
    return false;
  }
  address_ = address;
  size_ = size;
  state_.assign(size / kGranule, kNothing);
  file_free_[size] = size;
  return true;
}

bool Arena::granules(uint64_t address, uint64_t size, size_t& first, size_t& count) const {
  if (!size || address < address_ || address - address_ > size_ || size > size_ - (address - address_)) return false;
  if ((address - address_) % kGranule || size % kGranule) return false;
  first = (address - address_) / kGranule;
  count = size / kGranule;
  return true;
}

bool Arena::all(size_t first, size_t count, uint8_t state) const {
  auto begin = state_.begin() + static_cast<ptrdiff_t>(first);
  return std::all_of(begin, begin + static_cast<ptrdiff_t>(count), [&](uint8_t s) { return s == state; });
}

// An address space without memory behind it.
void Arena::vacate(uint64_t address, uint64_t size) {
  mmap(reinterpret_cast<void*>(address), size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  std::fill_n(state_.begin() + static_cast<ptrdiff_t>((address - address_) / kGranule), size / kGranule, kNothing);
  ++epoch_;
}

static constexpr const char* kNotGranules = "not whole granules of the session's range";

std::string Arena::map(uint64_t address, uint64_t size) {
  size_t first, count;
  if (!granules(address, size, first, count)) return kNotGranules;
  if (!all(first, count, kNothing)) return "mapped already";
  void* at =
      mmap(reinterpret_cast<void*>(address), size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory_, static_cast<off_t>(address - address_));
  if (at == MAP_FAILED) return std::string("mmap: ") + strerror(errno);
  std::fill_n(state_.begin() + static_cast<ptrdiff_t>(first), count, kLive);
  mapped_ += size;
  peak_ = std::max(peak_, mapped_);
  return {};
}

std::string Arena::unmap(uint64_t address, uint64_t size) {
  size_t first, count;
  if (!granules(address, size, first, count)) return kNotGranules;
  if (!all(first, count, kLive)) return "not mapped";
  fallocate(memory_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(address - address_), static_cast<off_t>(size));
  vacate(address, size);
  mapped_ -= size;
  return {};
}

// ---- physical memory by handle ----

// First fit; an offset in the file's second half.
std::optional<uint64_t> Arena::take_file(uint64_t size) {
  for (auto i = file_free_.begin(); i != file_free_.end(); ++i) {
    auto [offset, bytes] = *i;
    if (bytes < size) continue;
    file_free_.erase(i);
    if (bytes > size) file_free_[offset + size] = bytes - size;
    return offset;
  }
  return std::nullopt;
}

void Arena::give_back(uint64_t offset, uint64_t size) {
  fallocate(memory_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset), static_cast<off_t>(size));
  auto next = file_free_.lower_bound(offset);
  if (next != file_free_.end() && offset + size == next->first) {
    size += next->second;
    next = file_free_.erase(next);
  }
  if (next != file_free_.begin() && std::prev(next)->first + std::prev(next)->second == offset) std::prev(next)->second += size;
  else file_free_[offset] = size;
}

std::string Arena::check_new(uint64_t handle, uint64_t size) const {
  if (!size || size % kGranule || size > size_) return "not whole granules";
  if (!handle || physical_.count(handle)) return "the handle is taken";
  if (physical_.size() >= kPhysicalMax) return "too many handles";
  return {};
}

std::string Arena::create(uint64_t handle, uint64_t size, uint64_t device) {
  if (auto e = check_new(handle, size); !e.empty()) return e;
  auto offset = take_file(size);
  if (!offset) return "the device's file is full";
  physical_.try_emplace(handle, Physical{*offset, size, device});
  mapped_ += size;
  peak_ = std::max(peak_, mapped_);
  return {};
}

void Arena::free_if_unused(uint64_t handle, Freed& freed) {
  auto i = physical_.find(handle);
  const Physical& p = i->second;
  if (!p.released || p.mappings) return;
  if (!p.foreign) {
    give_back(p.offset, p.size);
    mapped_ -= p.size;
    freed.device = p.device;
    freed.bytes += p.size;
  }
  physical_.erase(i);
}

std::string Arena::release(uint64_t handle, Freed& freed) {
  auto i = physical_.find(handle);
  if (i == physical_.end() || i->second.released) return "there is no such physical memory";
  i->second.released = true;
  free_if_unused(handle, freed);
  return {};
}

const uint64_t* Arena::device_of(uint64_t handle) const {
  auto i = physical_.find(handle);
  return i == physical_.end() ? nullptr : &i->second.device;
}

std::string Arena::map(uint64_t address, uint64_t size, uint64_t handle, uint64_t offset) {
  size_t first, count;
  if (!granules(address, size, first, count)) return kNotGranules;
  if (!all(first, count, kNothing)) return "mapped already";
  auto i = physical_.find(handle);
  if (i == physical_.end() || i->second.released) return "there is no such physical memory";
  Physical& p = i->second;
  if (offset % kGranule || offset > p.size || size > p.size - offset) return "not inside the physical memory";
  int file = p.foreign ? p.foreign.get() : memory_;
  void* at = mmap(reinterpret_cast<void*>(address), size, PROT_NONE, MAP_SHARED | MAP_FIXED, file, static_cast<off_t>(p.offset + offset));
  if (at == MAP_FAILED) return std::string("mmap: ") + strerror(errno);
  std::fill_n(state_.begin() + static_cast<ptrdiff_t>(first), count, kVirtual);
  mappings_[address] = {size, handle};
  ++p.mappings;
  return {};
}

bool Arena::whole_mappings(uint64_t address, uint64_t size) const {
  size_t first, count;
  if (!granules(address, size, first, count)) return false;
  for (uint64_t done = 0; done < size;) {
    auto i = mappings_.find(address + done);
    if (i == mappings_.end() || i->second.size > size - done) return false;
    done += i->second.size;
  }
  return true;
}

std::string Arena::access(uint64_t address, uint64_t size, bool accessible) {
  if (!whole_mappings(address, size)) return "not whole mappings";
  if (mprotect(reinterpret_cast<void*>(address), size, accessible ? PROT_READ | PROT_WRITE : PROT_NONE) != 0)
    return std::string("mprotect: ") + strerror(errno);
  uint8_t state = accessible ? kVirtual | kLive : kVirtual;
  std::fill_n(state_.begin() + static_cast<ptrdiff_t>((address - address_) / kGranule), size / kGranule, state);
  if (!accessible) ++epoch_;
  return {};
}

std::string Arena::unmap_virtual(uint64_t address, uint64_t size, Freed& freed) {
  if (!whole_mappings(address, size)) return "not whole mappings";
  vacate(address, size);
  for (auto i = mappings_.find(address); i != mappings_.end() && i->first - address < size; i = mappings_.erase(i)) {
    --physical_[i->second.handle].mappings;
    free_if_unused(i->second.handle, freed);
  }
  return {};
}

// ---- memory between sessions ----

std::string Arena::locate(uint64_t handle, uint64_t address, uint64_t size, FilePart& part) const {
  if (handle) {
    auto i = physical_.find(handle);
    if (i == physical_.end() || i->second.released) return "there is no such physical memory";
    if (i->second.foreign) return "the memory is another session's";
    part = {i->second.offset, i->second.size};
    return {};
  }
  size_t first, count;
  if (!granules(address, size, first, count)) return kNotGranules;
  if (!all(first, count, kLive)) return "not mapped";
  part = {address - address_, size};
  return {};
}

std::string Arena::import(uint64_t handle, uint64_t device, Descriptor file, FilePart part) {
  if (auto e = check_new(handle, part.size); !e.empty()) return e;
  if (!file || part.offset % kGranule) return "not a part of a session's memory";
  physical_.try_emplace(handle, Physical{part.offset, part.size, device, std::move(file)});
  return {};
}

bool Arena::live(uint64_t address, uint64_t bytes) const {
  if (!bytes) return true;
  if (address < address_ || address - address_ >= size_ || bytes > size_ - (address - address_)) return false;
  size_t first = (address - address_) / kGranule, last = (address - address_ + bytes - 1) / kGranule;
  for (size_t i = first; i <= last; i++)
    if (!(state_[i] & kLive)) return false;
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

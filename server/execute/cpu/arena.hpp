// Device memory of the CPU device: one range of addresses, the same in client and worker, whose granules (2 MiB) are mapped from a memfd when the
// client maps them and given back to the operating system when it unmaps them. A memfd, because aliasing, sharing between sessions and swapping
// will name granules later. Every extent that a command names is looked up here before it is touched.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "semantic/wire/limits.hpp"

namespace djinn::server {

class Arena {
 public:
  Arena() = default;
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // Reserves [address, address + size) in this process; false when something lies there.
  bool reserve(uint64_t address, uint64_t size);
  // Whole granules inside the range; map refuses what is mapped already, unmap what is not. Empty = done, else why not.
  std::string map(uint64_t address, uint64_t size);
  std::string unmap(uint64_t address, uint64_t size);

  // Is every byte of [address, address + bytes) mapped? Zero bytes are live anywhere.
  bool live(uint64_t address, uint64_t bytes) const;
  // `height` rows of `width` bytes, `pitch` apart.
  bool live(uint64_t address, uint64_t pitch, uint64_t width, uint64_t height) const;

  uint64_t address() const { return address_; }
  uint64_t size() const { return size_; }
  uint64_t mapped() const { return mapped_; }
  uint64_t peak() const { return peak_; }
  // Changes with every unmap, so that the results of live() may be kept until then.
  uint64_t epoch() const { return epoch_; }

 private:
  bool granules(uint64_t address, uint64_t size, size_t& first, size_t& count) const;
  uint64_t address_ = 0, size_ = 0, mapped_ = 0, peak_ = 0, epoch_ = 1;
  int memory_ = -1;
  std::vector<uint8_t> live_;  // per granule
};

}  // namespace djinn::server

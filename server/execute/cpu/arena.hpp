// Device memory of the CPU device: one range of addresses, the same in client and worker, whose granules (2 MiB) are mapped from a memfd when the
// client maps them and given back to the operating system when it unmaps them. The first half of the file holds granules that have one address; the
// second half physical memory that has a handle (CUDA's virtual memory management) and shows wherever it is mapped. Every extent that a command names
// is looked up here before it is touched.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "semantic/wire/limits.hpp"
#include "server/execute/device.hpp"

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

  // Physical memory by handle. It counts as mapped from its creation until it is released and nowhere mapped; what ends then is told in `freed`.
  using Freed = Device::Freed;
  std::string create(uint64_t handle, uint64_t size, uint64_t device);
  std::string release(uint64_t handle, Freed& freed);
  // Maps a part of it, which is not live before access() says so.
  std::string map(uint64_t address, uint64_t size, uint64_t handle, uint64_t offset);
  // Both: extents of whole mappings without a gap.
  std::string access(uint64_t address, uint64_t size, bool accessible);
  std::string unmap_virtual(uint64_t address, uint64_t size, Freed& freed);
  // Null: there is no such handle.
  const uint64_t* device_of(uint64_t handle) const;

  // Memory between sessions. Sharing gives away a part of the file; whoever maps it sees the same bytes. Imported memory is its owner's: it is not
  // counted here. When the owner frees it, CUDA leaves undefined what the importer sees; here it reads as zeros until the owner uses the place again.
  using FilePart = Device::FilePart;
  int file() const { return memory_; }
  std::string locate(uint64_t handle, uint64_t address, uint64_t size, FilePart& part) const;
  std::string import(uint64_t handle, uint64_t device, Descriptor file, FilePart part);

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
  struct Physical {
    uint64_t offset, size, device;  // offset in the file
    Descriptor foreign{};           // the file, when it is another session's
    uint64_t mappings = 0;
    bool released = false;
  };
  struct Mapping {
    uint64_t size, handle;
  };
  enum State : uint8_t { kNothing = 0, kLive = 1, kVirtual = 2 };  // bits; a mapping with a handle has kVirtual, and kLive when it is accessible
  bool granules(uint64_t address, uint64_t size, size_t& first, size_t& count) const;
  bool all(size_t first, size_t count, uint8_t state) const;
  bool whole_mappings(uint64_t address, uint64_t size) const;
  void vacate(uint64_t address, uint64_t size);
  std::string check_new(uint64_t handle, uint64_t size) const;
  std::optional<uint64_t> take_file(uint64_t size);
  void give_back(uint64_t offset, uint64_t size);
  void free_if_unused(uint64_t handle, Freed& freed);
  uint64_t address_ = 0, size_ = 0, mapped_ = 0, peak_ = 0, epoch_ = 1;
  int memory_ = -1;
  std::vector<uint8_t> state_;  // per granule
  std::unordered_map<uint64_t, Physical> physical_;
  std::map<uint64_t, Mapping> mappings_;    // address →
  std::map<uint64_t, uint64_t> file_free_;  // of the file's second half: offset → bytes
};

}  // namespace djinn::server

// The client's allocator over the session's address range: where things lie is decided here without asking anyone; which granules have memory behind
// them is posted. CUDA's rules: 256-byte alignment, 2 MiB granules. Within the lease an allocation is local; crossing it asks the server. No memory
// is touched: the range is mapped PROT_NONE. Mirror: server/execute/cpu/arena.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <vector>

namespace djinn {

class DeviceArena {
 public:
  struct Server {
    std::function<void(uint64_t address, uint64_t bytes)> map, unmap;  // posted
    std::function<uint64_t(uint64_t bytes)> lease;                     // a round trip: what is granted in total
  };
  DeviceArena(uint64_t address, uint64_t size, uint64_t lease, Server server);

  // Nullopt: out of memory (the server refused, or the range is full).
  std::optional<uint64_t> allocate(uint64_t bytes);
  // False when `address` is not an allocation's first byte.
  bool release(uint64_t address);

  // Address space without memory: whole granules; `alignment` is a power of two, at least a granule. The caller gives back what it took.
  std::optional<uint64_t> reserve(uint64_t bytes, uint64_t alignment);
  void unreserve(uint64_t address, uint64_t bytes);
  // Memory without an address counts against the lease, too. False: refused.
  bool charge(uint64_t bytes);
  void discharge(uint64_t bytes);

  struct Block {
    uint64_t address, bytes;
  };
  // The allocation that holds `address`.
  std::optional<Block> find(uint64_t address) const;
  bool in_range(uint64_t address) const { return address - begin_ < size_; }
  uint64_t mapped() const;
  uint64_t allocated() const;

 private:
  bool cover(uint64_t address, uint64_t bytes);
  void uncover(uint64_t address, uint64_t bytes);
  bool grow_lease(uint64_t needed);
  void shrink_lease();
  // The best free place for so many bytes; end() without one.
  std::set<std::pair<uint64_t, uint64_t>>::iterator fitting(uint64_t bytes, uint64_t alignment, uint64_t& at);
  void take_free(std::set<std::pair<uint64_t, uint64_t>>::iterator place, uint64_t at, uint64_t bytes);
  void add_free(uint64_t address, uint64_t bytes);
  void remove_free(std::map<uint64_t, uint64_t>::iterator block);
  template <class Change>
  void each_run(uint64_t address, uint64_t bytes, Change change, const std::function<void(uint64_t, uint64_t)>& tell);

  const uint64_t begin_, size_;
  Server server_;
  mutable std::mutex mutex_;
  std::map<uint64_t, uint64_t> free_;                // address → bytes
  std::set<std::pair<uint64_t, uint64_t>> by_size_;  // (bytes, address): best fit, lowest address first
  std::map<uint64_t, uint64_t> used_;
  std::vector<uint32_t> users_;  // allocations that touch each granule
  uint64_t lease_, mapped_ = 0, allocated_ = 0;
};

}  // namespace djinn

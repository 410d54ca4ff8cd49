// See arena.hpp.
#include "interpose/shadow/arena.hpp"

#include <algorithm>

#include "semantic/wire/limits.hpp"

namespace djinn {

namespace {
using wire::kGranule;
constexpr uint64_t kAlignment = 256;
// The lease grows in such steps, so that a growing program does not ask for every granule; it shrinks when this much of it lies idle.
constexpr uint64_t kLeaseStep = 64ull << 20, kLeaseIdle = 512ull << 20;
uint64_t round_up(uint64_t n, uint64_t unit) { return (n + unit - 1) / unit * unit; }
}  // namespace

DeviceArena::DeviceArena(uint64_t address, uint64_t size, uint64_t lease, Server server)
    : begin_(address), size_(size), server_(std::move(server)), users_(size / kGranule), lease_(lease) {
  add_free(begin_, size_);
}

void DeviceArena::add_free(uint64_t address, uint64_t bytes) {
  auto next = free_.lower_bound(address);
  if (next != free_.end() && address + bytes == next->first) {  // join with what follows
    bytes += next->second;
    auto gone = next++;
    remove_free(gone);
  }
  if (next != free_.begin()) {
    auto before = std::prev(next);
    if (before->first + before->second == address) {
      address = before->first;
      bytes += before->second;
      remove_free(before);
    }
  }
  free_[address] = bytes;
  by_size_.insert({bytes, address});
}

void DeviceArena::remove_free(std::map<uint64_t, uint64_t>::iterator block) {
  by_size_.erase({block->second, block->first});
  free_.erase(block);
}

// Walks the granules of an extent; `change` says whether a granule's state changes; neighbouring ones are told together.
template <class Change>
void DeviceArena::each_run(uint64_t address, uint64_t bytes, Change change, const std::function<void(uint64_t, uint64_t)>& tell) {
  size_t first = (address - begin_) / kGranule, last = (address + bytes - 1 - begin_) / kGranule, run = 0;
  for (size_t g = first; g <= last + 1; g++) {
    bool changes = g <= last && change(users_[g]);
    if (changes) ++run;
    else if (run) {
      tell(begin_ + (g - run) * kGranule, run * kGranule);
      run = 0;
    }
  }
}

bool DeviceArena::grow_lease(uint64_t needed) {
  if (mapped_ + needed <= lease_) return true;
  uint64_t wanted = mapped_ + needed;
  lease_ = std::max(lease_, server_.lease(round_up(wanted, kLeaseStep)));
  if (wanted > lease_) lease_ = std::max(lease_, server_.lease(wanted));
  return wanted <= lease_;
}

bool DeviceArena::cover(uint64_t address, uint64_t bytes) {
  uint64_t needed = 0;
  each_run(
      address, bytes, [](uint32_t users) { return users == 0; }, [&](uint64_t, uint64_t n) { needed += n; });
  if (!grow_lease(needed)) return false;
  each_run(
      address, bytes, [](uint32_t& users) { return users++ == 0; }, server_.map);
  mapped_ += needed;
  return true;
}

void DeviceArena::uncover(uint64_t address, uint64_t bytes) {
  each_run(
      address, bytes, [](uint32_t& users) { return --users == 0; },
      [&](uint64_t at, uint64_t n) {
        server_.unmap(at, n);
        mapped_ -= n;
      });
  shrink_lease();
}

// Gives others what this process will hardly need again.
void DeviceArena::shrink_lease() {
  if (lease_ - mapped_ > kLeaseIdle) lease_ = std::max(mapped_, server_.lease(mapped_ + kLeaseStep));
}

std::set<std::pair<uint64_t, uint64_t>>::iterator DeviceArena::fitting(uint64_t bytes, uint64_t alignment, uint64_t& at) {
  for (auto i = by_size_.lower_bound({bytes, 0}); i != by_size_.end(); ++i) {
    auto [free_bytes, free_address] = *i;
    at = round_up(free_address, alignment);
    if (at - free_address <= free_bytes - bytes) return i;
  }
  return by_size_.end();
}

void DeviceArena::take_free(std::set<std::pair<uint64_t, uint64_t>>::iterator place, uint64_t at, uint64_t bytes) {
  auto [free_bytes, free_address] = *place;
  remove_free(free_.find(free_address));
  if (at > free_address) add_free(free_address, at - free_address);
  if (uint64_t end = at + bytes; end < free_address + free_bytes) add_free(end, free_address + free_bytes - end);
}

std::optional<uint64_t> DeviceArena::allocate(uint64_t bytes) {
  // large blocks begin on a granule, so that they share none and their memory can go back whole
  uint64_t n = round_up(bytes ? bytes : 1, kAlignment), align = n >= kGranule ? kGranule : kAlignment;
  if (n < bytes || n > size_) return std::nullopt;
  std::lock_guard lock(mutex_);
  uint64_t at;
  auto place = fitting(n, align, at);
  if (place == by_size_.end() || !cover(at, n)) return std::nullopt;
  take_free(place, at, n);
  used_[at] = n;
  allocated_ += n;
  return at;
}

std::optional<uint64_t> DeviceArena::reserve(uint64_t bytes, uint64_t alignment) {
  if (bytes > size_ || alignment > size_) return std::nullopt;
  std::lock_guard lock(mutex_);
  uint64_t at;
  auto place = fitting(bytes, alignment, at);
  if (place == by_size_.end()) return std::nullopt;
  take_free(place, at, bytes);
  return at;
}

void DeviceArena::unreserve(uint64_t address, uint64_t bytes) {
  std::lock_guard lock(mutex_);
  add_free(address, bytes);
}

bool DeviceArena::charge(uint64_t bytes) {
  std::lock_guard lock(mutex_);
  if (!grow_lease(bytes)) return false;
  mapped_ += bytes;
  return true;
}

void DeviceArena::discharge(uint64_t bytes) {
  std::lock_guard lock(mutex_);
  mapped_ -= bytes;
  shrink_lease();
}

bool DeviceArena::release(uint64_t address) {
  std::lock_guard lock(mutex_);
  auto used = used_.find(address);
  if (used == used_.end()) return false;
  uint64_t n = used->second;
  used_.erase(used);
  allocated_ -= n;
  uncover(address, n);
  add_free(address, n);
  return true;
}

std::optional<DeviceArena::Block> DeviceArena::find(uint64_t address) const {
  if (!in_range(address)) return std::nullopt;
  std::lock_guard lock(mutex_);
  auto next = used_.upper_bound(address);
  if (next == used_.begin()) return std::nullopt;
  auto [at, n] = *std::prev(next);
  return address - at < n ? std::optional(Block{at, n}) : std::nullopt;
}

uint64_t DeviceArena::mapped() const {
  std::lock_guard lock(mutex_);
  return mapped_;
}

uint64_t DeviceArena::allocated() const {
  std::lock_guard lock(mutex_);
  return allocated_;
}

}  // namespace djinn

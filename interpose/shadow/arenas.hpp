// The heaps of all devices that the program sees, over the session's one range of addresses: an address says whose it is (semantic/wire/devices.hpp),
// so that questions about pointers are answered here. A device's number is the program's; CUDA_VISIBLE_DEVICES may have put the server's in another
// order, or left some out.
#pragma once
#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "interpose/shadow/arena.hpp"
#include "semantic/wire/devices.hpp"

namespace djinn {

class DeviceArenas {
 public:
  struct Visible {
    size_t on_server;  // the device's index there
    uint64_t lease;
  };
  struct Server {
    std::function<void(uint64_t address, uint64_t bytes)> map, unmap;
    std::function<uint64_t(size_t on_server, uint64_t bytes)> lease;
  };
  DeviceArenas(const wire::DeviceRanges& ranges, const std::vector<Visible>& devices, const Server& server);

  DeviceArena& of(int device) { return *heaps_[static_cast<size_t>(device)]; }
  bool in_range(uint64_t address) const { return ranges_.contains(address); }
  // -1: no device that the program sees.
  int device_of(uint64_t address) const { return in_range(address) ? numbers_[ranges_.device_of(address)] : -1; }
  // False when `address` is not an allocation's first byte.
  bool release(uint64_t address);
  // The allocation that holds `address`.
  std::optional<DeviceArena::Block> find(uint64_t address) const;

 private:
  const wire::DeviceRanges ranges_;
  std::array<int, wire::kDevicesMax> numbers_;  // by index on the server
  std::vector<std::unique_ptr<DeviceArena>> heaps_;
};

}  // namespace djinn

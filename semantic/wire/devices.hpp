// How a session's one range of addresses is shared among its devices: one sub-range per device, all of the same size, so that an address says whose
// it is. Client and server compute the same from what `opened` says. With one device the sub-range is the range.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>

#include "semantic/wire/limits.hpp"

namespace djinn::wire {

class DeviceRanges {
 public:
  DeviceRanges() = default;
  // `devices` is from 1 to kDevicesMax.
  DeviceRanges(uint64_t address, uint64_t size, size_t devices)
      : address_(address),
        each_(devices == 1 ? size : std::bit_floor(size / devices)),
        shift_(static_cast<unsigned>(std::bit_width(each_ - 1))),
        devices_(devices) {}

  size_t devices() const { return devices_; }
  uint64_t address() const { return address_; }
  uint64_t size() const { return each_ * devices_; }
  uint64_t begin(size_t device) const { return address_ + device * each_; }
  uint64_t bytes_each() const { return each_; }
  bool contains(uint64_t address) const { return address - address_ < size(); }
  // Of an address in the range.
  size_t device_of(uint64_t address) const { return (address - address_) >> shift_; }

 private:
  uint64_t address_ = 0, each_ = 0;
  unsigned shift_ = 0;
  size_t devices_ = 0;
};

}  // namespace djinn::wire

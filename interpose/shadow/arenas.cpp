// See arenas.hpp.
#include "interpose/shadow/arenas.hpp"

namespace djinn {

DeviceArenas::DeviceArenas(const wire::DeviceRanges& ranges, const std::vector<Visible>& devices, const Server& server) : ranges_(ranges) {
  numbers_.fill(-1);
  for (const Visible& d : devices) {
    numbers_[d.on_server] = static_cast<int>(heaps_.size());
    auto lease = [ask = server.lease, on_server = d.on_server](uint64_t bytes) { return ask(on_server, bytes); };
    heaps_.push_back(std::make_unique<DeviceArena>(ranges.begin(d.on_server), ranges.bytes_each(), d.lease,
                                                   DeviceArena::Server{server.map, server.unmap, std::move(lease)}));
  }
}

bool DeviceArenas::release(uint64_t address) {
  int device = device_of(address);
  return device >= 0 && of(device).release(address);
}

std::optional<DeviceArena::Block> DeviceArenas::find(uint64_t address) const {
  int device = device_of(address);
  return device < 0 ? std::nullopt : heaps_[static_cast<size_t>(device)]->find(address);
}

}  // namespace djinn

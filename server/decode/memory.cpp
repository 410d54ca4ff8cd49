// Memory commands: granules come to life within the session's lease on the device whose addresses they are, and go. Sub-allocation is the client's
// (interpose/shadow's arena).
#include <fmt/format.h>

#include "server/decode/decode.hpp"

namespace djinn::server::decode {

using wire::ErrorClass;

namespace {

// The one device whose sub-range holds all of the extent.
bool device_of(const Session& s, const wire::MapMemory& m, size_t& device) {
  const wire::DeviceRanges& r = s.ranges();
  if (!m.size || !r.contains(m.address) || m.size > r.bytes_each()) return false;
  device = r.device_of(m.address);
  return m.address + m.size <= r.begin(device) + r.bytes_each();
}

constexpr const char* kNoDevice = "not inside one device's addresses";

}  // namespace

Failure map_memory(Session& s, const Command& c) {
  wire::MapMemory m;
  size_t device;
  if (!read_all(c, m)) return malformed("map_memory");
  if (!device_of(s, m, device)) return invalid("map_memory", kNoDevice);
  auto [lease, mapped] = s.holding(device);
  if (m.size > lease || mapped > lease - m.size)
    return {cuda_error::memory_allocation, ErrorClass::refused, "map_memory",
            fmt::format("{} bytes more than {} mapped exceed the lease of {}", m.size, mapped, lease)};
  if (auto e = s.device().map(m.address, m.size); !e.empty()) return invalid("map_memory", e);
  s.memory_changed(device, static_cast<int64_t>(m.size));
  return {};
}

Failure unmap_memory(Session& s, const Command& c) {
  wire::MapMemory m;
  size_t device;
  if (!read_all(c, m)) return malformed("unmap_memory");
  if (!device_of(s, m, device)) return invalid("unmap_memory", kNoDevice);
  if (auto e = s.device().unmap(m.address, m.size); !e.empty()) return invalid("unmap_memory", e);
  s.memory_changed(device, -static_cast<int64_t>(m.size));
  return {};
}

Failure lease(Session& s, const Command& c) {
  wire::Lease wanted;
  if (!read_all(c, wanted)) return malformed("lease");
  if (wanted.device >= s.ranges().devices()) return invalid("lease", fmt::format("there is no device {}", wanted.device));
  wire::Writer(s.answer).put(wire::LeaseReply{s.change_lease(wanted.device, wanted.bytes)});
  return {};
}

Failure memory_info(Session& s, const Command& c) {
  wire::DeviceIndex of;
  if (!read_all(c, of)) return malformed("memory_info");
  if (of.device >= s.ranges().devices()) return invalid("memory_info", fmt::format("there is no device {}", of.device));
  uint64_t total = s.device().describe().total_memory;
  wire::Writer(s.answer).put(wire::MemoryInfo{total - std::min(total, s.holding(of.device).mapped), total});
  return {};
}

}  // namespace djinn::server::decode

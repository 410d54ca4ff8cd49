// Memory commands: granules come to life within the session's lease on the device whose addresses they are, and go. Sub-allocation is the client's
// (interpose/shadow's arena).
#include <fmt/format.h>

#include "server/decode/decode.hpp"

namespace djinn::server::decode {

using wire::ErrorClass;

namespace {

// The one device whose sub-range holds all of the extent.
template <class Extent>
bool device_of(const Session& s, const Extent& m, size_t& device) {
  const wire::DeviceRanges& r = s.ranges();
  if (!m.size || !r.contains(m.address) || m.size > r.bytes_each()) return false;
  device = r.device_of(m.address);
  return m.address + m.size <= r.begin(device) + r.bytes_each();
}

constexpr const char* kNoDevice = "not inside one device's addresses";

Failure beyond_lease(const Session& s, const char* command, size_t device, uint64_t bytes) {
  auto [lease, mapped] = s.holding(device);
  if (bytes <= lease && mapped <= lease - bytes) return {};
  return {cuda_error::memory_allocation, ErrorClass::refused, command,
          fmt::format("{} bytes more than {} mapped exceed the lease of {}", bytes, mapped, lease)};
}

void account(Session& s, const Device::Freed& freed) {
  if (freed.bytes) s.memory_changed(freed.device, -static_cast<int64_t>(freed.bytes));
}

}  // namespace

Failure map_memory(Session& s, const Command& c) {
  wire::MapMemory m;
  size_t device;
  if (!read_all(c, m)) return malformed("map_memory");
  if (!device_of(s, m, device)) return invalid("map_memory", kNoDevice);
  if (Failure f = beyond_lease(s, "map_memory", device, m.size)) return f;
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

Failure memory_create(Session& s, const Command& c) {
  wire::MemoryCreate m;
  if (!read_all(c, m)) return malformed("memory_create");
  if (m.device >= s.ranges().devices()) return invalid("memory_create", fmt::format("there is no device {}", m.device));
  if (Failure f = beyond_lease(s, "memory_create", m.device, m.size)) return f;
  if (auto e = s.device().create(m); !e.empty()) return invalid("memory_create", e);
  s.memory_changed(m.device, static_cast<int64_t>(m.size));
  return {};
}

Failure memory_release(Session& s, const Command& c) {
  wire::Handle h;
  if (!read_all(c, h)) return malformed("memory_release");
  Device::Freed freed;
  if (auto e = s.device().release(h.id, freed); !e.empty()) return invalid("memory_release", e);
  account(s, freed);
  return {};
}

// On the addresses of the device whose memory it is, because an address says whose it is.
Failure memory_map(Session& s, const Command& c) {
  wire::MemoryMap m;
  size_t device;
  if (!read_all(c, m)) return malformed("memory_map");
  if (!device_of(s, m, device)) return invalid("memory_map", kNoDevice);
  const uint64_t* owner = s.device().device_of(m.handle);
  if (!owner) return unknown_handle("memory_map", "physical memory", m.handle);
  if (*owner != device) return invalid("memory_map", "the addresses are another device's");
  if (auto e = s.device().map(m); !e.empty()) return invalid("memory_map", e);
  return {};
}

Failure memory_unmap(Session& s, const Command& c) {
  wire::MapMemory m;
  size_t device;
  if (!read_all(c, m)) return malformed("memory_unmap");
  if (!device_of(s, m, device)) return invalid("memory_unmap", kNoDevice);
  Device::Freed freed;
  if (auto e = s.device().unmap_virtual(m.address, m.size, freed); !e.empty()) return invalid("memory_unmap", e);
  account(s, freed);
  return {};
}

Failure memory_access(Session& s, const Command& c) {
  wire::MemoryAccess m;
  if (!read_all(c, m)) return malformed("memory_access");
  if (m.accessible > 1) return invalid("memory_access", "accessible is 0 or 1");
  if (auto e = s.device().access(m); !e.empty()) return invalid("memory_access", e);
  return {};
}

// What the broker said, or that it said nothing.
Failure refused(const char* command, const std::optional<ChannelMessage>& answer) {
  if (!answer) return {cuda_error::unknown, ErrorClass::refused, command, "the server does not answer"};
  if (!answer->text.empty()) return {cuda_error::invalid_resource_handle, ErrorClass::refused, command, answer->text};
  return {};
}

Failure memory_share(Session& s, const Command& c) {
  wire::MemoryShare m;
  size_t device = 0;
  if (!read_all(c, m)) return malformed("memory_share");
  if (!m.handle && !device_of(s, m, device)) return invalid("memory_share", kNoDevice);
  const uint64_t* owner = m.handle ? s.device().device_of(m.handle) : nullptr;
  if (m.handle && !owner) return unknown_handle("memory_share", "physical memory", m.handle);
  Device::FilePart part;
  if (auto e = s.device().locate(m, part); !e.empty()) return invalid("memory_share", e);
  ChannelMessage share;
  share.kind = ChannelKind::share;
  share.secret = m.secret;
  share.device = owner ? *owner : device;
  share.offset = part.offset;
  share.size = part.size;
  return refused("memory_share", s.ask_broker(share, ChannelKind::shared));
}

Failure memory_unshare(Session& s, const Command& c) {
  ChannelMessage m;
  m.kind = ChannelKind::unshare;
  if (!read_all(c, m.secret)) return malformed("memory_unshare");
  return refused("memory_unshare", s.ask_broker(m, ChannelKind::shared));
}

Failure memory_import(Session& s, const Command& c) {
  wire::MemoryImport m;
  if (!read_all(c, m)) return malformed("memory_import");
  ChannelMessage wanted;
  wanted.kind = ChannelKind::import_wanted;
  wanted.secret = m.secret;
  auto granted = s.ask_broker(wanted, ChannelKind::import_granted);
  if (Failure f = refused("memory_import", granted)) return f;
  if (granted->size != m.size || granted->device != m.device) return invalid("memory_import", "not the size and the device that were shared");
  if (auto e = s.device().import(m, std::move(granted->file), {granted->offset, granted->size}); !e.empty()) return invalid("memory_import", e);
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
  wire::Writer(s.answer).put(
      wire::MemoryInfo{total - std::min(total, s.holding(of.device).mapped), total, s.busy_nanoseconds(), s.open_nanoseconds()});
  return {};
}

}  // namespace djinn::server::decode

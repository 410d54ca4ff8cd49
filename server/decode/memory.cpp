// Memory commands: granules come and go, within the session's lease. Mirror: interpose/encode/memory.cpp.
#include "server/decode/decode.hpp"

namespace djinn::server::decode {

void map_memory(Session& s) {
  wire::MapMemory m;
  if (!read_fixed(s, m, "map_memory")) return;
  if (m.size > s.lease || s.device().mapped() > s.lease - m.size)
    return s.fail({cuda_error::memory_allocation, wire::ErrorClass::exception, "map_memory", "beyond the session's memory lease"});
  if (auto why = s.device().map(m.address, m.size); !why.empty()) s.fail({cuda_error::invalid_value, wire::ErrorClass::exception, "map_memory", why});
}

void unmap_memory(Session& s) {
  wire::MapMemory m;
  if (!read_fixed(s, m, "unmap_memory")) return;
  if (auto why = s.device().unmap(m.address, m.size); !why.empty()) s.fail({cuda_error::invalid_value, wire::ErrorClass::exception, "unmap_memory", why});
}

void lease(Session& s) {
  wire::Lease l;
  if (!read_fixed(s, l, "lease")) return;
  s.lease = std::max(s.ask_lease(l.bytes), s.device().mapped());
  wire::LeaseReply r{s.lease};
  s.reply(0, std::as_bytes(std::span(&r, 1)));
}

void memory_info(Session& s) {
  // what the broker would still grant, beside what this session holds unused
  uint64_t granted = s.ask_lease(0);  // 0 asks without changing anything; the answer is what is free on the device
  wire::MemoryInfo i{std::min(s.device_total, granted + s.lease - std::min(s.lease, s.device().mapped())), s.device_total};
  s.reply(0, std::as_bytes(std::span(&i, 1)));
}

}  // namespace djinn::server::decode

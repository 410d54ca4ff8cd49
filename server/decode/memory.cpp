// Memory commands: granules come to life within the session's lease, and go. Sub-allocation is the client's (interpose/shadow's arena).
#include <fmt/format.h>

#include "server/decode/decode.hpp"

namespace djinn::server::decode {

using wire::ErrorClass;

Failure map_memory(Session& s, const Command& c) {
  wire::MapMemory m;
  if (!read_all(c, m)) return malformed("map_memory");
  if (m.size > s.lease() || s.device().mapped() > s.lease() - m.size)
    return {cuda_error::memory_allocation, ErrorClass::refused, "map_memory",
            fmt::format("{} bytes more than {} mapped exceed the lease of {}", m.size, s.device().mapped(), s.lease())};
  if (auto e = s.device().map(m.address, m.size); !e.empty()) return invalid("map_memory", e);
  s.memory_changed();
  return {};
}

Failure unmap_memory(Session& s, const Command& c) {
  wire::MapMemory m;
  if (!read_all(c, m)) return malformed("unmap_memory");
  if (auto e = s.device().unmap(m.address, m.size); !e.empty()) return invalid("unmap_memory", e);
  s.memory_changed();
  return {};
}

Failure lease(Session& s, const Command& c) {
  wire::Lease wanted;
  if (!read_all(c, wanted)) return malformed("lease");
  wire::Writer(s.answer).put(wire::LeaseReply{s.change_lease(wanted.bytes)});
  return {};
}

Failure memory_info(Session& s, const Command& c) {
  if (!c.payload.empty() || !c.bulk.empty()) return malformed("memory_info");
  uint64_t total = s.device().describe().total_memory;
  wire::Writer(s.answer).put(wire::MemoryInfo{total - std::min(total, s.device().mapped()), total});
  return {};
}

}  // namespace djinn::server::decode

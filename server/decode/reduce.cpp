// Arrays of several devices reduced to one: all that collectives need beyond copies. Mirror: interpose/encode/collective.cpp.
#include <fmt/format.h>

#include "server/decode/decode.hpp"

namespace djinn::server::decode {

Failure reduce(Session& s, const Command& c) {
  wire::Reader r(c.payload);
  auto m = r.get<wire::Reduce>();
  auto sources = r.get_array<uint64_t>(wire::kReduceSourcesMax);
  if (!r.finished() || !c.bulk.empty()) return malformed("reduce");
  uint64_t element = wire::element_bytes(m.type), bytes;
  if (!element || m.operation > wire::ReduceOperation::average || sources.empty())
    return invalid("reduce", fmt::format("{} arrays of type {} by operation {}", sources.size(), static_cast<uint32_t>(m.type),
                                         static_cast<uint32_t>(m.operation)));
  if (!s.known_stream(m.stream)) return unknown_handle("reduce", "stream", m.stream);
  if (__builtin_mul_overflow(m.count, element, &bytes)) return invalid("reduce", "its size overflows");
  sources.push_back(m.destination);
  for (uint64_t address : sources) {
    if (!s.device().live(address, bytes)) return illegal_address("reduce", address, bytes);
    if (address % element) return invalid("reduce", "not whole, aligned elements");
  }
  sources.pop_back();
  s.device().reduce(m, sources);
  return {};
}

}  // namespace djinn::server::decode

// Messages of the control plane: header and body, through the bounded archives of archive.hpp.
#include "semantic/wire/control.hpp"

#include "semantic/wire/archive.hpp"
#include "semantic/wire/frame.hpp"

namespace djinn::wire::control {

static_assert(ControlHeader{}.version == kVersion);

// The archive takes any number for an enumeration, and any list; which ones make sense is said here.
template <class T>
static bool sensible(const T& body) {
  if constexpr (requires { body.devices; })  // each with addresses of its own
    if (body.devices.empty() || body.devices.size() > kDevicesMax || body.range.size / body.devices.size() < kGranule) return false;
  if constexpr (requires { body.level; }) return body.level <= Level::op;
  return true;
}

template <class T>
std::vector<std::byte> encode(Kind kind, const T& body) {
  std::vector<std::byte> out;
  Writer w(out);
  ControlHeader header;
  header.kind = kind;
  w.put(header);
  Output archive(w);
  archive(body);
  return out;
}

std::optional<ControlHeader> peek(std::span<const std::byte> message) {
  ControlHeader header;
  if (message.size() < sizeof header || message.size() > kControlBytesMax) return std::nullopt;
  std::memcpy(&header, message.data(), sizeof header);
  if (header.magic != kControlMagic) return std::nullopt;
  return header;
}

template <class T>
std::optional<T> decode(std::span<const std::byte> message, Kind kind) {
  auto header = peek(message);
  if (!header || header->kind != kind || header->version != kVersion) return std::nullopt;
  auto body = unpack<T>(message.subspan(sizeof(ControlHeader)));
  return body && sensible(*body) ? std::move(body) : std::nullopt;
}

#define DJINN_CONTROL_TYPE(T)                                \
  template std::vector<std::byte> encode<T>(Kind, const T&); \
  template std::optional<T> decode<T>(std::span<const std::byte>, Kind);
DJINN_CONTROL_TYPE(Open)
DJINN_CONTROL_TYPE(Opened)
DJINN_CONTROL_TYPE(Refused)
DJINN_CONTROL_TYPE(Counters)
DJINN_CONTROL_TYPE(StatsReply)
DJINN_CONTROL_TYPE(GraphWanted)
DJINN_CONTROL_TYPE(Graph)

}  // namespace djinn::wire::control

// cereal archives over the bounded Reader and Writer. Every primitive takes 8 bytes; every size tag is bounded by kControl…Max and by the bytes that
// are left, before anything is allocated. The sticky failure of wire::Reader carries through: a bad message unpacks to nullopt, never to an exception
// that leaves `unpack`. Used by the control plane (control.cpp) and between broker and workers (server/session/channel.hpp).
#pragma once
#include <array>
#include <cereal/cereal.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "semantic/wire/codec.hpp"
#include "semantic/wire/limits.hpp"

// cereal's own headers for strings and vectors are left out on purpose: their size tags allocate before anything is checked.
namespace djinn::wire::control {

class Output : public cereal::OutputArchive<Output, cereal::AllowEmptyClassElision> {
 public:
  explicit Output(Writer& w) : OutputArchive(this), writer(w) {}
  Writer& writer;
};

// cereal has no way to stop half-way but an exception; it is thrown and caught in this file only.
struct Malformed : std::runtime_error {
  Malformed() : std::runtime_error("malformed control message") {}
};

class Input : public cereal::InputArchive<Input, cereal::AllowEmptyClassElision> {
 public:
  explicit Input(Reader& r) : InputArchive(this), reader(r) {}
  template <class T>
  T get() {
    T v = reader.get<T>();
    if (!reader.ok()) throw Malformed();
    return v;
  }
  Reader& reader;
};

template <class T>
concept Number = std::is_arithmetic_v<T>;

// cereal finds these by argument-dependent lookup through the archive type.
template <Number T>
void CEREAL_SAVE_FUNCTION_NAME(Output& a, const T& v) {
  a.writer.put<uint64_t>(static_cast<uint64_t>(v));
}
template <Number T>
void CEREAL_LOAD_FUNCTION_NAME(Input& a, T& v) {
  uint64_t wide = a.get<uint64_t>();
  v = static_cast<T>(wide);
  if (static_cast<uint64_t>(v) != wide) throw Malformed();
}
inline void CEREAL_SAVE_FUNCTION_NAME(Output& a, const std::string& s) { a.writer.put_string(s); }
inline void CEREAL_LOAD_FUNCTION_NAME(Input& a, std::string& s) {
  s = a.reader.get_string(kControlStringMax);
  if (!a.reader.ok()) throw Malformed();
}
inline void CEREAL_SAVE_FUNCTION_NAME(Output& a, const std::vector<uint8_t>& v) { a.writer.put_bytes(v.data(), v.size()); }
inline void CEREAL_LOAD_FUNCTION_NAME(Input& a, std::vector<uint8_t>& v) {
  auto b = a.reader.get_bytes(kControlStringMax);
  if (!a.reader.ok()) throw Malformed();
  v.assign(reinterpret_cast<const uint8_t*>(b.data()), reinterpret_cast<const uint8_t*>(b.data()) + b.size());
}
inline void CEREAL_SAVE_FUNCTION_NAME(Output& a, const std::array<uint8_t, 16>& v) { a.writer.put(v); }
inline void CEREAL_LOAD_FUNCTION_NAME(Input& a, std::array<uint8_t, 16>& v) { v = a.get<std::array<uint8_t, 16>>(); }
template <class T>
void CEREAL_SAVE_FUNCTION_NAME(Output& a, const std::vector<T>& v) {
  a.writer.put<uint64_t>(v.size());
  for (const T& e : v) a(e);
}
template <class T>
void CEREAL_LOAD_FUNCTION_NAME(Input& a, std::vector<T>& v) {
  uint64_t n = a.get<uint64_t>();
  // each element takes at least 8 bytes, so a count beyond what is left is a lie
  if (n > kControlListMax || n > a.reader.left() / 8) throw Malformed();
  v.resize(n);
  for (T& e : v) a(e);
}

}  // namespace djinn::wire::control

CEREAL_SETUP_ARCHIVE_TRAITS(djinn::wire::control::Input, djinn::wire::control::Output)

namespace djinn::wire::control {

template <class T>
std::vector<std::byte> pack(const T& body) {
  std::vector<std::byte> out;
  Writer w(out);
  Output archive(w);
  archive(body);
  return out;
}

template <class T>
std::optional<T> unpack(std::span<const std::byte> bytes) {
  if (bytes.size() > kControlBytesMax) return std::nullopt;
  Reader reader(bytes);
  try {
    Input archive(reader);
    T body;
    archive(body);
    if (reader.finished()) return body;
  } catch (const std::exception&) {}
  return std::nullopt;
}

}  // namespace djinn::wire::control

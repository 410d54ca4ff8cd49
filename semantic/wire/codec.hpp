// Encode and decode primitives: little-endian, fixed widths, everything 8-byte aligned so that a payload can be read in place.
// The writer appends to a caller's buffer; the reader never throws and never reads outside its span: the first failure sticks, every later
// read gives zero, and the caller asks `ok()` once per command. This is the only place where foreign bytes become values.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

namespace djinn::wire {

static_assert(std::endian::native == std::endian::little, "the wire is little-endian; a big-endian port swaps here");

constexpr size_t align8(size_t n) { return (n + 7) & ~size_t{7}; }

template <class T>
concept WireValue = std::is_trivially_copyable_v<T> && !std::is_pointer_v<T> && !std::is_same_v<std::remove_cv_t<T>, bool>;

// Appends to a byte vector that the caller keeps (and reuses: after the first steps nothing allocates).
class Writer {
 public:
  explicit Writer(std::vector<std::byte>& out) : out_(out) {}
  // Each value takes a multiple of 8 bytes; the padding is zero, so equal values give equal bytes.
  template <WireValue T>
  void put(const T& v) {
    std::byte* p = grow(align8(sizeof v));
    std::memcpy(p, &v, sizeof v);
  }
  void put_bytes(const void* data, size_t n) {
    put<uint64_t>(n);
    if (n) std::memcpy(grow(align8(n)), data, n);
  }
  void put_string(std::string_view s) { put_bytes(s.data(), s.size()); }
  template <WireValue T>
  void put_array(std::span<const T> v) {
    put_bytes(v.data(), v.size_bytes());
  }
  size_t size() const { return out_.size(); }
  // Room for n zeroed bytes (n a multiple of 8) that the caller fills.
  std::byte* grow(size_t n) {
    size_t at = out_.size();
    out_.resize(at + n);
    return out_.data() + at;
  }

 private:
  std::vector<std::byte>& out_;
};

class Reader {
 public:
  explicit Reader(std::span<const std::byte> in) : cur_(in.data()), end_(in.data() + in.size()) {}
  template <WireValue T>
  T get() {
    T v{};
    if (const std::byte* p = take(align8(sizeof v))) std::memcpy(&v, p, sizeof v);
    return v;
  }
  // A view into the message: valid as long as the message is.
  std::span<const std::byte> get_bytes(uint64_t max) {
    uint64_t n = get<uint64_t>();
    if (n > max || n > left()) return fail(), std::span<const std::byte>{};
    const std::byte* p = take(align8(n));
    return p ? std::span(p, n) : std::span<const std::byte>{};
  }
  std::string_view get_string(uint64_t max) {
    auto b = get_bytes(max);
    return {reinterpret_cast<const char*>(b.data()), b.size()};
  }
  // count_max bounds the number of elements; the result is a copy because elements may be smaller than 8 bytes.
  template <WireValue T>
  std::vector<T> get_array(uint64_t count_max) {
    auto b = get_bytes(count_max * sizeof(T));
    if (b.size() % sizeof(T)) return fail(), std::vector<T>{};
    std::vector<T> v(b.size() / sizeof(T));
    if (!v.empty()) std::memcpy(v.data(), b.data(), b.size());
    return v;
  }
  const std::byte* take(size_t n) {
    if (bad_ || n > left()) return fail(), nullptr;
    const std::byte* p = cur_;
    cur_ += n;
    return p;
  }
  size_t left() const { return static_cast<size_t>(end_ - cur_); }
  void fail() { bad_ = true; }
  bool ok() const { return !bad_; }
  // A well-formed command has been read to its last byte.
  bool finished() const { return !bad_ && cur_ == end_; }

 private:
  const std::byte* cur_;
  const std::byte* end_;
  bool bad_ = false;
};

}  // namespace djinn::wire

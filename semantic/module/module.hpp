// What a CUDA program's binaries say about its kernels: fatbins (as registered by nvcc's constructors) hold images for several architectures, an image is a
// cubin (ELF) or PTX, and a cubin says of each kernel where its parameters lie. Used by the client, to send a launch's parameters by value, and by the
// server's check layer, to compare. The bytes come from the program or from the network: every offset is checked before it is followed.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace djinn::module {

// Either a value or one clause of error.
template <class T>
class Expected {
 public:
  Expected(T value) : value_(std::move(value)) {}
  static Expected failure(std::string why) {
    Expected e;
    e.error_ = std::move(why);
    return e;
  }
  explicit operator bool() const { return value_.has_value(); }
  T& operator*() { return *value_; }
  const T& operator*() const { return *value_; }
  T* operator->() { return &*value_; }
  const T* operator->() const { return &*value_; }
  const std::string& error() const { return error_; }

 private:
  Expected() = default;
  std::optional<T> value_;
  std::string error_;
};

enum class Kind : uint16_t { ptx = 1, cubin = 2 };

// One image inside a fatbin, as stored; the spans view into the fatbin.
struct Image {
  Kind kind = Kind::cubin;
  uint32_t sm = 0;  // 120 for compute capability 12.0
  uint64_t flags = 0;
  std::span<const std::byte> stored;
  uint64_t size = 0;  // after decompression
  bool arch_specific() const { return flags & 0x100000; }
};

// What __cudaRegisterFatBinary is given points to a fatbin that is as long as its header says.
struct FatbinWrapper {
  uint32_t magic;  // kWrapperMagic
  uint32_t version;
  const void* fatbin;
  const void* prelinked;
};
constexpr uint32_t kWrapperMagic = 0x466243b1;
// Bytes of the fatbin that begins here, by its header (which must be readable); 0 = not a fatbin.
size_t fatbin_bytes(const void* fatbin);

Expected<std::vector<Image>> images(std::span<const std::byte> fatbin);
// The cubin that a device of this compute capability would load: same major version, the highest minor version that is not above. Null = none.
const Image* choose_cubin(const std::vector<Image>& images, uint32_t sm);
Expected<std::vector<std::byte>> unpack(const Image& image);

struct Param {
  uint32_t offset = 0, size = 0;
};
struct Kernel {
  std::string name;
  std::vector<Param> params;  // by ordinal
  uint32_t param_bytes = 0;
};
// The kernels of a cubin.
Expected<std::vector<Kernel>> kernels(std::span<const std::byte> cubin);
// One of them by its mangled name.
Expected<Kernel> find_kernel(std::span<const std::byte> cubin, std::string_view name);

}  // namespace djinn::module

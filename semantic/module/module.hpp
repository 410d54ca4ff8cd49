// What a CUDA program's binaries say about its kernels: fatbins (as registered by nvcc's constructors) hold images for several architectures, an
// image is a cubin (ELF) or PTX, and a cubin says of each kernel where its parameters lie. Used by the client, to send a launch's parameters by
// value, and by the server's check layer, to compare. The bytes come from the program or from the network: every offset is checked before it is
// followed.
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
  uint64_t size = 0;                                         // after decompression
  bool arch_specific() const { return flags & 0x100000; }    // sm_90a: this very compute capability only
  bool family_specific() const { return flags & 0x200000; }  // sm_103f: its family only
};

// What __cudaRegisterFatBinary is given points to a fatbin that is as long as its header says.
struct FatbinWrapper {
  uint32_t magic;  // kWrapperMagic
  uint32_t version;
  const void* fatbin;
  const void* prelinked;
};
constexpr uint32_t kWrapperMagic = 0x466243b1;
static_assert(sizeof(FatbinWrapper) == 24);
// Bytes of the fatbin that begins here, by its header (which must be readable); 0 = not a fatbin.
size_t fatbin_bytes(const void* fatbin);
// Bytes of the cubin that begins here, as far as its headers and sections reach (all of which must be readable: a program that hands over an image
// says no length, so that this is for images of our own process and never for bytes from the network); 0 = not a cubin.
size_t cubin_bytes(const void* cubin);

// PTX and cubins, in the fatbin's order. Entries of other kinds (link-time code) are left out; a fatbin that is not whole is refused.
Expected<std::vector<Image>> images(std::span<const std::byte> fatbin);
// The cubin that a device of this compute capability would load: same major version, the highest minor version that is not above, the more specific
// of two. Null = none.
const Image* choose_cubin(const std::vector<Image>& images, uint32_t sm);
// The PTX that could be compiled for it: the newest that is not above and not specific to another architecture. Null = none.
const Image* choose_ptx(const std::vector<Image>& images, uint32_t sm);
// The image as it was before compression. PTX is text, and may end with NULs.
Expected<std::vector<std::byte>> unpack(const Image& image);

struct Param {
  uint32_t offset = 0, size = 0;
};
struct Kernel {
  std::string name;
  std::vector<Param> params;  // by ordinal
  uint32_t param_bytes = 0;   // no parameter reaches beyond it
  uint32_t threads_max = 0;   // of a block, by __launch_bounds__; 0 = it has none
  uint32_t registers = 0;     // of a thread; 0 = not said
};
// The kernels of a cubin: its entry functions, not the device functions that they call. One that cannot be described refuses the cubin.
Expected<std::vector<Kernel>> kernels(std::span<const std::byte> cubin);
// One of them by its mangled name; the others are not looked at, and nothing is copied.
Expected<Kernel> find_kernel(std::span<const std::byte> cubin, std::string_view name);

}  // namespace djinn::module

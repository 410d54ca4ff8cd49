// Fatbins: a 16-byte header, then entries {header of its own size, payload padded to 8}. The layout is not documented by its vendor; it was read from
// the output of nvcc 12 and 13 and is what the open tools agree on. Compressed payloads are plain zstd frames or raw LZ4 blocks.
#include <lz4.h>
#include <zstd.h>

#include <cstring>

#include "semantic/module/module.hpp"

namespace djinn::module {

namespace {

// The largest image of the wheel is 40 MiB, of the libraries beside it 130 MiB (NCCL's); this is what a stranger may make us allocate for one.
constexpr uint64_t kImageBytesMax = 512ull << 20;
// Images of one fatbin: an architecture or two each.
constexpr size_t kImagesMax = 1024;
// Old tools' size of an LZ4 block is short by a few bytes.
constexpr uint64_t kLz4Slack = 16;
// An LZ4 block cannot grow by more than this: a byte of it stands for 255 at most.
constexpr uint64_t kLz4Ratio = 255;

constexpr uint32_t kFatbinMagic = 0xba55ed50;
constexpr uint16_t kFatbinVersion = 1;
constexpr uint64_t kFlagLz4 = 0x2000, kFlagZstd = 0x8000;

struct Header {
  uint32_t magic;
  uint16_t version, header_size;
  uint64_t payload_size;
};
static_assert(sizeof(Header) == 16);

struct Entry {
  uint16_t kind, version;
  uint32_t header_size;
  uint64_t payload_size;
  uint32_t compressed_size, extension;
  uint16_t minor, major;
  uint32_t sm;
  uint32_t reserved[2];
  uint64_t flags, reserved2, uncompressed_size;
};
static_assert(sizeof(Entry) == 64);

template <class T>
bool read(std::span<const std::byte> bytes, T& out) {
  if (bytes.size() < sizeof out) return false;
  std::memcpy(&out, bytes.data(), sizeof out);
  return true;
}

}  // namespace

size_t fatbin_bytes(const void* fatbin) {
  Header h;
  std::memcpy(&h, fatbin, sizeof h);
  if (h.magic != kFatbinMagic || h.version != kFatbinVersion || h.header_size < sizeof h || h.payload_size > SIZE_MAX - h.header_size) return 0;
  return h.header_size + h.payload_size;
}

Expected<std::vector<Image>> images(std::span<const std::byte> fatbin) {
  using Result = Expected<std::vector<Image>>;
  Header h;
  if (!read(fatbin, h) || h.magic != kFatbinMagic) return Result::failure("not a fatbin");
  if (h.version != kFatbinVersion) return Result::failure("the fatbin has an unknown version");
  if (h.header_size < sizeof h || h.header_size > fatbin.size() || h.payload_size > fatbin.size() - h.header_size)
    return Result::failure("the fatbin is cut off");
  std::span<const std::byte> rest = fatbin.subspan(h.header_size, h.payload_size);
  std::vector<Image> out;
  while (!rest.empty()) {
    Entry e;
    if (!read(rest, e) || e.header_size < sizeof e || e.header_size > rest.size() || e.payload_size > rest.size() - e.header_size)
      return Result::failure("an image of the fatbin is cut off");
    auto payload = rest.subspan(e.header_size, e.payload_size);
    rest = rest.subspan(e.header_size + e.payload_size);
    if (e.kind != static_cast<uint16_t>(Kind::ptx) && e.kind != static_cast<uint16_t>(Kind::cubin)) continue;  // link-time code and what may come
    bool compressed = e.flags & (kFlagLz4 | kFlagZstd);
    if ((e.flags & kFlagLz4) && (e.flags & kFlagZstd)) return Result::failure("an image of the fatbin is compressed in two ways");
    if (compressed && e.compressed_size > payload.size()) return Result::failure("a compressed image of the fatbin is cut off");
    if (out.size() == kImagesMax) return Result::failure("the fatbin has too many images");
    Image image;
    image.kind = static_cast<Kind>(e.kind);
    image.sm = e.sm;
    image.flags = e.flags;
    image.stored = compressed ? payload.first(e.compressed_size) : payload;
    image.size = compressed ? e.uncompressed_size : payload.size();
    out.push_back(image);
  }
  return out;
}

// How much of a device's own an image uses: nothing, what its family has, what it alone has.
static int specific(const Image& i) { return i.arch_specific() ? 2 : i.family_specific() ? 1 : 0; }
static bool newer(const Image& a, const Image* b) { return !b || a.sm > b->sm || (a.sm == b->sm && specific(a) > specific(*b)); }

const Image* choose_cubin(const std::vector<Image>& images, uint32_t sm) {
  const Image* best = nullptr;
  for (const Image& i : images) {
    if (i.kind != Kind::cubin || i.sm / 10 != sm / 10 || i.sm > sm || (i.arch_specific() && i.sm != sm)) continue;
    if (newer(i, best)) best = &i;
  }
  return best;
}

const Image* choose_ptx(const std::vector<Image>& images, uint32_t sm) {
  const Image* best = nullptr;
  for (const Image& i : images) {
    if (i.kind != Kind::ptx || i.sm > sm || (i.arch_specific() && i.sm != sm) || (i.family_specific() && i.sm / 10 != sm / 10)) continue;
    if (newer(i, best)) best = &i;
  }
  return best;
}

using Unpacked = Expected<std::vector<std::byte>>;

static Unpacked unpack_zstd(const Image& image) {
  // The frame says its size as well: before memory of that size is asked for, they must agree.
  if (ZSTD_getFrameContentSize(image.stored.data(), image.stored.size()) != image.size) return Unpacked::failure("the image has another size (zstd)");
  std::vector<std::byte> out(image.size);
  size_t n = ZSTD_decompress(out.data(), out.size(), image.stored.data(), image.stored.size());
  if (ZSTD_isError(n) || n != image.size) return Unpacked::failure("the image does not decompress (zstd)");
  return out;
}

static Unpacked unpack_lz4(const Image& image) {
  if (image.size / kLz4Ratio > image.stored.size()) return Unpacked::failure("the image has another size (LZ4)");
  std::vector<std::byte> out(image.size + kLz4Slack);
  int n = LZ4_decompress_safe(reinterpret_cast<const char*>(image.stored.data()), reinterpret_cast<char*>(out.data()),
                              static_cast<int>(image.stored.size()), static_cast<int>(out.size()));
  if (n < 0 || static_cast<size_t>(n) < image.size) return Unpacked::failure("the image does not decompress (LZ4)");
  out.resize(static_cast<size_t>(n));
  return out;
}

Expected<std::vector<std::byte>> unpack(const Image& image) {
  if (image.size > kImageBytesMax || image.stored.size() > kImageBytesMax)
    return Unpacked::failure("the image is larger than " + std::to_string(kImageBytesMax >> 20) + " MiB");
  if (image.flags & kFlagZstd) return unpack_zstd(image);
  if (image.flags & kFlagLz4) return unpack_lz4(image);
  return std::vector<std::byte>(image.stored.begin(), image.stored.end());
}

}  // namespace djinn::module

// Cubins: ELF files of EM_CUDA. A kernel has a section .text.NAME and, with parameters, .nv.info.NAME: a list of attributes {format, attribute, size or
// value}, of which two kinds say where a parameter lies: 0x17, and since sm_100 for kernels with large parameters 0x45. A kernel without either has none.
#include <elf.h>

#include <algorithm>
#include <cstring>

#include "semantic/module/module.hpp"
#include "semantic/wire/limits.hpp"

namespace djinn::module {

namespace {

constexpr uint16_t kMachineCuda = 190;
// Sections: a few for each of some thousand kernels.
constexpr uint64_t kSectionsMax = 1 << 20;
// Parameters of one kernel cannot be more than bytes of them.
constexpr uint32_t kOrdinalMax = 4096;

constexpr uint8_t kFormatSized = 4;
constexpr uint8_t kParamInfo = 0x17, kParamInfo2 = 0x45, kParamBytes = 0x19;
constexpr std::string_view kInfoPrefix = ".nv.info.", kTextPrefix = ".text.";

struct Section {
  std::string_view name;
  std::span<const std::byte> bytes;
};

class Elf {
 public:
  // Empty on success.
  std::string open(std::span<const std::byte> file) {
    file_ = file;
    Elf64_Ehdr h;
    if (!read(0, h) || std::memcmp(h.e_ident, ELFMAG, SELFMAG) != 0 || h.e_ident[EI_CLASS] != ELFCLASS64) return "not a 64-bit ELF image";
    if (h.e_machine != kMachineCuda) return "not a cubin";
    Elf64_Shdr first{};
    if (h.e_shentsize != sizeof first || !read(h.e_shoff, first)) return "the cubin has no sections";
    uint64_t count = h.e_shnum ? h.e_shnum : first.sh_size, names = h.e_shstrndx == SHN_XINDEX ? first.sh_link : h.e_shstrndx;
    if (count > kSectionsMax || names >= count) return "the cubin's section table is malformed";
    std::vector<Elf64_Shdr> headers(std::min<uint64_t>(count, file.size() / sizeof first));
    for (size_t i = 0; i < headers.size(); i++)
      if (!read(h.e_shoff + i * sizeof first, headers[i])) return "the cubin's section table is cut off";
    if (headers.size() != count) return "the cubin's section table is cut off";
    auto strings = contents(headers[names]);
    for (const Elf64_Shdr& s : headers) {
      if (s.sh_name >= strings.size()) return "a section's name is outside the names";
      auto begin = reinterpret_cast<const char*>(strings.data()) + s.sh_name;
      sections.push_back({{begin, strnlen(begin, strings.size() - s.sh_name)}, contents(s)});
    }
    return {};
  }
  std::vector<Section> sections;

 private:
  template <class T>
  bool read(uint64_t at, T& out) const {
    if (at > file_.size() || file_.size() - at < sizeof out) return false;
    std::memcpy(&out, file_.data() + at, sizeof out);
    return true;
  }
  std::span<const std::byte> contents(const Elf64_Shdr& s) const {
    if (s.sh_type == SHT_NOBITS || s.sh_offset > file_.size() || s.sh_size > file_.size() - s.sh_offset) return {};
    return file_.subspan(s.sh_offset, s.sh_size);
  }
  std::span<const std::byte> file_;
};

struct ParamInfo {  // attribute 0x17
  uint32_t index;
  uint16_t ordinal, offset;
  uint32_t packed;  // size in the bits from 18 on
};
struct ParamInfo2 {  // attribute 0x45
  uint32_t index;
  uint16_t ordinal, offset, size, flags;
};
static_assert(sizeof(ParamInfo) == 12 && sizeof(ParamInfo2) == 12);

// Places one parameter; false when it cannot be one.
bool place(Kernel& k, std::vector<bool>& seen, uint32_t ordinal, uint32_t offset, uint32_t size) {
  if (ordinal >= kOrdinalMax || offset + size > wire::kLaunchParamBytesMax) return false;
  if (k.params.size() <= ordinal) {
    k.params.resize(ordinal + 1);
    seen.resize(ordinal + 1);
  }
  k.params[ordinal] = {offset, size};
  seen[ordinal] = true;
  k.param_bytes = std::max(k.param_bytes, offset + size);
  return true;
}

// The attributes of one kernel; a clause of error when they make no sense.
std::string read_info(std::span<const std::byte> info, Kernel& k) {
  std::vector<bool> seen;
  uint32_t total = 0;
  while (info.size() >= 4) {
    uint8_t format = static_cast<uint8_t>(info[0]), attribute = static_cast<uint8_t>(info[1]);
    uint16_t value;
    std::memcpy(&value, info.data() + 2, 2);
    info = info.subspan(4);
    if (attribute == kParamBytes && format != kFormatSized) total = value;
    if (format != kFormatSized) continue;
    if (value > info.size()) return "an attribute is cut off";
    auto data = info.first(value);
    info = info.subspan(value);
    bool good = true;
    if (attribute == kParamInfo && data.size() >= sizeof(ParamInfo)) {
      ParamInfo p;
      std::memcpy(&p, data.data(), sizeof p);
      good = place(k, seen, p.ordinal, p.offset, p.packed >> 18);
    } else if (attribute == kParamInfo2 && data.size() >= sizeof(ParamInfo2)) {
      ParamInfo2 p;
      std::memcpy(&p, data.data(), sizeof p);
      good = place(k, seen, p.ordinal, p.offset, p.size);
    }
    if (!good) return "a parameter lies outside what a launch can carry";
  }
  if (std::find(seen.begin(), seen.end(), false) != seen.end()) return "a parameter is missing";
  if (total && total < k.param_bytes) return "its parameters are longer than their total";
  k.param_bytes = std::max(k.param_bytes, total);
  return {};
}

Expected<Kernel> kernel_of(const Section* info, std::string_view name) {
  Kernel k;
  k.name = name;
  std::string error = info ? read_info(info->bytes, k) : std::string{};
  if (!error.empty()) return Expected<Kernel>::failure(error);
  return k;
}

std::string_view after(std::string_view text, std::string_view prefix) { return text.substr(0, prefix.size()) == prefix ? text.substr(prefix.size()) : std::string_view{}; }

}  // namespace

Expected<std::vector<Kernel>> kernels(std::span<const std::byte> cubin) {
  using Result = Expected<std::vector<Kernel>>;
  Elf elf;
  if (auto e = elf.open(cubin); !e.empty()) return Result::failure(e);
  std::vector<std::string_view> texts;
  for (const Section& s : elf.sections)
    if (auto name = after(s.name, kTextPrefix); !name.empty()) texts.push_back(name);
  std::sort(texts.begin(), texts.end());
  std::vector<Kernel> out;
  for (const Section& s : elf.sections) {
    auto name = after(s.name, kInfoPrefix);
    if (name.empty() || !std::binary_search(texts.begin(), texts.end(), name)) continue;
    auto k = kernel_of(&s, name);
    if (!k) return Result::failure(std::string(name) + ": " + k.error());
    out.push_back(std::move(*k));
  }
  return out;
}

Expected<Kernel> find_kernel(std::span<const std::byte> cubin, std::string_view name) {
  Elf elf;
  if (auto e = elf.open(cubin); !e.empty()) return Expected<Kernel>::failure(e);
  const Section* info = nullptr;
  bool has_text = false;
  for (const Section& s : elf.sections) {
    if (after(s.name, kInfoPrefix) == name) info = &s;
    has_text |= after(s.name, kTextPrefix) == name;
  }
  if (!has_text) return Expected<Kernel>::failure("the image has no kernel of that name");
  return kernel_of(info, name);
}

}  // namespace djinn::module

// Cubins: ELF files of EM_CUDA. A kernel is a function symbol with the mark of an entry; .nv.info.NAME holds a list of attributes {format, attribute,
// size or value}, of which two say where a parameter lies: 0x17, and 0x45 where a parameter is longer than the 14 bits that 0x17 has for it. A kernel
// with neither has no parameters. The layout is not documented by its vendor; it was read from what nvcc 13 writes and checked against all kernels of
// the PyTorch wheel.
//
// What is read can be more than what was sent: tables may point to the same bytes again and again. So the bytes that a list of kernels is made of are
// counted, and a cubin that repeats itself more than honest ones do is refused.
#include <elf.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "semantic/module/module.hpp"
#include "semantic/wire/limits.hpp"

namespace djinn::module {

namespace {

constexpr uint16_t kMachineCuda = 190;
constexpr uint8_t kEntryMark = 0x10;  // in a symbol's st_other
constexpr std::string_view kInfo = ".nv.info", kInfoPrefix = ".nv.info.";

// Sections: about five for each kernel; the wheel's largest cubin has 1,317 kernels.
constexpr uint64_t kSectionsMax = 1 << 20;
// A kernel's name stands in the names of symbols and of half a dozen sections, its attributes once: an honest cubin needs less than 1.
constexpr uint64_t kReadsPerByteMax = 4;
// Threads of a block, on every device so far.
constexpr uint32_t kThreadsMax = 1024;

enum Format : uint8_t { kNoValue = 1, kByte = 2, kHalf = 3, kSized = 4 };  // of an attribute's value
enum Attribute : uint8_t { kThreadsBound = 0x05, kParam = 0x17, kParamBytes = 0x19, kRegisters = 0x2f, kParam2 = 0x45 };

struct ThreadsBound {
  uint32_t x, y, z;
};
struct ParamInfo {
  uint32_t index;
  uint16_t ordinal, offset;
  uint32_t packed;  // the size in the bits from 18 on
};
struct ParamInfo2 {
  uint32_t index;
  uint16_t ordinal, offset, size, flags;
};
struct Registers {  // in the section of the whole cubin
  uint32_t symbol, registers;
};
static_assert(sizeof(ThreadsBound) == 12 && sizeof(ParamInfo) == 12 && sizeof(ParamInfo2) == 12 && sizeof(Registers) == 8);

using Bytes = std::span<const std::byte>;
using Error = const char*;  // one clause; null = none

template <class T>
bool read(Bytes bytes, uint64_t at, T& out) {
  if (at > bytes.size() || bytes.size() - at < sizeof out) return false;
  std::memcpy(&out, bytes.data() + at, sizeof out);
  return true;
}

// Records that lie in the file, aligned or not.
template <class T>
struct Table {
  Bytes bytes;
  size_t size() const { return bytes.size() / sizeof(T); }
  T operator[](size_t i) const {
    T v;
    std::memcpy(&v, bytes.data() + i * sizeof v, sizeof v);
    return v;
  }
};

// Whether a table of names has this one at an offset.
bool is_name(Bytes names, uint64_t at, std::string_view prefix, std::string_view rest) {
  if (at >= names.size() || names.size() - at <= prefix.size() + rest.size()) return false;
  std::string_view there(reinterpret_cast<const char*>(names.data()) + at, prefix.size() + rest.size() + 1);
  return there.back() == 0 && there.substr(0, prefix.size()) == prefix && there.substr(prefix.size(), rest.size()) == rest;
}

class Elf {
 public:
  Error open(Bytes file);
  // What a section holds that lies in the file (some kinds, of the vendor's too, have a size and no bytes).
  bool contents(const Elf64_Shdr& s, Bytes& out) const {
    if (s.sh_offset > file_.size() || s.sh_size > file_.size() - s.sh_offset) return false;
    out = file_.subspan(s.sh_offset, s.sh_size);
    return true;
  }
  // The name at an offset of a table of names, counted; empty when there is none that could be a kernel's.
  std::string_view name(Bytes names, uint64_t at) {
    if (at >= names.size()) return {};
    auto begin = reinterpret_cast<const char*>(names.data()) + at;
    size_t room = std::min<size_t>(names.size() - at, wire::kNameBytesMax + 1), length = strnlen(begin, room);
    return length < room && count(length) ? std::string_view(begin, length) : std::string_view{};
  }
  bool count(uint64_t bytes) {
    counted_ += bytes;
    return counted_ <= file_.size() * kReadsPerByteMax;
  }

  Table<Elf64_Shdr> sections;
  Table<Elf64_Sym> symbols;
  Bytes section_names, symbol_names;
  Bytes info;  // attributes of the whole cubin

 private:
  Error find_tables();
  Bytes file_;
  uint64_t counted_ = 0;
};

Error Elf::open(Bytes file) {
  file_ = file;
  Elf64_Ehdr h;
  if (!read(file, 0, h) || std::memcmp(h.e_ident, ELFMAG, SELFMAG) != 0 || h.e_ident[EI_CLASS] != ELFCLASS64 || h.e_ident[EI_DATA] != ELFDATA2LSB)
    return "not a 64-bit ELF image";
  if (h.e_machine != kMachineCuda) return "not a cubin";
  Elf64_Shdr first{};
  if (h.e_shentsize != sizeof first || !read(file, h.e_shoff, first)) return "the cubin has no sections";
  // ELF's own escape for more sections than 16 bits count
  uint64_t n = h.e_shnum ? h.e_shnum : first.sh_size, names = h.e_shstrndx == SHN_XINDEX ? first.sh_link : h.e_shstrndx;
  if (n > kSectionsMax || names >= n) return "the cubin's section table is malformed";
  if (n * sizeof first > file.size() - h.e_shoff) return "the cubin's section table is cut off";
  sections = {file.subspan(h.e_shoff, n * sizeof first)};
  if (!contents(sections[names], section_names)) return "the cubin's section names are cut off";
  return find_tables();
}

Error Elf::find_tables() {
  bool found = false;
  for (size_t i = 0; i < sections.size(); i++) {
    Elf64_Shdr s = sections[i];
    if (s.sh_type == SHT_SYMTAB && !found) {
      if (s.sh_entsize != sizeof(Elf64_Sym) || s.sh_link >= sections.size()) return "the cubin's symbol table is malformed";
      if (!contents(s, symbols.bytes) || !contents(sections[s.sh_link], symbol_names)) return "the cubin's symbols are cut off";
      found = true;
    }
    if (info.empty() && is_name(section_names, s.sh_name, kInfo, {}) && !contents(s, info)) return "the cubin's attributes are cut off";
  }
  return found ? nullptr : "the cubin has no symbols";
}

bool is_kernel(const Elf64_Sym& s) { return ELF64_ST_TYPE(s.st_info) == STT_FUNC && (s.st_other & kEntryMark) && s.st_shndx != SHN_UNDEF; }

// Calls f(attribute, value, data) for each: `value` of those that are no more than that, `data` of the others.
template <class F>
Error each_attribute(Bytes info, F f) {
  while (!info.empty()) {
    if (info.size() < 4) return "an attribute is cut off";
    auto format = static_cast<uint8_t>(info[0]), attribute = static_cast<uint8_t>(info[1]);
    uint16_t value;
    std::memcpy(&value, info.data() + 2, sizeof value);
    info = info.subspan(4);
    if (format < kNoValue || format > kSized) return "an attribute has an unknown format";
    size_t size = format == kSized ? value : 0;
    if (size > info.size()) return "an attribute is cut off";
    if (Error e = f(attribute, value, info.first(size))) return e;
    info = info.subspan(size);
  }
  return nullptr;
}

// What the attributes of one kernel say, collected in their order (which is the last parameter first).
struct Described {
  std::vector<std::pair<uint32_t, Param>> params;
  uint32_t param_bytes = 0, threads_max = 0;

  Error add(uint8_t attribute, uint16_t value, Bytes data);
  Error finish(Kernel& k);
};

Error Described::add(uint8_t attribute, uint16_t value, Bytes data) {
  ParamInfo p;
  ParamInfo2 q;
  ThreadsBound t;
  if (attribute == kParam) {
    if (!read(data, 0, p)) return "a parameter is cut off";
    params.push_back({p.ordinal, {p.offset, p.packed >> 18}});
  } else if (attribute == kParam2) {
    if (!read(data, 0, q)) return "a parameter is cut off";
    params.push_back({q.ordinal, {q.offset, q.size}});
  } else if (attribute == kParamBytes) {
    if (!data.empty()) return "the size of its parameters has another format";
    param_bytes = value;
  } else if (attribute == kThreadsBound) {
    if (!read(data, 0, t) || std::max({t.x, t.y, t.z}) > kThreadsMax) return "its bound on threads is malformed";
    threads_max = std::min<uint64_t>(uint64_t{t.x} * t.y * t.z, kThreadsMax);
  }
  return nullptr;
}

// Each parameter once, one after the other, inside what a launch carries.
Error Described::finish(Kernel& k) {
  if (param_bytes > wire::kLaunchParamBytesMax) return "its parameters are more than a launch can carry";
  if (params.empty() && param_bytes) return "its parameters are not described";
  std::sort(params.begin(), params.end(), [](auto& a, auto& b) { return a.first < b.first; });
  uint32_t end = 0;
  for (auto& [ordinal, p] : params) {
    if (ordinal != k.params.size()) return "a parameter is missing or described twice";
    if (p.offset < end) return "two parameters overlap";
    end = p.offset + p.size;  // of 16 bits each
    if (end > param_bytes) return "a parameter lies outside the parameters";
    k.params.push_back(p);
  }
  k.param_bytes = param_bytes;
  k.threads_max = threads_max;
  return nullptr;
}

Error describe(Bytes info, Kernel& k) {
  Described d;
  if (Error e = each_attribute(info, [&](uint8_t attribute, uint16_t value, Bytes data) { return d.add(attribute, value, data); })) return e;
  return d.finish(k);
}

// Calls f(symbol, registers) for each function of the cubin.
template <class F>
Error each_registers(Bytes info, F f) {
  return each_attribute(info, [&](uint8_t attribute, uint16_t, Bytes data) -> Error {
    Registers r;
    if (attribute != kRegisters) return nullptr;
    if (!read(data, 0, r)) return "a count of registers is cut off";
    f(r.symbol, r.registers);
    return nullptr;
  });
}

// What belongs to kernels by their name or symbol, sorted for looking up.
struct Index {
  std::vector<std::pair<std::string_view, Bytes>> infos;
  std::vector<std::pair<uint32_t, uint32_t>> registers;
};

Error make_index(Elf& elf, Index& index) {
  for (size_t i = 0; i < elf.sections.size(); i++) {
    Elf64_Shdr s = elf.sections[i];
    if (s.sh_name >= elf.section_names.size()) return "a section's name is outside the names";
    Bytes rest = elf.section_names.subspan(s.sh_name), info;
    if (rest.size() < kInfoPrefix.size() || std::memcmp(rest.data(), kInfoPrefix.data(), kInfoPrefix.size()) != 0) continue;
    std::string_view name = elf.name(rest, kInfoPrefix.size());
    if (name.empty()) return "a kernel's name is malformed";
    if (!elf.contents(s, info)) return "a kernel's attributes are cut off";
    index.infos.emplace_back(name, info);
  }
  auto by_first = [](auto& a, auto& b) { return a.first < b.first; };
  std::stable_sort(index.infos.begin(), index.infos.end(), by_first);
  Error e = each_registers(elf.info, [&](uint32_t symbol, uint32_t n) { index.registers.emplace_back(symbol, n); });
  std::stable_sort(index.registers.begin(), index.registers.end(), by_first);
  return e;
}

template <class K, class V>
const V* look_up(const std::vector<std::pair<K, V>>& sorted, const K& key) {
  auto i = std::lower_bound(sorted.begin(), sorted.end(), key, [](auto& a, auto& b) { return a.first < b; });
  return i != sorted.end() && i->first == key ? &i->second : nullptr;
}

}  // namespace

Expected<std::vector<Kernel>> kernels(std::span<const std::byte> cubin) {
  using Result = Expected<std::vector<Kernel>>;
  Elf elf;
  Index index;
  if (Error e = elf.open(cubin)) return Result::failure(e);
  if (Error e = make_index(elf, index)) return Result::failure(e);
  std::vector<Kernel> out;
  for (size_t i = 0; i < elf.symbols.size(); i++) {
    Elf64_Sym s = elf.symbols[i];
    if (!is_kernel(s)) continue;
    std::string_view name = elf.name(elf.symbol_names, s.st_name);
    if (name.empty()) return Result::failure("a kernel's name is malformed");
    Kernel& k = out.emplace_back();
    k.name = name;
    if (const Bytes* info = look_up(index.infos, name)) {
      if (!elf.count(info->size())) return Result::failure("the cubin repeats itself");
      if (Error e = describe(*info, k)) return Result::failure(k.name + ": " + e);
    }
    if (const uint32_t* n = look_up(index.registers, static_cast<uint32_t>(i))) k.registers = *n;
  }
  return out;
}

Expected<Kernel> find_kernel(std::span<const std::byte> cubin, std::string_view name) {
  using Result = Expected<Kernel>;
  Elf elf;
  if (Error e = elf.open(cubin)) return Result::failure(e);
  size_t symbol = 0, section = 0;
  auto named = [&](const Elf64_Sym& s) { return is_kernel(s) && is_name(elf.symbol_names, s.st_name, {}, name); };
  while (symbol < elf.symbols.size() && !named(elf.symbols[symbol])) symbol++;
  if (name.empty() || symbol == elf.symbols.size()) return Result::failure("the image has no kernel of that name");
  Kernel k;
  k.name = name;
  while (section < elf.sections.size() && !is_name(elf.section_names, elf.sections[section].sh_name, kInfoPrefix, name)) section++;
  if (section < elf.sections.size()) {
    Bytes info;
    if (!elf.contents(elf.sections[section], info)) return Result::failure("its attributes are cut off");
    if (Error e = describe(info, k)) return Result::failure(e);
  }
  bool said = false;
  Error e = each_registers(elf.info, [&](uint32_t of, uint32_t n) {
    if (of == symbol && !std::exchange(said, true)) k.registers = n;
  });
  if (e) return Result::failure(e);
  return k;
}

size_t cubin_bytes(const void* cubin) {
  constexpr uint32_t kSharedNoBits = SHT_LOPROC + 0xa;  // shared memory of relocatable code: a size without bytes
  auto base = static_cast<const std::byte*>(cubin);
  Elf64_Ehdr h;
  std::memcpy(&h, base, sizeof h);
  if (std::memcmp(h.e_ident, ELFMAG, SELFMAG) != 0 || h.e_ident[EI_CLASS] != ELFCLASS64 || h.e_machine != kMachineCuda) return 0;
  if (h.e_shentsize != sizeof(Elf64_Shdr) || !h.e_shoff) return 0;
  Elf64_Shdr s;
  std::memcpy(&s, base + h.e_shoff, sizeof s);
  uint64_t n = h.e_shnum ? h.e_shnum : s.sh_size;
  if (n > kSectionsMax) return 0;
  uint64_t end = std::max(h.e_shoff + n * sizeof s, h.e_phoff + uint64_t{h.e_phnum} * h.e_phentsize);
  for (uint64_t i = 0; i < n; i++) {
    std::memcpy(&s, base + h.e_shoff + i * sizeof s, sizeof s);
    if (s.sh_type != SHT_NOBITS && s.sh_type != kSharedNoBits) end = std::max(end, s.sh_offset + s.sh_size);
  }
  return end;
}

}  // namespace djinn::module

// Makes fatbins and cubins as nvcc lays them out, by hand, so that tests and the fuzzer need no toolkit and can bend every field.
#pragma once
#include <elf.h>
#include <lz4.h>
#include <zstd.h>

#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "semantic/module/module.hpp"

namespace djinn::test {

using Bytes = std::vector<std::byte>;

template <class T>
void put(Bytes& out, const T& v) {
  out.resize(out.size() + sizeof v);
  std::memcpy(out.data() + out.size() - sizeof v, &v, sizeof v);
}
inline Bytes bytes_of(const std::string& s) {
  auto p = reinterpret_cast<const std::byte*>(s.data());
  return {p, p + s.size()};
}
inline void append(Bytes& out, const Bytes& more) {
  for (std::byte b : more) out.push_back(b);
}

// One attribute of a .nv.info section, ready to be appended.
inline Bytes sized_attribute(uint8_t attribute, const Bytes& data) {
  Bytes out;
  put(out, uint8_t{4});
  put(out, attribute);
  put(out, static_cast<uint16_t>(data.size()));
  append(out, data);
  return out;
}
inline Bytes value_attribute(uint8_t attribute, uint16_t value) {
  Bytes out;
  put(out, uint8_t{3});
  put(out, attribute);
  put(out, value);
  return out;
}
inline Bytes param17(uint16_t ordinal, uint16_t offset, uint32_t size) {
  Bytes d;
  put(d, uint32_t{0});
  put(d, ordinal);
  put(d, offset);
  put(d, size << 18 | 0x1f000);
  return sized_attribute(0x17, d);
}
inline Bytes param45(uint16_t ordinal, uint16_t offset, uint16_t size) {
  Bytes d;
  put(d, uint32_t{0});
  put(d, ordinal);
  put(d, offset);
  put(d, size);
  put(d, uint16_t{0x500});
  return sized_attribute(0x45, d);
}
inline Bytes param_bytes(uint16_t n) { return value_attribute(0x19, n); }
inline Bytes threads_bound(uint32_t x, uint32_t y, uint32_t z) {
  Bytes d;
  put(d, x);
  put(d, y);
  put(d, z);
  return sized_attribute(0x05, d);
}
inline Bytes info(const std::vector<Bytes>& attributes) {
  Bytes out;
  for (const Bytes& a : attributes) append(out, a);
  return out;
}

struct Function {
  std::string name;
  std::optional<Bytes> info;
  bool entry = true;
  uint32_t registers = 0;
};

// The sections of an ELF file, in their order; headers last, so that every prefix of the file lacks some.
class CubinBuilder {
 public:
  // The section's index.
  uint16_t add(const std::string& name, uint32_t type, Bytes data) {
    Elf64_Shdr s{};
    s.sh_name = static_cast<uint32_t>(names_.size());
    s.sh_type = type;
    s.sh_size = data.size();
    names_ += name + '\0';
    headers.push_back(s);
    contents_.push_back(std::move(data));
    return static_cast<uint16_t>(headers.size() - 1);
  }
  Bytes build(uint16_t machine) {
    uint16_t names = add(".shstrtab", SHT_STRTAB, {});
    contents_[names] = bytes_of(names_);
    headers[names].sh_size = names_.size();
    Elf64_Ehdr h{};
    std::memcpy(h.e_ident, ELFMAG, SELFMAG);
    h.e_ident[EI_CLASS] = ELFCLASS64;
    h.e_ident[EI_DATA] = ELFDATA2LSB;
    h.e_machine = machine;
    h.e_shentsize = sizeof(Elf64_Shdr);
    h.e_shnum = static_cast<uint16_t>(headers.size());
    h.e_shstrndx = names;
    Bytes out(sizeof h);
    for (size_t i = 0; i < headers.size(); i++) {
      headers[i].sh_offset = out.size();
      append(out, contents_[i]);
    }
    out.resize((out.size() + 7) / 8 * 8);
    h.e_shoff = out.size();
    for (auto& s : headers) put(out, s);
    std::memcpy(out.data(), &h, sizeof h);
    return out;
  }
  std::vector<Elf64_Shdr> headers;

 private:
  std::string names_;
  std::vector<Bytes> contents_;
};

inline Bytes cubin(const std::vector<Function>& functions, uint16_t machine = 190) {
  CubinBuilder b;
  b.add("", SHT_NULL, {});
  std::string names(1, '\0');
  Bytes symbols(sizeof(Elf64_Sym)), all;
  for (const Function& f : functions) {
    if (f.info) b.add(".nv.info." + f.name, SHT_LOPROC, *f.info);
    Elf64_Sym s{};
    s.st_name = static_cast<uint32_t>(names.size());
    s.st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC);
    s.st_other = f.entry ? 0x10 : 0;
    s.st_shndx = b.add(".text." + f.name, SHT_PROGBITS, Bytes(16));
    names += f.name + '\0';
    Bytes counted;
    put(counted, static_cast<uint32_t>(symbols.size() / sizeof s));
    put(counted, f.registers);
    append(all, sized_attribute(0x2f, counted));
    put(symbols, s);
    // takes no bytes of the file, but has a size
    b.headers[b.add(".nv.shared." + f.name, SHT_NOBITS, {})].sh_size = 1 << 20;
  }
  b.add(".nv.info", SHT_LOPROC, all);
  uint16_t strings = b.add(".strtab", SHT_STRTAB, bytes_of(names));
  Elf64_Shdr& s = b.headers[b.add(".symtab", SHT_SYMTAB, symbols)];
  s.sh_link = strings;
  s.sh_entsize = sizeof(Elf64_Sym);
  return b.build(machine);
}

inline Bytes zstd(const Bytes& in) {
  Bytes out(ZSTD_compressBound(in.size()));
  out.resize(ZSTD_compress(out.data(), out.size(), in.data(), in.size(), 3));
  return out;
}
inline Bytes lz4(const Bytes& in) {
  Bytes out(static_cast<size_t>(LZ4_compressBound(static_cast<int>(in.size()))));
  out.resize(static_cast<size_t>(LZ4_compress_default(reinterpret_cast<const char*>(in.data()), reinterpret_cast<char*>(out.data()),
                                                      static_cast<int>(in.size()), static_cast<int>(out.size()))));
  return out;
}

constexpr uint64_t kRaw = 0x11, kLz4 = 0x2011, kZstd = 0x8011, kArchSpecific = 0x100000, kFamilySpecific = 0x200000;

struct Entry {
  uint16_t kind;  // 1 PTX, 2 cubin
  uint32_t sm;
  uint64_t flags;
  Bytes data;         // as stored
  uint64_t size = 0;  // before compression
};

inline Bytes fatbin(const std::vector<Entry>& entries, uint32_t header_size = 64) {
  Bytes body;
  for (const Entry& e : entries) {
    size_t padded = (e.data.size() + 7) / 8 * 8;
    bool compressed = e.flags & 0xa000;
    put(body, e.kind);
    put(body, uint16_t{0x101});
    put(body, header_size);
    put(body, uint64_t{padded});
    put(body, compressed ? static_cast<uint32_t>(e.data.size()) : 0u);
    put(body, uint32_t{0});
    put(body, uint32_t{0});
    put(body, e.sm);
    put(body, uint64_t{0});
    put(body, e.flags);
    put(body, uint64_t{0});
    put(body, compressed ? e.size : uint64_t{0});
    body.resize(body.size() + header_size - 64);
    append(body, e.data);
    body.resize(body.size() + padded - e.data.size());
  }
  Bytes out;
  put(out, uint32_t{0xba55ed50});
  put(out, uint16_t{1});
  put(out, uint16_t{16});
  put(out, uint64_t{body.size()});
  append(out, body);
  return out;
}

// Kernels with both descriptions of parameters, one with none, one without attributes, and a device function.
inline Bytes sample_cubin() {
  return cubin({{"first", info({param17(1, 8, 4), param17(0, 0, 8), param_bytes(12), threads_bound(16, 16, 1)}), true, 40},
                {"helper", info({value_attribute(0x1b, 255)}), false, 12},
                {"second", info({param45(2, 0x64b0, 0x18), param45(1, 0x64a8, 1), param45(0, 0, 0x64a8), param_bytes(0x64c8)}), true, 255},
                {"none", info({value_attribute(0x1b, 255)}), true, 8},
                {"bare", std::nullopt}});
}

}  // namespace djinn::test

// Fatbins and cubins made by hand, then cut, bent and filled with noise; and, where the torch wheel is at hand, all of its kernels.
#include <elf.h>
#include <fcntl.h>
#include <lz4.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include <cstdlib>
#include <cstring>
#include <random>

#include "semantic/module/module.hpp"
#include "tests/unit/catch.hpp"

using namespace djinn::module;

namespace {

using Bytes = std::vector<std::byte>;

template <class T>
void put(Bytes& out, const T& v) {
  auto p = reinterpret_cast<const std::byte*>(&v);
  out.insert(out.end(), p, p + sizeof v);
}
Bytes bytes(const std::string& s) {
  auto p = reinterpret_cast<const std::byte*>(s.data());
  return {p, p + s.size()};
}

struct Attribute {
  uint8_t format, attribute;
  Bytes data;
  uint16_t value = 0;
};
Attribute param17(uint16_t ordinal, uint16_t offset, uint32_t size) {
  Attribute a{4, 0x17, {}, 0};
  put(a.data, uint32_t{0});
  put(a.data, ordinal);
  put(a.data, offset);
  put(a.data, size << 18 | 0x1f000);
  return a;
}
Attribute param45(uint16_t ordinal, uint16_t offset, uint16_t size) {
  Attribute a{4, 0x45, {}, 0};
  put(a.data, uint32_t{0});
  put(a.data, ordinal);
  put(a.data, offset);
  put(a.data, size);
  put(a.data, uint16_t{0});
  return a;
}
Bytes info(const std::vector<Attribute>& attributes) {
  Bytes out;
  for (const Attribute& a : attributes) {
    put(out, a.format);
    put(out, a.attribute);
    put(out, a.format == 4 ? static_cast<uint16_t>(a.data.size()) : a.value);
    out.insert(out.end(), a.data.begin(), a.data.end());
  }
  return out;
}

// An ELF file of these sections.
Bytes cubin(std::vector<std::pair<std::string, Bytes>> sections, uint16_t machine = 190) {
  sections.insert(sections.begin(), {"", {}});
  sections.emplace_back(".shstrtab", Bytes{});
  std::string names;
  std::vector<Elf64_Shdr> headers;
  for (auto& [name, data] : sections) {
    Elf64_Shdr s{};
    s.sh_name = static_cast<uint32_t>(names.size());
    names += name + '\0';
    s.sh_type = name.empty() ? SHT_NULL : SHT_PROGBITS;
    headers.push_back(s);
  }
  sections.back().second = bytes(names);
  Elf64_Ehdr h{};
  std::memcpy(h.e_ident, ELFMAG, SELFMAG);
  h.e_ident[EI_CLASS] = ELFCLASS64;
  h.e_machine = machine;
  h.e_shentsize = sizeof(Elf64_Shdr);
  h.e_shnum = static_cast<uint16_t>(sections.size());
  h.e_shstrndx = static_cast<uint16_t>(sections.size() - 1);
  Bytes out(sizeof h);
  for (size_t i = 0; i < sections.size(); i++) {
    headers[i].sh_offset = out.size();
    headers[i].sh_size = sections[i].second.size();
    out.insert(out.end(), sections[i].second.begin(), sections[i].second.end());
  }
  out.resize((out.size() + 7) / 8 * 8);
  h.e_shoff = out.size();
  for (auto& s : headers) put(out, s);
  std::memcpy(out.data(), &h, sizeof h);
  return out;
}

Bytes sample_cubin() {
  return cubin({{".nv.info", {}},
                {".nv.info.first", info({param17(1, 8, 4), param17(0, 0, 8), {3, 0x19, {}, 12}})},
                {".nv.info.second", info({param45(2, 0x64b0, 0x18), param45(1, 0x64a8, 1), param45(0, 0, 0x64a8), {3, 0x19, {}, 0x64c8}})},
                {".nv.info.none", info({{3, 0x1b, {}, 255}})},
                {".nv.info.not_a_kernel", info({param17(0, 0, 8)})},
                {".text.first", Bytes(16)},
                {".text.second", Bytes(16)},
                {".text.none", Bytes(16)},
                {".text.bare", Bytes(16)}});
}

struct Entry {
  uint16_t kind;
  uint32_t sm;
  uint64_t flags;
  Bytes data;
  uint64_t size = 0;
};
Bytes fatbin(const std::vector<Entry>& entries, uint32_t header_size = 64) {
  Bytes body;
  for (const Entry& e : entries) {
    size_t padded = (e.data.size() + 7) / 8 * 8;
    put(body, e.kind);
    put(body, uint16_t{0x101});
    put(body, header_size);
    put(body, uint64_t{padded});
    put(body, e.flags & 0xa000 ? static_cast<uint32_t>(e.data.size()) : 0u);
    put(body, uint32_t{0});
    put(body, uint32_t{0});
    put(body, e.sm);
    put(body, uint64_t{0});
    put(body, e.flags);
    put(body, uint64_t{0});
    put(body, e.flags & 0xa000 ? e.size : uint64_t{0});
    body.resize(body.size() + header_size - 64);
    body.insert(body.end(), e.data.begin(), e.data.end());
    body.resize(body.size() + padded - e.data.size());
  }
  Bytes out;
  put(out, uint32_t{0xba55ed50});
  put(out, uint16_t{1});
  put(out, uint16_t{16});
  put(out, uint64_t{body.size()});
  out.insert(out.end(), body.begin(), body.end());
  return out;
}
Bytes zstd(const Bytes& in) {
  Bytes out(ZSTD_compressBound(in.size()));
  out.resize(ZSTD_compress(out.data(), out.size(), in.data(), in.size(), 3));
  return out;
}
Bytes lz4(const Bytes& in) {
  Bytes out(static_cast<size_t>(LZ4_compressBound(static_cast<int>(in.size()))));
  out.resize(static_cast<size_t>(LZ4_compress_default(reinterpret_cast<const char*>(in.data()), reinterpret_cast<char*>(out.data()), static_cast<int>(in.size()), static_cast<int>(out.size()))));
  return out;
}

}  // namespace

TEST_CASE("module: kernels and their parameters, of both kinds") {
  Bytes c = sample_cubin();
  auto all = kernels(c);
  REQUIRE(all);
  CHECK(all->size() == 3);
  auto first = find_kernel(c, "first");
  REQUIRE(first);
  REQUIRE(first->params.size() == 2);
  CHECK(first->params[0].offset == 0);
  CHECK(first->params[0].size == 8);
  CHECK(first->params[1].offset == 8);
  CHECK(first->params[1].size == 4);
  CHECK(first->param_bytes == 12);
  auto second = find_kernel(c, "second");
  REQUIRE(second);
  CHECK(second->param_bytes == 0x64c8);
  CHECK(second->params[2].size == 0x18);
  for (const char* name : {"none", "bare"}) {
    auto k = find_kernel(c, name);
    REQUIRE(k);
    CHECK(k->params.empty());
    CHECK(k->param_bytes == 0);
  }
  CHECK_FALSE(find_kernel(c, "absent"));
  CHECK_FALSE(find_kernel(c, "not_a_kernel"));
  CHECK_FALSE(find_kernel(c, "firs"));
}

TEST_CASE("module: parameters that cannot be are refused") {
  auto bad = [](std::vector<Attribute> a) { return find_kernel(cubin({{".nv.info.k", info(a)}, {".text.k", {}}}), "k").error(); };
  CHECK(bad({param17(1, 8, 4)}) == "a parameter is missing");
  CHECK(bad({param17(0, 65000, 8)}) != "");
  CHECK(bad({param17(60000, 0, 8)}) != "");
  CHECK(bad({param17(0, 0, 8), {3, 0x19, {}, 4}}) != "");
  Bytes cut = info({param17(0, 0, 8)});
  cut.resize(cut.size() - 1);
  CHECK(find_kernel(cubin({{".nv.info.k", cut}, {".text.k", {}}}), "k").error() == "an attribute is cut off");
  CHECK(kernels(cubin({}, EM_X86_64)).error() == "not a cubin");
}

TEST_CASE("module: fatbins, raw and compressed, with headers of any size") {
  Bytes c = sample_cubin(), ptx = bytes(".version 9.0\n.target sm_80\n.entry k() {}\n");
  for (uint32_t header : {64u, 80u, 112u}) {
    Bytes f = fatbin({{2, 80, 0x11, c}, {2, 90, 0x8011, zstd(c), c.size()}, {7, 90, 0x11, Bytes(24)}, {2, 120, 0x2011, lz4(c), c.size()}, {1, 120, 0x8011, zstd(ptx), ptx.size()}}, header);
    CHECK(fatbin_bytes(f.data()) == f.size());
    auto list = images(f);
    REQUIRE(list);
    REQUIRE(list->size() == 4);
    for (const Image& i : *list) {
      auto u = unpack(i);
      REQUIRE(u);
      CHECK(*u == (i.kind == Kind::ptx ? ptx : c));
    }
  }
}

TEST_CASE("module: the cubin that a device would load") {
  Bytes c(8);
  Bytes f = fatbin({{2, 75, 0x11, c}, {2, 80, 0x11, c}, {2, 86, 0x11, c}, {2, 90, 0x100011, c}, {2, 120, 0x11, c}, {1, 121, 0x11, c}});
  auto list = images(f);
  REQUIRE(list);
  auto chosen = [&](uint32_t sm) { return choose_cubin(*list, sm) ? choose_cubin(*list, sm)->sm : 0; };
  CHECK(chosen(75) == 75);
  CHECK(chosen(80) == 80);
  CHECK(chosen(89) == 86);
  CHECK(chosen(90) == 90);
  CHECK(chosen(120) == 120);
  CHECK(chosen(121) == 120);
  CHECK(chosen(70) == 0);
  CHECK(chosen(100) == 0);
}

TEST_CASE("module: cut, bent and noisy input crashes nothing") {
  Bytes c = sample_cubin();
  Bytes f = fatbin({{2, 90, 0x8011, zstd(c), c.size()}, {2, 120, 0x2011, lz4(c), c.size()}, {2, 80, 0x11, c}});
  for (size_t n = 0; n < c.size(); n++) CHECK_FALSE(kernels(std::span(c).first(n)));
  for (size_t n = 0; n < f.size(); n++) CHECK_FALSE(images(std::span(f).first(n)));
  std::mt19937_64 dice(3);
  for (int round = 0; round < 20000; round++) {
    Bytes x = round % 2 ? c : f;
    for (int flips = 1 + static_cast<int>(dice() % 4); flips > 0; flips--) x[dice() % (dice() % 2 ? 128 : x.size())] = std::byte(dice() & 0xff);
    if (round % 2) {
      kernels(x);
      find_kernel(x, "second");
    } else if (auto list = images(x)) {
      for (const Image& i : *list)
        if (i.size < 1 << 20) unpack(i);
    }
  }
}

TEST_CASE("module: an image may not make us allocate what it likes") {
  Bytes c(64);
  auto list = images(fatbin({{2, 90, 0x8011, zstd(c), ~0ull - 100}}));
  REQUIRE(list);
  CHECK_FALSE(unpack(list->at(0)));
}

#ifdef DJINN_TORCH_CUDA_LIBRARY
TEST_CASE("module: every kernel of the torch wheel for sm_120") {
  int fd = open(DJINN_TORCH_CUDA_LIBRARY, O_RDONLY | O_CLOEXEC);
  REQUIRE(fd >= 0);
  struct stat st {};
  REQUIRE(fstat(fd, &st) == 0);
  auto file = static_cast<const std::byte*>(mmap(nullptr, static_cast<size_t>(st.st_size), PROT_READ, MAP_PRIVATE, fd, 0));
  close(fd);
  REQUIRE(file != MAP_FAILED);
  Elf64_Ehdr h;
  std::memcpy(&h, file, sizeof h);
  std::vector<Elf64_Shdr> sections(h.e_shnum);
  std::memcpy(sections.data(), file + h.e_shoff, sections.size() * sizeof(Elf64_Shdr));
  size_t fatbins = 0, found = 0, with_params = 0;
  for (const Elf64_Shdr& s : sections) {
    if (std::string(reinterpret_cast<const char*>(file) + sections[h.e_shstrndx].sh_offset + s.sh_name) != ".nv_fatbin") continue;
    for (size_t at = 0; at + 16 <= s.sh_size;) {
      const std::byte* p = file + s.sh_offset + at;
      size_t n = fatbin_bytes(p);
      if (!n) {
        at += 8;
        continue;
      }
      auto list = images({p, n});
      REQUIRE(list);
      if (const Image* image = choose_cubin(*list, 120)) {
        auto cubin = unpack(*image);
        REQUIRE(cubin);
        auto all = kernels(*cubin);
        INFO(all.error());
        REQUIRE(all);
        found += all->size();
        for (const Kernel& k : *all) with_params += !k.params.empty();
      }
      ++fatbins;
      at += (n + 7) / 8 * 8;
    }
  }
  CHECK(fatbins > 400);
  CHECK(found > 20000);
  CHECK(with_params > 0.99 * static_cast<double>(found));
}
#endif

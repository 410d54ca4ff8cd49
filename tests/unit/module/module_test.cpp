// Fatbins and cubins made by hand, then cut, bent and filled with noise.
#include <random>

#include "tests/unit/catch.hpp"
#include "tests/unit/module/images.hpp"

using namespace djinn::module;
using namespace djinn::test;

TEST_CASE("module: kernels and their parameters, of both kinds") {
  Bytes c = sample_cubin();
  auto all = kernels(c);
  REQUIRE(all);
  REQUIRE(all->size() == 4);
  CHECK(all->at(1).name == "second");
  auto first = find_kernel(c, "first");
  REQUIRE(first);
  REQUIRE(first->params.size() == 2);
  CHECK(first->params[0].offset == 0);
  CHECK(first->params[0].size == 8);
  CHECK(first->params[1].offset == 8);
  CHECK(first->params[1].size == 4);
  CHECK(first->param_bytes == 12);
  CHECK(first->threads_max == 256);
  CHECK(first->registers == 40);
  auto second = find_kernel(c, "second");
  REQUIRE(second);
  CHECK(second->param_bytes == 0x64c8);
  CHECK(second->params[0].size == 0x64a8);
  CHECK(second->params[2].size == 0x18);
  CHECK(second->threads_max == 0);
  CHECK(second->registers == 255);
  for (const char* name : {"none", "bare"}) {
    auto k = find_kernel(c, name);
    REQUIRE(k);
    CHECK(k->params.empty());
    CHECK(k->param_bytes == 0);
  }
  for (const char* name : {"absent", "helper", "firs", "first ", ""}) CHECK(find_kernel(c, name).error() == "the image has no kernel of that name");
  CHECK(cubin_bytes(c.data()) == c.size());
}

TEST_CASE("module: parameters that cannot be are refused") {
  auto problem = [](const std::vector<Bytes>& attributes) {
    Bytes c = cubin({{"k", info(attributes)}});
    std::string one = find_kernel(c, "k").error(), all = kernels(c).error();
    CHECK(all == (one.empty() ? "" : "k: " + one));
    return one;
  };
  CHECK(problem({param17(0, 0, 8), param_bytes(8)}) == "");
  CHECK(problem({param17(1, 8, 4), param_bytes(12)}) == "a parameter is missing or described twice");
  CHECK(problem({param17(0, 0, 8), param45(0, 0, 8), param_bytes(8)}) == "a parameter is missing or described twice");
  CHECK(problem({param17(65535, 0, 8), param_bytes(8)}) == "a parameter is missing or described twice");
  CHECK(problem({param17(0, 0, 8), param17(1, 7, 4), param_bytes(12)}) == "two parameters overlap");
  CHECK(problem({param17(0, 0, 8), param_bytes(4)}) == "a parameter lies outside the parameters");
  CHECK(problem({param17(0, 65535, 16383), param_bytes(32768)}) == "a parameter lies outside the parameters");
  CHECK(problem({param17(0, 0, 8)}) == "a parameter lies outside the parameters");
  CHECK(problem({param_bytes(8)}) == "its parameters are not described");
  CHECK(problem({param45(0, 0, 32769), param_bytes(32769)}) == "its parameters are more than a launch can carry");
  CHECK(problem({sized_attribute(0x17, Bytes(8))}) == "a parameter is cut off");
  CHECK(problem({sized_attribute(0x45, Bytes(11))}) == "a parameter is cut off");
  CHECK(problem({sized_attribute(0x19, Bytes(4))}) == "the size of its parameters has another format");
  CHECK(problem({threads_bound(4096, 1, 1)}) == "its bound on threads is malformed");
  CHECK(problem({Bytes{std::byte{5}, std::byte{0}, std::byte{0}, std::byte{0}}}) == "an attribute has an unknown format");
  CHECK(problem({Bytes(3, std::byte{1})}) == "an attribute is cut off");
  Bytes cut = param17(0, 0, 8);
  cut.pop_back();
  CHECK(problem({cut}) == "an attribute is cut off");
  CHECK(kernels(cubin({}, EM_X86_64)).error() == "not a cubin");
}

TEST_CASE("module: a small cubin cannot make a large list") {
  // Many kernels that share one long name and one long list of attributes.
  std::vector<Bytes> attributes;
  for (uint16_t i = 0; i < 2000; i++) attributes.push_back(param17(i, static_cast<uint16_t>(8 * i), 8));
  attributes.push_back(param_bytes(16000));
  Bytes c = cubin({{std::string(8000, 'k'), info(attributes)}});
  REQUIRE(kernels(c));
  Elf64_Ehdr h;
  std::memcpy(&h, c.data(), sizeof h);
  std::vector<Elf64_Shdr> sections(h.e_shnum);
  std::memcpy(sections.data(), c.data() + h.e_shoff, sections.size() * sizeof(Elf64_Shdr));
  for (Elf64_Shdr& s : sections) {
    if (s.sh_type != SHT_SYMTAB) continue;
    Elf64_Sym symbol;
    std::memcpy(&symbol, c.data() + s.sh_offset + sizeof symbol, sizeof symbol);
    Bytes symbols;
    for (int i = 0; i < 1000; i++) put(symbols, symbol);
    s.sh_offset = c.size();
    s.sh_size = symbols.size();
    append(c, symbols);
    std::memcpy(c.data() + h.e_shoff, sections.data(), sections.size() * sizeof s);
    break;
  }
  auto all = kernels(c);
  CHECK_FALSE(all);
  CHECK(find_kernel(c, std::string(8000, 'k')));
}

TEST_CASE("module: fatbins, raw and compressed, with headers of any size") {
  Bytes c = sample_cubin(), ptx = bytes_of(".version 9.0\n.target sm_80\n.entry k() {}\n");
  for (uint32_t header : {64u, 80u, 112u}) {
    Bytes f = fatbin({{2, 80, kRaw, c},
                      {2, 90, kZstd, zstd(c), c.size()},
                      {7, 90, kRaw, Bytes(24)},
                      {2, 120, kLz4, lz4(c), c.size()},
                      {1, 120, kZstd, zstd(ptx), ptx.size()}},
                     header);
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
  CHECK(fatbin_bytes(c.data()) == 0);
  CHECK(images(fatbin({}))->empty());
}

TEST_CASE("module: fatbins that are not whole are refused") {
  auto problem = [](const Bytes& f) { return images(f).error(); };
  Bytes good = fatbin({{2, 80, kRaw, Bytes(64)}});
  auto with = [&](size_t at, auto value) {
    Bytes f = good;
    std::memcpy(f.data() + at, &value, sizeof value);
    return problem(f);
  };
  CHECK(problem(good) == "");
  CHECK(with(0, 0x12345678u) == "not a fatbin");
  CHECK(with(4, uint16_t{2}) == "the fatbin has an unknown version");
  CHECK(with(6, uint16_t{8}) == "the fatbin is cut off");
  CHECK(with(8, ~0ull) == "the fatbin is cut off");
  CHECK(with(8, uint64_t{64 + 32}) == "an image of the fatbin is cut off");
  CHECK(with(16 + 4, 32u) == "an image of the fatbin is cut off");
  CHECK(with(16 + 8, ~0ull - 63) == "an image of the fatbin is cut off");
  CHECK(with(16 + 40, uint64_t{0xa011}) == "an image of the fatbin is compressed in two ways");
  CHECK(problem(fatbin({{2, 80, kZstd, Bytes(64), 64}})) == "");
  Bytes f = fatbin({{2, 80, kZstd, Bytes(64), 64}});
  f[16 + 16] = std::byte{65};
  CHECK(problem(f) == "a compressed image of the fatbin is cut off");
  CHECK(problem(fatbin(std::vector<Entry>(1025, Entry{2, 80, kRaw, {}}))) == "the fatbin has too many images");
}

TEST_CASE("module: the cubin that a device would load") {
  Bytes c(8);
  Bytes f = fatbin({{2, 75, kRaw, c},
                    {2, 80, kRaw, c},
                    {2, 86, kRaw, c},
                    {2, 90, kRaw | kArchSpecific, c},
                    {2, 100, kRaw, c},
                    {2, 103, kRaw | kFamilySpecific, c},
                    {2, 120, kRaw, c},
                    {2, 120, kRaw | kArchSpecific, c}});
  auto list = images(f);
  REQUIRE(list);
  auto chosen = [&](uint32_t sm) { return choose_cubin(*list, sm) ? choose_cubin(*list, sm)->sm : 0; };
  CHECK(chosen(70) == 0);
  CHECK(chosen(75) == 75);
  CHECK(chosen(80) == 80);
  CHECK(chosen(89) == 86);
  CHECK(chosen(90) == 90);
  CHECK(chosen(100) == 100);
  CHECK(chosen(101) == 100);
  CHECK(chosen(103) == 103);
  CHECK(chosen(110) == 0);
  CHECK(choose_cubin(*list, 120)->arch_specific());
  CHECK_FALSE(choose_cubin(*list, 121)->arch_specific());
  CHECK(chosen(121) == 120);
  CHECK(choose_ptx(*list, 120) == nullptr);
}

TEST_CASE("module: the PTX that could be compiled for a device") {
  Bytes c(8);
  Bytes f = fatbin({{1, 75, kRaw, c}, {1, 90, kRaw, c}, {1, 90, kRaw | kArchSpecific, c}, {1, 100, kRaw | kFamilySpecific, c}, {2, 120, kRaw, c}});
  auto list = images(f);
  REQUIRE(list);
  CHECK(choose_ptx(*list, 70) == nullptr);
  CHECK(choose_ptx(*list, 86)->sm == 75);
  CHECK(choose_ptx(*list, 90)->arch_specific());
  CHECK(choose_ptx(*list, 103)->sm == 100);
  CHECK(choose_ptx(*list, 120)->sm == 90);
  CHECK_FALSE(choose_ptx(*list, 120)->arch_specific());
}

TEST_CASE("module: cut, bent and noisy input crashes nothing") {
  Bytes c = sample_cubin();
  Bytes f = fatbin({{2, 90, kZstd, zstd(c), c.size()}, {2, 120, kLz4, lz4(c), c.size()}, {2, 80, kRaw, c}});
  for (size_t n = 0; n < c.size(); n++) CHECK_FALSE(kernels(std::span(c).first(n)));
  for (size_t n = 0; n < c.size(); n++) CHECK_FALSE(find_kernel(std::span(c).first(n), "first"));
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

TEST_CASE("module: an image may not make us allocate what it likes, and has the size that it claims") {
  Bytes c(4096);
  auto problem = [&](uint64_t flags, const Bytes& data, uint64_t size) {
    Bytes f = fatbin({{2, 90, flags, data, size}});
    auto list = images(f);
    REQUIRE(list);
    return unpack(list->at(0)).error();
  };
  CHECK(problem(kZstd, zstd(c), c.size()) == "");
  CHECK(problem(kLz4, lz4(c), c.size()) == "");
  CHECK(problem(kZstd, zstd(c), ~0ull - 100) == "the image is larger than 512 MiB");
  CHECK(problem(kZstd, zstd(c), 500 << 20) == "the image has another size (zstd)");
  CHECK(problem(kZstd, zstd(c), c.size() - 1) == "the image has another size (zstd)");
  CHECK(problem(kLz4, lz4(c), 500 << 20) == "the image has another size (LZ4)");
  CHECK(problem(kLz4, lz4(c), c.size() + 1) == "the image does not decompress (LZ4)");
  CHECK(problem(kLz4, lz4(c), c.size() - 8) == "");  // old tools said too little
  CHECK(problem(kLz4, lz4(c), c.size() - 100) == "the image does not decompress (LZ4)");
  Bytes bad = zstd(c);
  bad.back() ^= std::byte{0xff};
  bad.resize(bad.size() - 2);
  CHECK(problem(kZstd, bad, c.size()) == "the image does not decompress (zstd)");
}

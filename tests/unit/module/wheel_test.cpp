// Every kernel of the torch wheel, for the architecture that the CPU device claims.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/catch.hpp"
#include "tests/unit/module/images.hpp"

using namespace djinn::module;
using namespace djinn::test;

namespace {

// The section .nv_fatbin of a shared object, mapped.
std::span<const std::byte> fatbins_of(const char* path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
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
  auto names = reinterpret_cast<const char*>(file) + sections.at(h.e_shstrndx).sh_offset;
  for (const Elf64_Shdr& s : sections)
    if (std::string_view(names + s.sh_name) == ".nv_fatbin") return {file + s.sh_offset, s.sh_size};
  return {};
}

struct Census {
  size_t fatbins = 0, kernels = 0, without_params = 0, only_45 = 0, found = 0;
};

void count_kernels(const Bytes& cubin, Census& c) {
  auto all = kernels(cubin);
  INFO(all.error());
  REQUIRE(all);
  c.kernels += all->size();
  for (size_t i = 0; i < all->size(); i++) {
    const Kernel& k = all->at(i);
    c.without_params += k.params.empty();
    for (const Param& p : k.params)
      if (p.size >= 1 << 14) {  // 0x17 could not have said so
        c.only_45++;
        break;
      }
    if (i % 50) continue;  // alone as in the list
    auto one = find_kernel(cubin, k.name);
    REQUIRE(one);
    CHECK(one->param_bytes == k.param_bytes);
    CHECK(one->params.size() == k.params.size());
    CHECK(one->registers == k.registers);
    CHECK(one->registers > 0);
    c.found++;
  }
}

}  // namespace

TEST_CASE("module: every kernel of the torch wheel for sm_120") {
  auto section = fatbins_of(DJINN_TEST_TORCH_LIB);
  REQUIRE(section.size());
  Census c;
  while (section.size() >= 16) {
    size_t n = fatbin_bytes(section.data());
    if (!n) {  // padding between fatbins
      section = section.subspan(8);
      continue;
    }
    auto list = images(section.first(n));
    REQUIRE(list);
    const Image* image = choose_cubin(*list, 120);
    REQUIRE(image);
    CHECK(choose_ptx(*list, 120) == nullptr);
    auto cubin = unpack(*image);
    REQUIRE(cubin);
    count_kernels(*cubin, c);
    c.fatbins++;
    section = section.subspan(std::min((n + 7) / 8 * 8, section.size()));
  }
  CHECK(c.fatbins > 400);
  CHECK(c.kernels > 20000);
  CHECK(c.found > 400);
  CHECK(c.only_45 > 1000);
  CHECK(c.without_params < c.kernels / 100);
}

// The toolkit's own output, of kernels.cu, made by the build: proves that what images.hpp makes by hand is what nvcc makes.
#include <fstream>
#include <iterator>

#include "tests/unit/catch.hpp"
#include "tests/unit/module/images.hpp"

using namespace djinn::module;
using namespace djinn::test;

namespace {

Bytes load(const std::string& name) {
  std::ifstream f(std::string(DJINN_NVCC_OUTPUT) + "/" + name, std::ios::binary);
  REQUIRE(f);
  return bytes_of({std::istreambuf_iterator<char>(f), {}});
}

void expect(const Bytes& cubin, const std::string& name, const std::vector<Param>& params, uint32_t total) {
  INFO(name);
  auto k = find_kernel(cubin, name);
  REQUIRE(k);
  CHECK(k->param_bytes == total);
  REQUIRE(k->params.size() == params.size());
  for (size_t i = 0; i < params.size(); i++) {
    CHECK(k->params[i].offset == params[i].offset);
    CHECK(k->params[i].size == params[i].size);
  }
}

void expect_all(const Bytes& cubin) {
  expect(cubin, "none", {}, 0);
  expect(cubin, "mixed", {{0, 16}, {16, 4}, {20, 1}, {24, 8}}, 32);
  expect(cubin, "big", {{0, 3000}, {3000, 8}}, 3008);
  expect(cubin, "_Z6assignIlEvPT_S0_", {{0, 8}, {8, 8}}, 16);
  auto all = kernels(cubin);
  REQUIRE(all);
  CHECK((all->size() == 4 || all->size() == 5));
  if (all->size() == 5) expect(cubin, "huge", {{0, 30000}, {30000, 8}}, 30008);
  auto mixed = find_kernel(cubin, "mixed");
  CHECK(mixed->threads_max == 256);
  CHECK(mixed->registers > 0);
  CHECK(mixed->registers <= 255);
  CHECK_FALSE(find_kernel(cubin, "_Z6helperf"));
  CHECK(cubin_bytes(cubin.data()) <= cubin.size());
  CHECK(kernels(std::span(cubin).first(cubin_bytes(cubin.data()))));
}

}  // namespace

TEST_CASE("module with nvcc: a cubin") { expect_all(load("kernels.cubin")); }

TEST_CASE("module with nvcc: relocatable code, whose device functions are no kernels") { expect_all(load("kernels.rdc.cubin")); }

TEST_CASE("module with nvcc: fatbins, in each mode of compression") {
  for (const char* name : {"kernels.fatbin", "kernels.all.fatbin"}) {
    Bytes f = load(name);
    CHECK(fatbin_bytes(f.data()) == f.size());
    auto list = images(f);
    REQUIRE(list);
    size_t cubins = 0;
    for (const Image& i : *list) {
      auto u = unpack(i);
      REQUIRE(u);
      if (i.kind != Kind::cubin) continue;
      expect_all(*u);
      cubins++;
    }
    CHECK(cubins >= 1);
    const Image* ptx = choose_ptx(*list, 80);
    REQUIRE(ptx);
    auto text = unpack(*ptx);
    REQUIRE(text);
    CHECK(std::string(reinterpret_cast<const char*>(text->data()), text->size()).find(".visible .entry mixed(") != std::string::npos);
  }
}

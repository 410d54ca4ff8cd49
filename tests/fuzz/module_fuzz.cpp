// Throws damaged fatbins and cubins at the parser that both ends use. Nothing may crash (run it under asan), every prefix of a good one is refused,
// and what is accepted must be true: images lie inside their fatbin, parameters inside a launch, a kernel alone is the same as in the list, and the
// list is not many times larger than the cubin. `module_fuzz --seconds N --seed S`; DJINN_FUZZ_SECONDS is the default time.
#include "semantic/wire/limits.hpp"
#include "tests/fuzz/mutation.hpp"
#include "tests/unit/module/images.hpp"

using namespace djinn;
using namespace djinn::test;
using namespace djinn::fuzz;
using module::Kernel;

namespace {

// Decompressing what claims to be larger would only measure the machine; that such claims are checked is a unit test.
constexpr uint64_t kUnpackMax = 1 << 20;

uint64_t accepted = 0, refused = 0;

[[noreturn]] void fail(const char* what, const Bytes& input) { djinn::fuzz::fail("module_fuzz", what, input); }

bool same(const Kernel& a, const Kernel& b) {
  if (a.params.size() != b.params.size()) return false;
  for (size_t i = 0; i < a.params.size(); i++)
    if (a.params[i].offset != b.params[i].offset || a.params[i].size != b.params[i].size) return false;
  return a.param_bytes == b.param_bytes && a.threads_max == b.threads_max && a.registers == b.registers;
}

void check_kernel(const Kernel& k, const Bytes& input) {
  if (k.name.empty() || k.name.size() > wire::kNameBytesMax) fail("a kernel's name has another length", input);
  uint64_t end = 0;
  for (const auto& p : k.params) {
    if (p.offset < end) fail("parameters overlap", input);
    end = uint64_t{p.offset} + p.size;
  }
  if (end > k.param_bytes || k.param_bytes > wire::kLaunchParamBytesMax) fail("parameters are outside a launch", input);
}

bool parses_cubin(const Bytes& input) {
  Bytes exact(input);
  exact.shrink_to_fit();
  auto all = module::kernels(exact);
  for (const char* name : {"first", "second", "helper", "k3"})
    if (auto k = module::find_kernel(exact, name)) check_kernel(*k, input);
  if (!all) return ++refused, false;
  ++accepted;
  size_t listed = 0;
  for (size_t i = 0; i < all->size(); i++) {
    const Kernel& k = all->at(i);
    check_kernel(k, input);
    listed += k.name.size() + k.params.size() * sizeof k.params[0];
    bool first = true;  // of its name: that is the one that is found
    for (size_t j = 0; j < i; j++) first &= all->at(j).name != k.name;
    if (!first) continue;
    auto one = module::find_kernel(exact, k.name);
    if (!one || !same(*one, k)) fail("a kernel alone is another one than in the list", input);
  }
  if (listed > 8 * exact.size()) fail("the list is much larger than the cubin", input);
  return true;
}

bool parses_fatbin(const Bytes& input) {
  Bytes exact(input);
  exact.shrink_to_fit();
  auto list = module::images(exact);
  if (!list) return ++refused, false;
  ++accepted;
  for (const auto& image : *list) {
    auto at = image.stored.data() - exact.data();
    if (!image.stored.empty() && (at < 16 || static_cast<size_t>(at) + image.stored.size() > exact.size()))
      fail("an image is outside its fatbin", input);
    if (image.size > kUnpackMax) continue;
    auto unpacked = module::unpack(image);
    if (!unpacked) continue;
    if (unpacked->size() < image.size) fail("an image has another size", input);
    if (image.kind == module::Kind::cubin) parses_cubin(*unpacked);
  }
  for (uint32_t sm : {0u, 75u, 120u, ~0u}) {
    auto chosen = module::choose_cubin(*list, sm);
    if (chosen && (chosen->sm > sm || chosen->kind != module::Kind::cubin)) fail("a cubin of a newer device was chosen", input);
    chosen = module::choose_ptx(*list, sm);
    if (chosen && (chosen->sm > sm || chosen->kind != module::Kind::ptx)) fail("PTX of a newer device was chosen", input);
  }
  return true;
}

Bytes some_attributes() {
  std::vector<Bytes> a;
  uint16_t end = 0;
  bool large = below(2);
  for (uint16_t i = 0, n = static_cast<uint16_t>(below(6)); i < n; i++) {
    auto size = static_cast<uint16_t>(1 + below(large ? 5000 : 64));
    a.push_back(large ? param45(i, end, size) : param17(i, end, size));
    end = static_cast<uint16_t>((end + size + 7) / 8 * 8);
  }
  if (end) a.push_back(param_bytes(end));
  if (below(2)) a.push_back(threads_bound(256, 1, 1));
  return info(a);
}

Bytes some_cubin() {
  if (!below(4)) return sample_cubin();
  std::vector<Function> functions;
  for (uint64_t i = 0, n = below(6); i < n; i++) {
    Function f{"k" + std::to_string(i), std::nullopt, below(5) != 0, static_cast<uint32_t>(below(256))};
    if (below(5)) f.info = some_attributes();
    functions.push_back(f);
  }
  return cubin(functions);
}

Bytes prefix_of(const Bytes& good) { return {good.begin(), good.begin() + static_cast<ptrdiff_t>(below(good.size()))}; }

void fuzz_cubin() {
  Bytes good = some_cubin();
  if (!parses_cubin(good)) fail("a good cubin is refused", good);
  if (Bytes p = prefix_of(good); parses_cubin(p)) fail("a prefix of a cubin is accepted", p);
  for (int i = 0; i < 20; i++) {
    Bytes bad = good;
    mutate(bad);
    parses_cubin(bad);
  }
}

void fuzz_fatbin() {
  std::vector<Entry> entries;
  for (uint64_t n = below(4); n; n--) {
    Bytes c = some_cubin();
    static constexpr uint32_t kArchitectures[] = {75, 80, 86, 90, 103, 120};
    uint64_t flags[] = {kRaw, kZstd, kLz4}, f = flags[below(3)];
    Entry e{static_cast<uint16_t>(1 + below(3)), kArchitectures[below(std::size(kArchitectures))], f | (below(4) ? 0 : kArchSpecific),
            f == kZstd  ? zstd(c)
            : f == kLz4 ? lz4(c)
                        : c,
            c.size()};
    entries.push_back(std::move(e));
  }
  Bytes good = fatbin(entries, 64 + 8 * static_cast<uint32_t>(below(8)));
  if (!parses_fatbin(good)) fail("a good fatbin is refused", good);
  if (Bytes p = prefix_of(good); parses_fatbin(p)) fail("a prefix of a fatbin is accepted", p);
  for (int i = 0; i < 20; i++) {
    Bytes bad = good;
    mutate(bad);
    parses_fatbin(bad);
  }
}

void fuzz_noise() {
  Bytes noise(below(300));
  for (auto& b : noise) b = std::byte(random_bits());
  parses_fatbin(noise);
  parses_cubin(noise);
}

}  // namespace

int main(int argc, char** argv) {
  return djinn::fuzz::run("module_fuzz", argc, argv, accepted, refused, [] {
    for (int i = 0; i < 5; i++) fuzz_cubin();
    for (int i = 0; i < 5; i++) fuzz_fatbin();
    fuzz_noise();
  });
}

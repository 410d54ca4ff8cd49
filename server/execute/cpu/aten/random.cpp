#include "server/execute/cpu/aten/random.hpp"

#include <ATen/CPUGeneratorImpl.h>

#include <mutex>

namespace djinn::aten {

namespace {

uint64_t splitmix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

uint64_t mix(uint64_t seed, uint64_t offset) { return splitmix(splitmix(seed) ^ offset); }

void seed_generator(uint64_t seed, uint64_t offset) {
  auto generator = at::detail::getDefaultCPUGenerator();
  std::lock_guard lock(generator.mutex());
  generator.set_current_seed(mix(seed, offset));
}

}  // namespace djinn::aten

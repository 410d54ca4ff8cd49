// Random ops that do not follow CUDA's layout (distributions.cpp has those that do): the CPU's generator, a Mersenne Twister, is seeded anew for each
// op from a mix of seed and offset, so that the same (seed, offset) gives the same numbers, whatever ran before and on however many threads.
// torch.manual_seed, get/set_rng_state and activation checkpointing keep their meaning, the values themselves are not a GPU's.
#pragma once
#include <cstdint>

namespace djinn::aten {

void seed_generator(uint64_t seed, uint64_t offset);
// A well-spread 64-bit mix of both.
uint64_t mix(uint64_t seed, uint64_t offset);

}  // namespace djinn::aten

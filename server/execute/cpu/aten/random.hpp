// Random ops: CUDA draws by Philox from (seed, offset); the CPU's generator is a Mersenne Twister with a state of its own. Here it is seeded anew for
// each drawing op from a mix of both, so that the same (seed, offset) gives the same numbers, whatever ran before and on however many threads:
// torch.manual_seed, get/set_rng_state and activation checkpointing keep their meaning, the values themselves are not a GPU's.
#pragma once
#include <cstdint>

namespace djinn::aten {

void seed_generator(uint64_t seed, uint64_t offset);
// A well-spread 64-bit mix of both.
uint64_t mix(uint64_t seed, uint64_t offset);

}  // namespace djinn::aten

// How PyTorch's CUDA kernels for random numbers are launched (calc_execution_policy in aten/src/ATen/native/cuda/DistributionTemplates.h): what an
// element draws and by how much the generator's offset grows follow from it. The hook counts with it where the original kernel does not run, the
// executor draws with it.
#pragma once
#include <algorithm>
#include <cstdint>

namespace djinn::random {

// As the device reports itself.
struct DeviceShape {
  uint32_t multiprocessors, threads_per_multiprocessor;
};

// A grid-stride loop: blocks of 256 threads, at most as many as the device holds at once; each round a thread draws one block of four words, for
// `unroll` elements that lie `threads` apart.
struct Launch {
  static constexpr uint64_t kBlock = 256, kWordsPerRound = 4;
  uint64_t threads, rounds, unroll;

  Launch(uint64_t elements, uint64_t unroll_, const DeviceShape& d) : unroll(unroll_) {
    uint64_t resident = std::max<uint64_t>(1, uint64_t{d.multiprocessors} * (d.threads_per_multiprocessor / kBlock));
    threads = kBlock * std::min(resident, (elements + kBlock - 1) / kBlock);
    rounds = (elements - 1) / (threads * unroll) + 1;
  }
  uint64_t increment() const { return rounds * kWordsPerRound; }
};

}  // namespace djinn::random

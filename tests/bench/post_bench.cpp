// What one posted command costs the program's own thread, for scripts/bench: entry point, encoding, log, and its share of the message that carries
// it. Commands are timed in bursts that fit the credit window; between bursts the server catches up, untimed, so that no time is the server's.
// Needs DJINN_SERVER.
#include <benchmark/benchmark.h>
#include <cuda_runtime_api.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>

namespace {

constexpr int kBurst = 4096;  // well below wire::kCreditTickets
constexpr size_t kBytes = 4096;

void must(cudaError_t e) {
  if (e == cudaSuccess) return;
  std::fprintf(stderr, "post_bench: %s\n", cudaGetErrorString(e));
  std::exit(1);
}

template <class Command>
void burst(benchmark::State& state, Command command) {
  void* memory = nullptr;
  must(cudaMalloc(&memory, 2 * kBytes));
  for (auto _ : state) {
    auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < kBurst; i++) must(command(memory));
    state.SetIterationTime(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / kBurst);
    must(cudaDeviceSynchronize());
  }
  must(cudaFree(memory));
}

void fill(benchmark::State& state) {
  burst(state, [](void* p) { return cudaMemsetAsync(p, 1, 64, nullptr); });
}
void copy(benchmark::State& state) {
  burst(state, [](void* p) { return cudaMemcpyAsync(p, static_cast<char*>(p) + kBytes, 64, cudaMemcpyDeviceToDevice, nullptr); });
}
void upload(benchmark::State& state) {
  static char host[64];
  burst(state, [](void* p) { return cudaMemcpyAsync(p, host, sizeof host, cudaMemcpyHostToDevice, nullptr); });
}
void record(benchmark::State& state) {
  cudaEvent_t event;
  must(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  burst(state, [event](void*) { return cudaEventRecord(event, nullptr); });
  must(cudaEventDestroy(event));
}

// The mean over bursts would be that of the machine's worst moments; the median over repetitions is what scripts/bench reads.
void settings(benchmark::internal::Benchmark* b) {
  b->UseManualTime()->Iterations(40)->Repetitions(9)->ReportAggregatesOnly(true)->Unit(benchmark::kNanosecond);
}

BENCHMARK(fill)->Name("cudaMemsetAsync")->Apply(settings);
BENCHMARK(copy)->Name("cudaMemcpyAsync, device to device")->Apply(settings);
BENCHMARK(upload)->Name("cudaMemcpyAsync, 64 bytes of host memory")->Apply(settings);
BENCHMARK(record)->Name("cudaEventRecord")->Apply(settings);

}  // namespace

BENCHMARK_MAIN();

// What the graph of a session costs the executor per op: a decode step of a transformer (12 layers of 12 ops, with contexts and steps) and a training
// step, again and again. The budget is 0.7 µs.
#include <benchmark/benchmark.h>

#include "semantic/graph/graph.hpp"
#include "tests/unit/graph/records.hpp"

namespace {

using namespace djinn;
using namespace djinn::test;
using graph::ExecutionPhase;
using graph::SemanticGraph;

constexpr uint32_t kLayers = 12, kOpsOfLayer = 12;

// Tensor 0 goes through all layers; each op reads what the one before it made and a weight of its own.
std::vector<Bytes> ops_of(ExecutionPhase phase, SemanticGraph& g, uint32_t first_context) {
  std::vector<Bytes> ops;
  for (uint32_t layer = 0; layer < kLayers; layer++)
    for (uint32_t i = 0; i < kOpsOfLayer; i++) {
      uint32_t n = layer * kOpsOfLayer + i, context_id = first_context + n;
      g.define_tensor(define_tensor(2 * n, 0x100000 + 0x2000 * n, {1, 64}));
      g.define_tensor(define_tensor(2 * n + 1, 0x101000 + 0x2000 * n, {64, 64}));
      g.residency(residencies({0x101000 + 0x2000 * n, 1}));
      g.context(context(context_id, phase, "transformer.h." + std::to_string(layer) + ".part" + std::to_string(i / 3)));
      uint32_t before = 2 * (n ? n - 1 : kLayers * kOpsOfLayer - 1);
      ops.push_back(run_op(i % 4, 2, 1, {tensor(before), tensor(2 * n + 1), tensor(2 * n)}, {context_id, 1}));
    }
  return ops;
}

void define_ops(SemanticGraph& g) {
  const char* names[] = {"aten::addmm", "aten::gelu", "aten::native_layer_norm", "aten::_scaled_dot_product_flash_attention"};
  for (uint32_t i = 0; i < std::size(names); i++) g.define_op(define_op(i, names[i]));
}

void run(benchmark::State& state, ExecutionPhase step_is) {
  SemanticGraph g;
  define_ops(g);
  auto forward = ops_of(ExecutionPhase::forward, g, 1), backward = ops_of(ExecutionPhase::backward, g, 1000);
  uint32_t step = 0;
  for (auto _ : state) {
    ++step;
    for (Bytes& op : forward) {
      std::memcpy(op.data() + op.size() - 4, &step, 4);
      g.ran(SemanticGraph::Ran::run, op, {}, 100);
    }
    g.step(step_over(step, step_is));
    if (step_is == ExecutionPhase::forward)
      for (const Bytes& op : backward) g.ran(SemanticGraph::Ran::run, op, {}, 100);
  }
  double ops = static_cast<double>(forward.size() + (step_is == ExecutionPhase::forward ? backward.size() : 0));
  state.counters["per op"] = benchmark::Counter(ops, benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

void decode(benchmark::State& state) { run(state, ExecutionPhase::llm_decode); }
void train(benchmark::State& state) { run(state, ExecutionPhase::forward); }
BENCHMARK(decode)->Name("decode step")->Unit(benchmark::kMicrosecond);
BENCHMARK(train)->Name("training step")->Unit(benchmark::kMicrosecond);

}  // namespace

BENCHMARK_MAIN();

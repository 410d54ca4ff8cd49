// The graph of a session, from records that a hook would write: which nodes and edges come out, what a step turns them into, and that every bound
// holds.
#include "semantic/graph/graph.hpp"

#include <algorithm>
#include <numeric>

#include "tests/unit/catch.hpp"
#include "tests/unit/graph/records.hpp"

using namespace djinn;
using namespace djinn::test;
using graph::DataResidency;
using graph::ExecutionPhase;
using graph::SemanticGraph;
using wire::control::Graph;
using wire::control::GraphEdge;
using wire::control::GraphNode;

namespace {

constexpr auto kRun = SemanticGraph::Ran::run, kQuery = SemanticGraph::Ran::query, kCall = SemanticGraph::Ran::call;
enum : uint32_t { kMm, kGelu, kAdd_, kForeach };
enum : uint32_t { kX, kWeight, kHidden, kOut, kOther };  // 8 × 8 floats each, 256 bytes
constexpr uint64_t address(uint32_t tensor) { return 0x1000 + 0x1000 * tensor; }

struct Fixture {
  SemanticGraph g;
  Fixture() {
    REQUIRE(g.define_op(define_op(kMm, "aten::mm")));
    REQUIRE(g.define_op(define_op(kGelu, "aten::gelu")));
    REQUIRE(g.define_op(define_op(kAdd_, "aten::add_", "Tensor")));
    REQUIRE(g.define_op(define_op(kForeach, "aten::_foreach_add_", "List")));
    for (uint32_t t = 0; t < 16; t++) REQUIRE(g.define_tensor(define_tensor(t, address(t), {8, 8})));
    REQUIRE(g.context(context(1, ExecutionPhase::forward, "net.0", "warm")));
    REQUIRE(g.context(context(2, ExecutionPhase::forward, "net.1")));
    REQUIRE(g.context(context(3, ExecutionPhase::backward, "net.0")));
    REQUIRE(g.context(context(4, ExecutionPhase::optimizer, "")));
  }
  void mm(wire::op::OpContext c, uint32_t a, uint32_t b, uint32_t out, uint64_t ns = 100) {
    REQUIRE(g.ran(kRun, run_op(kMm, 2, 1, {tensor(a), tensor(b), tensor(out)}, c), {}, ns));
  }
  void gelu(wire::op::OpContext c, uint32_t in, uint32_t out, uint64_t ns = 10) {
    REQUIRE(g.ran(kRun, run_op(kGelu, 1, 1, {tensor(in), tensor(out)}, c), {}, ns));
  }
  const GraphNode* find(const Graph& s, const std::string& op, const std::string& module, ExecutionPhase phase) {
    auto n = std::find_if(s.nodes.begin(), s.nodes.end(),
                          [&](const GraphNode& n) { return n.op == op && n.module == module && n.phase == static_cast<uint32_t>(phase); });
    return n == s.nodes.end() ? nullptr : &*n;
  }
  const GraphEdge* edge(const Graph& s, const GraphNode* from, const GraphNode* to) {
    auto e = std::find_if(s.edges.begin(), s.edges.end(), [&](const GraphEdge& e) { return &s.nodes[e.from] == from && &s.nodes[e.to] == to; });
    return e == s.edges.end() ? nullptr : &*e;
  }
};

uint64_t at(const std::vector<uint64_t>& v, DataResidency r) { return v.at(static_cast<size_t>(r)); }
uint64_t at(const std::vector<uint64_t>& v, ExecutionPhase p) { return v.at(static_cast<size_t>(p)); }

}  // namespace

TEST_CASE_METHOD(Fixture, "a forward step becomes what its end says, with nodes, edges, costs and residencies") {
  g.uploaded(address(kX));
  REQUIRE(g.residency(residencies({address(kWeight), 1})));
  mm({1, 7}, kX, kWeight, kHidden);
  gelu({2, 7}, kHidden, kOut);
  CHECK(g.snapshot(1).nodes.empty());  // nobody knows yet what it was
  REQUIRE(g.step(step_over(7, ExecutionPhase::llm_prefill)));
  Graph s = g.snapshot(5);
  CHECK(s.session == 5);
  auto* mm = find(s, "aten::mm", "net.0", ExecutionPhase::llm_prefill);
  auto* gelu = find(s, "aten::gelu", "net.1", ExecutionPhase::llm_prefill);
  REQUIRE((mm && gelu));
  CHECK(s.nodes.size() == 2);
  CHECK(mm->label == "warm");
  CHECK(mm->count == 1);
  CHECK(mm->nanoseconds == 100);
  CHECK(mm->flops == 2 * 8 * 8 * 8);
  CHECK(mm->bytes_written == 256);
  CHECK(at(mm->bytes_read, DataResidency::persistent_weight) == 256);
  CHECK(at(mm->bytes_read, DataResidency::input) == 256);
  CHECK(at(gelu->bytes_read, DataResidency::ephemeral_activation) == 256);
  auto* e = edge(s, mm, gelu);
  REQUIRE(e);
  CHECK(s.edges.size() == 1);
  CHECK(e->count == 1);
  CHECK(e->bytes == 256);
  CHECK(e->lifetime_ops == 1);
  CHECK(e->residency == static_cast<uint32_t>(DataResidency::ephemeral_activation));
}

TEST_CASE_METHOD(Fixture, "a training step: backward reads what forward made, however long ago") {
  for (uint32_t step = 1; step <= 3; step++) {
    mm({1, step}, kX, kWeight, kHidden);
    REQUIRE(g.step(step_over(step, ExecutionPhase::forward)));
    gelu({3, 0}, kHidden, kOut);
    REQUIRE(g.ran(kRun, run_op(kAdd_, 2, 1, {tensor(kWeight), tensor(kOut), alias(0)}, {4, 0}), {}, 5));
  }
  Graph s = g.snapshot(1);
  auto* forward = find(s, "aten::mm", "net.0", ExecutionPhase::forward);
  auto* backward = find(s, "aten::gelu", "net.0", ExecutionPhase::backward);
  auto* optimizer = find(s, "aten::add_.Tensor", "", ExecutionPhase::optimizer);
  REQUIRE((forward && backward && optimizer));
  CHECK(forward->count == 3);
  CHECK(optimizer->bytes_written == 3 * 256);  // in place: the weight
  CHECK(at(optimizer->bytes_read, DataResidency::gradient) == 3 * 256);
  REQUIRE(edge(s, forward, backward));
  CHECK(edge(s, forward, backward)->count == 3);
  REQUIRE(edge(s, optimizer, forward));  // the next step reads the weight that it wrote
  CHECK(edge(s, optimizer, forward)->count == 2);
  CHECK(edge(s, optimizer, forward)->lifetime_ops == 2);
  auto m = g.meaning();
  CHECK(at(m.steps, ExecutionPhase::forward) == 3);
  CHECK(at(m.ops, ExecutionPhase::forward) == 3);
  CHECK(at(m.nanoseconds, ExecutionPhase::forward) == 300);
  CHECK(at(m.ops, ExecutionPhase::optimizer) == 3);
}

TEST_CASE_METHOD(Fixture, "steps of two threads interleave, late ops belong to their step, and what never ends is forward") {
  mm({1, 10}, kX, kWeight, kHidden);
  mm({1, 11}, kX, kWeight, kOut);
  gelu({2, 10}, kHidden, kOther);
  REQUIRE(g.step(step_over(11, ExecutionPhase::llm_decode)));
  REQUIRE(g.step(step_over(10, ExecutionPhase::vision_encoding)));
  gelu({2, 10}, kHidden, kOther);
  mm({1, 12}, kX, kWeight, kOut);
  g.finish();
  Graph s = g.snapshot(1);
  CHECK(find(s, "aten::mm", "net.0", ExecutionPhase::llm_decode)->count == 1);
  CHECK(find(s, "aten::gelu", "net.1", ExecutionPhase::vision_encoding)->count == 2);
  CHECK(find(s, "aten::mm", "net.0", ExecutionPhase::forward)->count == 1);
}

TEST_CASE_METHOD(Fixture, "the oldest of too many open steps is plain forward") {
  for (uint32_t step = 1; step <= graph::kOpenStepsMax; step++) mm({1, step}, kX, kWeight, kHidden);
  CHECK(g.snapshot(1).nodes.empty());
  mm({1, graph::kOpenStepsMax + 1}, kX, kWeight, kHidden);
  Graph s = g.snapshot(1);
  REQUIRE(find(s, "aten::mm", "net.0", ExecutionPhase::forward));
  CHECK(find(s, "aten::mm", "net.0", ExecutionPhase::forward)->count == 1);
  REQUIRE(g.step(step_over(2, ExecutionPhase::llm_decode)));
  CHECK(find(g.snapshot(1), "aten::mm", "net.0", ExecutionPhase::llm_decode));
}

TEST_CASE_METHOD(Fixture, "a step that is too long is plain forward") {
  for (size_t i = 0; i < graph::kStepOpsMax + 5; i++) gelu({1, 1}, kX, kOut);
  REQUIRE(g.step(step_over(1, ExecutionPhase::llm_decode)));
  CHECK(find(g.snapshot(1), "aten::gelu", "net.0", ExecutionPhase::forward)->count == graph::kStepOpsMax + 5);
}

TEST_CASE_METHOD(Fixture, "ops that return nothing write their first list") {
  auto tensors = list(wire::op::ListKind::tensors, 2);
  REQUIRE(g.ran(kRun, run_op(kForeach, 2, 0, {tensors, tensor(kX), tensor(kOut), tensors, tensor(kHidden), tensor(kOther)}, {4, 0}), {}, 1));
  gelu({1, 0}, kOut, kOther);
  gelu({1, 0}, kHidden, kOther);
  Graph s = g.snapshot(1);
  auto* foreach = find(s, "aten::_foreach_add_.List", "", ExecutionPhase::optimizer);
  REQUIRE(foreach);
  CHECK(foreach->bytes_written == 512);
  CHECK(foreach->flops == 128);
  REQUIRE(edge(s, foreach, find(s, "aten::gelu", "net.0", ExecutionPhase::forward)));
  CHECK(edge(s, foreach, find(s, "aten::gelu", "net.0", ExecutionPhase::forward))->count == 1);
}

TEST_CASE_METHOD(Fixture, "what an op overwrites it does not read; what it changes it does") {
  REQUIRE(g.define_op(define_op(20, "aten::copy_")));
  REQUIRE(g.define_op(define_op(21, "aten::mm", "out")));
  REQUIRE(g.define_op(define_op(22, "aten::_foreach_zero_")));
  mm({3, 0}, kX, kWeight, kHidden);
  REQUIRE(g.ran(kRun, run_op(20, 2, 1, {tensor(kHidden), tensor(kX), alias(0)}, {3, 0}), {}, 1));
  REQUIRE(g.ran(kRun, run_op(21, 3, 1, {tensor(kX), tensor(kWeight), tensor(kHidden), alias(2)}, {3, 0}), {}, 1));
  REQUIRE(g.ran(kRun, run_op(22, 1, 0, {list(wire::op::ListKind::tensors, 1), tensor(kHidden)}, {3, 0}), {}, 1));
  REQUIRE(g.ran(kRun, run_op(kAdd_, 2, 1, {tensor(kHidden), tensor(kX), alias(0)}, {3, 0}), {}, 1));
  Graph s = g.snapshot(1);
  auto bytes_read = [&](const char* op) {
    auto& read = find(s, op, "net.0", ExecutionPhase::backward)->bytes_read;
    return std::accumulate(read.begin(), read.end(), uint64_t{0});
  };
  CHECK(bytes_read("aten::copy_") == 256);
  CHECK(bytes_read("aten::mm.out") == 512);
  CHECK(bytes_read("aten::_foreach_zero_") == 0);
  CHECK(bytes_read("aten::add_.Tensor") == 512);
  CHECK(find(s, "aten::copy_", "net.0", ExecutionPhase::backward)->bytes_written == 256);
  REQUIRE(s.edges.size() == 1);
  CHECK(s.nodes[s.edges[0].from].op == "aten::_foreach_zero_");
}

TEST_CASE_METHOD(Fixture, "a gather reads as much of its table as it returns, a scatter touches as much as its source has") {
  REQUIRE(g.define_op(define_op(20, "aten::embedding")));
  REQUIRE(g.define_op(define_op(21, "aten::index_copy_")));
  REQUIRE(g.define_op(define_op(22, "aten::scatter_", "value")));
  REQUIRE(g.define_tensor(define_tensor(30, 0x100000, {1000, 8})));
  REQUIRE(g.define_tensor(define_tensor(31, 0x200000, {2})));
  REQUIRE(g.define_tensor(define_tensor(32, 0x300000, {2, 8})));
  REQUIRE(g.residency(residencies({0x100000, 1, 0x200000, 6})));
  const uint64_t number = wire::op::word(wire::op::Tag::integer);
  REQUIRE(g.ran(kRun, run_op(20, 2, 1, {tensor(30), tensor(31), tensor(32)}, {3, 0}), {}, 1));
  REQUIRE(g.ran(kRun, run_op(21, 4, 1, {tensor(30), number, 0, tensor(31), tensor(32), alias(0)}, {3, 0}), {}, 1));
  REQUIRE(g.ran(kRun, run_op(22, 4, 1, {tensor(30), number, 1, tensor(31), number, 7, alias(0)}, {3, 0}), {}, 1));
  Graph s = g.snapshot(1);
  auto node = [&](const char* op) { return find(s, op, "net.0", ExecutionPhase::backward); };
  CHECK(at(node("aten::embedding")->bytes_read, DataResidency::persistent_weight) == 64);
  CHECK(at(node("aten::embedding")->bytes_read, DataResidency::input) == 8);
  CHECK(at(node("aten::index_copy_")->bytes_read, DataResidency::persistent_weight) == 64);
  CHECK(node("aten::index_copy_")->bytes_written == 64);
  CHECK(node("aten::scatter_.value")->bytes_written == 8);
}

TEST_CASE_METHOD(Fixture, "results of a query have a producer once they are placed, in the query's step") {
  REQUIRE(g.ran(kQuery, run_op(kGelu, 1, 0, {tensor(kX)}, {1, 3}), answer(1, {result({8, 8}, 0)}), 20));
  gelu({2, 3}, kX, kHidden);  // of another thread
  REQUIRE(g.took(fixed(wire::op::OpTake{1, 0, address(kOut), 256})));
  gelu({2, 3}, kOut, kOther);
  REQUIRE(g.step(step_over(3, ExecutionPhase::llm_decode)));
  Graph s = g.snapshot(1);
  CHECK(s.nodes.size() == 2);
  auto* query = find(s, "aten::gelu", "net.0", ExecutionPhase::llm_decode);
  REQUIRE(query);
  CHECK(query->count == 1);
  CHECK(query->flops == 64);
  CHECK(query->bytes_written == 256);
  CHECK(edge(s, query, find(s, "aten::gelu", "net.1", ExecutionPhase::llm_decode)));
}

TEST_CASE_METHOD(Fixture, "a result is the query's whose answer named it, whichever ran last") {
  REQUIRE(g.ran(kQuery, run_op(kMm, 2, 0, {tensor(kX), tensor(kWeight)}, {3, 0}), answer(1, {result({8, 8}, 0)}), 20));
  REQUIRE(g.ran(kQuery, run_op(kGelu, 1, 0, {tensor(kX)}, {3, 0}), answer(2, {result({2, 8}, 0)}), 20));
  REQUIRE(g.ran(kQuery, run_op(kGelu, 1, 0, {tensor(kX)}, {3, 0}), answer(0, {Words{boolean(true)}}), 20));
  REQUIRE(g.took(fixed(wire::op::OpTake{1, 0, address(kHidden), 256})));
  REQUIRE(g.took(fixed(wire::op::OpTake{2, 0, address(kOut), 64})));
  REQUIRE(g.took(fixed(wire::op::OpTake{3, 0, address(kOther), 999})));                       // nobody's
  REQUIRE(g.took(fixed(wire::op::OpTake{1 + graph::kWaitingMax, 0, address(kOther), 999})));  // nobody's, in the first's place
  Graph s = g.snapshot(1);
  CHECK(find(s, "aten::mm", "net.0", ExecutionPhase::backward)->bytes_written == 256);
  CHECK(find(s, "aten::mm", "net.0", ExecutionPhase::backward)->flops == 1024);
  CHECK(find(s, "aten::gelu", "net.0", ExecutionPhase::backward)->bytes_written == 64);
}

TEST_CASE_METHOD(Fixture, "ops that are called by name are nodes too") {
  const uint64_t number = wire::op::word(wire::op::Tag::integer);
  REQUIRE(g.ran(kCall, call_op("aten::matmul", {{tensor(kX)}, {tensor(kWeight)}}), answer(1, {result({8, 8}, 0)}), 30));
  REQUIRE(g.took(fixed(wire::op::OpTake{1, 0, address(kHidden), 256})));
  Bytes add = call_op("aten::add.Tensor", {{tensor(kHidden)}, {tensor(kX)}}, {{"alpha", {number, 2}}, {"out", {tensor(kOut)}}});
  REQUIRE(g.ran(kCall, add, answer(0, {Words{alias(3)}}), 10));
  Bytes split = call_op("aten::split", {{tensor(kOut)}, {number, 4}});
  REQUIRE(g.ran(kCall, split, answer(2, {{list(wire::op::ListKind::tensors, 2)}, result({4, 8}, 0), result({4, 8}, 1)}, 1), 10));
  Graph s = g.snapshot(1);
  auto node = [&](const char* op) { return find(s, op, "", ExecutionPhase::other); };
  REQUIRE((node("aten::matmul") && node("aten::add.Tensor") && node("aten::split")));
  CHECK(node("aten::matmul")->flops == 1024);
  CHECK(node("aten::matmul")->nanoseconds == 30);
  CHECK(node("aten::matmul")->bytes_written == 256);
  CHECK(node("aten::add.Tensor")->flops == 64);
  CHECK(node("aten::add.Tensor")->bytes_written == 256);
  CHECK(std::accumulate(node("aten::add.Tensor")->bytes_read.begin(), node("aten::add.Tensor")->bytes_read.end(), uint64_t{0}) == 512);  // not `out`
  CHECK(node("aten::split")->flops == 64);
  CHECK(edge(s, node("aten::matmul"), node("aten::add.Tensor")));
  CHECK(edge(s, node("aten::add.Tensor"), node("aten::split")));
  CHECK(s.edges.size() == 2);
}

TEST_CASE_METHOD(Fixture, "ops of a CUDA graph count each time they run, with the tensors that they had") {
  REQUIRE(g.keep(9, run_op(kMm, 2, 1, {tensor(kX), tensor(kWeight), tensor(kHidden)}, {1, 5})));
  REQUIRE(g.keep(9, run_op(kGelu, 1, 1, {tensor(kHidden), tensor(kOut)}, {1, 5})));
  REQUIRE(g.define_tensor(define_tensor(kHidden, address(12), {1})));
  REQUIRE(g.step(step_over(5, ExecutionPhase::llm_decode)));
  CHECK(g.snapshot(1).nodes.empty());
  for (uint32_t n = 0; n < 4; n++)
    for (uint64_t i : {0, 1, 2}) g.ran_kept(9, i, 7);
  Graph s = g.snapshot(1);
  auto* mm = find(s, "aten::mm", "net.0", ExecutionPhase::llm_decode);
  auto* gelu = find(s, "aten::gelu", "net.0", ExecutionPhase::llm_decode);
  REQUIRE((mm && gelu));
  CHECK(mm->count == 4);
  CHECK(mm->nanoseconds == 28);
  REQUIRE(edge(s, mm, gelu));
  CHECK(edge(s, mm, gelu)->bytes == 4 * 256);
  g.drop(9);
  g.ran_kept(9, 0, 7);
  CHECK(g.snapshot(1).nodes[0].count == 4);
}

TEST_CASE_METHOD(Fixture, "a CUDA graph that a step captures and launches has the step's phase, then and later") {
  REQUIRE(g.keep(9, run_op(kGelu, 1, 1, {tensor(kX), tensor(kOut)}, {1, 5})));
  g.ran_kept(9, 0, 7);
  REQUIRE(g.step(step_over(5, ExecutionPhase::llm_decode)));
  g.ran_kept(9, 0, 7);
  Graph s = g.snapshot(1);
  REQUIRE(s.nodes.size() == 1);
  CHECK(s.nodes[0].phase == static_cast<uint32_t>(ExecutionPhase::llm_decode));
  CHECK(s.nodes[0].count == 2);
}

TEST_CASE_METHOD(Fixture, "ops of a CUDA graph keep their numbers when one is not understood") {
  CHECK_FALSE(g.keep(9, Bytes(8)));
  REQUIRE(g.keep(9, run_op(kGelu, 1, 1, {tensor(kX), tensor(kOut)}, {3, 0})));
  g.ran_kept(9, 0, 7);
  g.ran_kept(9, 1, 7);
  Graph s = g.snapshot(1);
  REQUIRE(s.nodes.size() == 1);
  CHECK(s.nodes[0].op == "aten::gelu");
  CHECK(s.nodes[0].count == 1);
  CHECK(s.nodes_left_out == 1);
}

TEST_CASE_METHOD(Fixture, "what a step has made keeps its writer, however many steps come after") {
  mm({1, 1}, kX, kWeight, kHidden);
  REQUIRE(g.step(step_over(1, ExecutionPhase::llm_prefill)));
  const uint32_t last = 2 + 2 * graph::kClosedStepsMax;
  for (uint32_t step = 2; step <= last; step++) {
    gelu({2, step}, kHidden, kOut);
    REQUIRE(g.step(step_over(step, ExecutionPhase::llm_decode)));
  }
  Graph s = g.snapshot(1);
  auto* e = edge(s, find(s, "aten::mm", "net.0", ExecutionPhase::llm_prefill), find(s, "aten::gelu", "net.1", ExecutionPhase::llm_decode));
  REQUIRE(e);
  CHECK(e->count == last - 1);
  CHECK(s.edges_left_out == 0);
}

TEST_CASE_METHOD(Fixture, "a step that was taken for forward stays so, whatever its end says") {
  for (size_t i = 0; i < graph::kStepOpsMax; i++) gelu({1, 1}, kX, kOut);
  REQUIRE(g.step(step_over(1, ExecutionPhase::llm_decode)));
  gelu({2, 1}, kOut, kHidden);
  Graph s = g.snapshot(1);
  auto *first = find(s, "aten::gelu", "net.0", ExecutionPhase::forward), *late = find(s, "aten::gelu", "net.1", ExecutionPhase::forward);
  REQUIRE((first && late));
  CHECK(edge(s, first, late));
}

TEST_CASE_METHOD(Fixture, "a read across two open steps is no edge, and is not counted as left out") {
  mm({1, 1}, kX, kWeight, kHidden);
  gelu({3, 0}, kHidden, kOut);
  REQUIRE(g.step(step_over(1, ExecutionPhase::llm_decode)));
  Graph s = g.snapshot(1);
  CHECK(s.edges.empty());
  CHECK(s.edges_left_out == 0);
}

TEST_CASE_METHOD(Fixture, "an id whose new description is not understood has none, and one without elements has any sizes") {
  const int64_t much = int64_t{1} << 40;
  REQUIRE(g.define_tensor(define_tensor(kX, address(kX), {much, much, 0})));
  CHECK_FALSE(g.define_tensor(define_tensor(kOut, address(kOut), {much, much})));
  gelu({3, 0}, kX, kHidden);
  gelu({3, 0}, kOut, kHidden);
  Graph s = g.snapshot(1);
  REQUIRE(s.nodes.size() == 1);
  CHECK(std::accumulate(s.nodes[0].bytes_read.begin(), s.nodes[0].bytes_read.end(), uint64_t{0}) == 0);
}

TEST_CASE_METHOD(Fixture, "call level: calls belong to the op that was named before them, which counts when the next begins") {
  auto calls_of = [&](uint64_t op, uint32_t context, uint32_t step) { return g.calls_of(fixed(wire::MeaningOp{op, context, step})); };
  g.called(5);  // of none
  REQUIRE(calls_of(kMm + 1, 1, 3));
  g.called(10);
  g.called(20);
  REQUIRE(calls_of(kGelu + 1, 3, 0));
  g.called(7);
  REQUIRE(calls_of(0, 0, 0));
  g.called(100);
  REQUIRE(g.step(step_over(3, ExecutionPhase::llm_prefill)));
  Graph s = g.snapshot(1);
  REQUIRE(s.nodes.size() == 2);
  CHECK(find(s, "aten::mm", "net.0", ExecutionPhase::llm_prefill)->nanoseconds == 30);
  CHECK(find(s, "aten::gelu", "net.0", ExecutionPhase::backward)->nanoseconds == 7);
  CHECK_FALSE(calls_of(wire::kOpIdsMax + 1, 0, 0));
  CHECK_FALSE(g.calls_of(Bytes(8)));
}

TEST_CASE_METHOD(Fixture, "a step that no op names counts, and changes nothing else") {
  mm({1, 1}, kX, kWeight, kOut);
  REQUIRE(g.step(step_over(0, ExecutionPhase::optimizer)));
  CHECK(at(g.meaning().steps, ExecutionPhase::optimizer) == 1);
  CHECK(g.meaning().phase == static_cast<uint32_t>(ExecutionPhase::forward));
  CHECK(g.snapshot(1).nodes.empty());
}

TEST_CASE_METHOD(Fixture, "the program's residency stands until the storage is made anew") {
  REQUIRE(g.residency(residencies({address(kOut), 3})));
  gelu({1, 0}, kOut, kHidden);
  gelu({1, 0}, kX, kOut);
  gelu({1, 0}, kOut, kHidden);
  REQUIRE(g.residency(residencies({address(kOut), 3})));
  gelu({1, 0}, kOut, kHidden);
  Graph s = g.snapshot(1);
  auto* n = &s.nodes.at(0);
  CHECK(at(n->bytes_read, DataResidency::stateful_kv_cache) == 512);
  CHECK(at(n->bytes_read, DataResidency::ephemeral_activation) == 256);
}

TEST_CASE_METHOD(Fixture, "memory that the program says is input is written over from the host, what it calls a weight stays one") {
  REQUIRE(g.residency(residencies({address(kX), 1, address(kOut), 1})));
  REQUIRE(g.residency(residencies({address(kX), 2})));  // freed, and an activation lies there now
  g.uploaded(address(kX));
  g.uploaded(address(kOut));
  mm({3, 0}, kX, kOut, kHidden);
  Graph s = g.snapshot(1);
  CHECK(at(s.nodes.at(0).bytes_read, DataResidency::input) == 256);
  CHECK(at(s.nodes.at(0).bytes_read, DataResidency::persistent_weight) == 256);
}

TEST_CASE_METHOD(Fixture, "meaning: what the program says, and the phase that an open step is expected to have") {
  REQUIRE(g.name(named("my run")));
  REQUIRE(g.memory(fixed(wire::MeaningMemory{{1, 2, 3, 4, 5, 6, 7}})));
  auto m = g.meaning();
  CHECK(m.name == "my run");
  CHECK(m.memory == std::vector<uint64_t>{1, 2, 3, 4, 5, 6, 7});
  CHECK(m.module.empty());
  mm({1, 1}, kX, kWeight, kOut);
  m = g.meaning();
  CHECK(m.phase == static_cast<uint32_t>(ExecutionPhase::forward));
  CHECK(m.module == "net.0");
  CHECK(m.label == "warm");
  REQUIRE(g.step(step_over(1, ExecutionPhase::llm_decode)));
  CHECK(g.meaning().phase == static_cast<uint32_t>(ExecutionPhase::llm_decode));
  mm({2, 2}, kX, kWeight, kOut);
  CHECK(g.meaning().phase == static_cast<uint32_t>(ExecutionPhase::llm_decode));
  REQUIRE(g.ran(kRun, run_op(kGelu, 1, 1, {tensor(kX), tensor(kOut)}), {}, 1));
  m = g.meaning();
  CHECK(m.phase == static_cast<uint32_t>(ExecutionPhase::other));
  CHECK(m.module == "net.1");  // of the latest op that has one
}

TEST_CASE_METHOD(Fixture, "malformed records are refused and change nothing") {
  auto refused = [&](auto&& feed, Bytes good) {
    for (size_t n = 0; n < good.size(); n++) CHECK_FALSE(feed(Bytes(good.begin(), good.begin() + static_cast<ptrdiff_t>(n))));
    good.resize(good.size() + 8);
    CHECK_FALSE(feed(good));
  };
  refused([&](const Bytes& b) { return g.ran(kRun, b, {}, 1); }, run_op(kMm, 2, 1, {tensor(0), tensor(1), tensor(2)}, {1, 1}));
  refused([&](const Bytes& b) { return g.ran(kCall, b, {}, 1); }, call_op("aten::mm", {Words{tensor(0)}}, {{"mat2", {tensor(1)}}}));
  refused([&](const Bytes& b) { return g.define_op(b); }, define_op(9, "aten::x", "y"));
  refused([&](const Bytes& b) { return g.define_tensor(b); }, define_tensor(9, 1, {2, 2}));
  refused([&](const Bytes& b) { return g.context(b); }, context(1, ExecutionPhase::backward, "other", "x"));
  refused([&](const Bytes& b) { return g.step(b); }, step_over(1, ExecutionPhase::forward));
  refused([&](const Bytes& b) { return g.residency(b); }, residencies({address(0), 1}));
  refused([&](const Bytes& b) { return g.memory(b); }, fixed(wire::MeaningMemory{}));
  refused([&](const Bytes& b) { return g.name(b); }, named("x"));
  refused([&](const Bytes& b) { return g.took(b); }, fixed(wire::op::OpTake{}));
  CHECK_FALSE(g.context(context(0, ExecutionPhase::forward, "")));
  CHECK_FALSE(g.context(context(wire::kContextsMax, ExecutionPhase::forward, "")));
  CHECK_FALSE(g.context(context(1, ExecutionPhase(8), "")));
  CHECK_FALSE(g.context(context(1, ExecutionPhase::forward, "", std::string(wire::kLabelBytesMax + 1, 'x'))));
  CHECK_FALSE(g.step(step_over(1ull << 32, ExecutionPhase::forward)));
  CHECK_FALSE(g.step(step_over(1, ExecutionPhase(8))));
  CHECK_FALSE(g.residency(residencies({address(0), 7})));
  CHECK_FALSE(g.residency(residencies({0, 1})));
  CHECK_FALSE(g.residency(residencies({address(0), 1, address(1)})));
  CHECK_FALSE(g.residency(residencies(std::vector<uint64_t>(2 * wire::kResidenciesMax + 2, 1))));
  CHECK_FALSE(g.name(named(std::string(wire::kLabelBytesMax + 1, 'x'))));
  CHECK_FALSE(g.define_op(define_op(wire::kOpIdsMax, "x")));
  CHECK_FALSE(g.define_tensor(define_tensor(wire::kTensorIdsMax, 1, {1})));
  CHECK_FALSE(g.define_tensor(define_tensor(1, 1, {-1})));
  CHECK_FALSE(g.ran(kCall, call_op("aten::cat", std::vector<Words>(wire::kCallValuesMax + 1, Words{none()})), {}, 1));
  CHECK_FALSE(g.ran(kCall, call_op(std::string(wire::kNameBytesMax + 1, 'x'), {}), {}, 1));
  // lists that lie, nest without end, or are of no kind; an output that is a number
  auto tensors = list(wire::op::ListKind::tensors, 1);
  CHECK_FALSE(g.ran(kRun, run_op(kMm, 1, 0, {list(wire::op::ListKind::tensors, ~0u)}), {}, 1));
  CHECK_FALSE(g.ran(kRun, run_op(kMm, 1, 0, {list(wire::op::ListKind::integers, 2), 1}), {}, 1));
  CHECK_FALSE(g.ran(kRun, run_op(kMm, 1, 0, std::vector<uint64_t>(1000, tensors)), {}, 1));
  CHECK_FALSE(g.ran(kRun, run_op(kMm, 1, 0, {wire::op::word(wire::op::Tag::list, 99)}), {}, 1));
  CHECK_FALSE(g.ran(kRun, run_op(kMm, 0, 1, {wire::op::word(wire::op::Tag::integer), 1}), {}, 1));
  Graph s = g.snapshot(1);
  CHECK(s.nodes.empty());
  CHECK(at(g.meaning().steps, ExecutionPhase::forward) == 0);
}

TEST_CASE_METHOD(Fixture, "ids that nobody defined are nothing, not an error") {
  REQUIRE(g.ran(kRun, run_op(999, 1, 1, {tensor(12345), tensor(54321)}, {777, 1}), {}, 3));
  Graph s = g.snapshot(1);
  REQUIRE(s.nodes.size() == 1);
  CHECK(s.nodes[0].op.empty());
  CHECK(s.nodes[0].phase == static_cast<uint32_t>(ExecutionPhase::other));
}

TEST_CASE_METHOD(Fixture, "nodes and edges beyond the limits are counted, and a snapshot fits a control message") {
  for (uint32_t i = 0; i < wire::kGraphNodesMax + 100; i++) {
    REQUIRE(g.context(context(i + 1, ExecutionPhase::backward, "model.decoder.layers." + std::to_string(i) + std::string(400, 'x'))));
    gelu({i + 1, 0}, i % 2 ? kX : kOut, i % 2 ? kOut : kX, i);
  }
  Graph s = g.snapshot(1);
  CHECK(s.nodes_left_out + s.nodes.size() == wire::kGraphNodesMax + 100);
  CHECK(s.nodes.size() > 3000);
  auto message = wire::control::encode(wire::control::Kind::graph_reply, s);
  CHECK(message.size() <= wire::kControlBytesMax - (128u << 10));
  CHECK(wire::control::decode<Graph>(message, wire::control::Kind::graph_reply));
  // what took longest is there, and all stand in the order in which they ran
  CHECK(s.nodes.back().nanoseconds == wire::kGraphNodesMax - 1);
  CHECK(std::is_sorted(s.nodes.begin(), s.nodes.end(), [](auto& a, auto& b) { return a.nanoseconds < b.nanoseconds; }));
  // edges: each reader reads from each of some writers
  Fixture other;
  for (uint32_t i = 0; i < 400; i++) {
    REQUIRE(other.g.context(context(i + 1, ExecutionPhase::backward, "m" + std::to_string(i))));
    for (uint32_t j = 0; j < 100; j++) REQUIRE(other.g.define_tensor(define_tensor(100 + j, 0x100000 + 0x1000 * j, {8})));
  }
  for (uint32_t j = 0; j < 100; j++) other.gelu({j + 1, 0}, kX, 100 + j);
  for (uint32_t i = 0; i < 400; i++)
    for (uint32_t j = 0; j < 100; j++) other.gelu({i + 1, 0}, 100 + j, kOut);
  s = other.g.snapshot(1);
  CHECK(s.edges.size() == wire::kGraphEdgesMax);
  CHECK(s.edges_left_out == 400 * 100 - wire::kGraphEdgesMax);
}

TEST_CASE("places, names and storages are bounded") {
  SemanticGraph g;
  std::string path(wire::kNameBytesMax, 'm');
  for (uint32_t i = 0; i < 5000; i++) {
    path.replace(0, 8, std::to_string(10000000 + i));
    REQUIRE(g.context(context(1, ExecutionPhase::forward, path)));
  }
  REQUIRE(g.define_op(define_op(1, std::string(wire::kNameBytesMax, 'n'))));
  REQUIRE(g.define_tensor(define_tensor(1, 0x1000, {8})));
  REQUIRE(g.ran(kRun, run_op(1, 1, 0, {tensor(1)}, {1, 0}), {}, 1));
  Graph s = g.snapshot(1);
  CHECK(s.nodes.at(0).module.empty());  // beyond kPlaceTextMax
  CHECK(s.nodes.at(0).op.size() == graph::kOpNameMax);
  graph::Storages storages;
  for (uint64_t a = 1; a <= 3 * graph::kStorageSlotsMax; a++) {
    graph::Storage& storage = storages.at(a * 512);
    if (a <= 1000) storage.named = true, storage.residency = DataResidency::persistent_weight;
    REQUIRE(storages.size() <= graph::kStorageSlotsMax / 2);
  }
  CHECK(storages.at(512).residency == DataResidency::persistent_weight);
  for (uint64_t a = 1; a <= graph::kStorageSlotsMax; a++) storages.at(a * 256 + (1ull << 40)).named = true;  // all named: all forgotten
  CHECK(storages.size() <= graph::kStorageSlotsMax / 2);
}

// Throws damaged and random records at the graph of a session (semantic/graph), which reads them on the executor's thread beside the executor.
// Nothing may crash (run it under asan), every prefix of a good record is refused, and whatever came in, the snapshot is true: edges join nodes that
// are there, phases and residencies have names, and it fits a control message. `graph_fuzz --seconds N --seed S`; DJINN_FUZZ_SECONDS is the default
// time.
#include <memory>

#include "semantic/graph/graph.hpp"
#include "tests/fuzz/mutation.hpp"
#include "tests/unit/graph/records.hpp"

using namespace djinn;
using namespace djinn::test;
using namespace djinn::fuzz;
using graph::ExecutionPhase;
using graph::SemanticGraph;

namespace {

uint64_t accepted = 0, refused = 0;

constexpr uint64_t kIds = 12;  // few, so that records meet each other
constexpr int kKinds = 13;

uint64_t value() {
  switch (below(6)) {
    case 0: return none();
    case 1: return boolean(below(2));
    case 2:
      return wire::op::word(wire::op::Tag(below(20)), static_cast<uint8_t>(below(4)), static_cast<uint16_t>(below(8)),
                            static_cast<uint32_t>(below(4)));
    default: return tensor(static_cast<uint32_t>(below(kIds)));
  }
}

Bytes op_record() {
  std::vector<uint64_t> words;
  auto arguments = static_cast<uint16_t>(below(5)), outputs = static_cast<uint16_t>(below(3));
  for (uint16_t i = 0; i < arguments; i++) words.push_back(below(8) ? tensor(static_cast<uint32_t>(below(kIds))) : value());
  for (uint16_t i = 0; i < outputs; i++)
    words.push_back(below(4) ? tensor(static_cast<uint32_t>(below(kIds))) : alias(static_cast<uint32_t>(below(40))));
  wire::op::OpContext context{static_cast<uint32_t>(below(kIds)), static_cast<uint32_t>(below(kIds))};
  return run_op(static_cast<uint32_t>(below(kIds)), arguments, outputs, words, context);
}

Bytes call_record() {
  static const char* const kOps[] = {"aten::matmul", "aten::add.Tensor", "aten::scaled_dot_product_attention", "aten::index_put_", ".", ""};
  std::vector<Words> values(below(5));
  for (auto& v : values) v = {below(8) ? tensor(static_cast<uint32_t>(below(kIds))) : boolean(below(2))};
  std::vector<std::pair<std::string_view, Words>> keywords(below(3));
  for (auto& [keyword, v] : keywords) keyword = below(2) ? "out" : "", v = {tensor(static_cast<uint32_t>(below(kIds)))};
  return call_op(kOps[below(std::size(kOps))], values, keywords);
}

// What an executor answers, as its own bugs might have it.
Bytes any_answer() {
  std::vector<Words> words(below(4));
  for (auto& w : words) {
    std::vector<uint64_t> sizes(below(8));
    for (auto& n : sizes) n = below(16) ? below(9) : ~0ull >> below(64);
    if (below(3)) w = result(sizes, static_cast<uint32_t>(below(4)));
    else w = {below(2) ? alias(static_cast<uint32_t>(below(40))) : list(wire::op::ListKind::tensors, static_cast<uint32_t>(below(4)))};
  }
  Bytes b = answer(below(3), words, below(8) ? 0 : below(6));
  if (!below(3)) mutate(b);
  return b;
}

Bytes good_record(int kind) {
  static const char* const kOps[] = {"aten::mm", "aten::convolution_backward", "aten::_scaled_dot_product_flash_attention_backward",
                                     "aten::_foreach_add_", ""};
  switch (kind) {
    case 0: return define_op(below(kIds), kOps[below(std::size(kOps))], below(2) ? "out" : "");
    case 1: {
      std::vector<int64_t> sizes(below(7));
      for (auto& n : sizes) n = static_cast<int64_t>(below(9));
      return define_tensor(static_cast<uint32_t>(below(kIds)), below(kIds) * 256, sizes, static_cast<uint8_t>(below(48)));
    }
    case 2: {
      Bytes b;
      std::vector<uint32_t> ids(below(4));
      for (auto& id : ids) id = static_cast<uint32_t>(below(kIds));
      wire::Writer(b).put_array(std::span<const uint32_t>(ids));
      return b;
    }
    case 3: return context(1 + below(kIds), ExecutionPhase(below(8)), below(2) ? "a.b" : "", below(2) ? "label" : "");
    case 4: return step_over(below(kIds + 1), ExecutionPhase(below(8)));
    case 5: return residencies({256 * (1 + below(kIds)), below(7)});
    case 6: return fixed(wire::MeaningMemory{{below(9)}});
    case 7: return named(below(2) ? "run" : "");
    case 8: return fixed(wire::op::OpTake{below(3), below(3), below(kIds) * 256, below(1000)});
    case 10: return call_record();
    case 11: return fixed(wire::MeaningOp{below(kIds), static_cast<uint32_t>(below(kIds)), static_cast<uint32_t>(below(kIds))});
    default: return op_record();
  }
}

bool feed(SemanticGraph& g, int kind, const Bytes& record) {
  Bytes exact(record);
  exact.shrink_to_fit();
  switch (kind) {
    case 0: return g.define_op(exact);
    case 1: return g.define_tensor(exact);
    case 2: return g.forget_tensors(exact);
    case 3: return g.context(exact);
    case 4: return g.step(exact);
    case 5: return g.residency(exact);
    case 6: return g.memory(exact);
    case 7: return g.name(exact);
    case 8: return g.took(exact);
    case 9: return g.keep(below(3), exact);
    case 10: return g.ran(SemanticGraph::Ran::call, exact, any_answer(), below(1000));
    case 11: return g.calls_of(exact);
    default:
      return below(4) ? g.ran(SemanticGraph::Ran::run, exact, {}, below(1000)) : g.ran(SemanticGraph::Ran::query, exact, any_answer(), below(1000));
  }
}

void check(const SemanticGraph& g, const Bytes& last) {
  auto s = g.snapshot(1);
  for (const auto& n : s.nodes)
    if (!graph::known_phase(n.phase) || n.flops > graph::kFlopsMax) fail("graph_fuzz", "a node that cannot be", last);
  for (const auto& e : s.edges)
    if (e.from >= s.nodes.size() || e.to >= s.nodes.size() || !e.count || !graph::known_residency(e.residency))
      fail("graph_fuzz", "an edge that cannot be", last);
  if (!graph::known_phase(s.meaning.phase)) fail("graph_fuzz", "a phase without a name", last);
  if (wire::control::encode(wire::control::Kind::graph_reply, s).size() > wire::kControlBytesMax)
    fail("graph_fuzz", "a snapshot that cannot travel", last);
}

void fuzz_session() {
  auto g = std::make_unique<SemanticGraph>();
  Bytes last;
  for (int i = 0; i < 400; i++) {
    int kind = static_cast<int>(below(kKinds + 8));  // mostly ops
    Bytes good = good_record(kind);
    Bytes prefix(good.begin(), good.begin() + static_cast<ptrdiff_t>(below(good.size())));
    if (feed(*g, kind, prefix)) fail("graph_fuzz", "a prefix is accepted", prefix);
    last = good;
    if (below(3)) mutate(last);
    ++(feed(*g, kind, last) ? accepted : refused);
    if (!below(8)) g->ran_kept(below(3), below(4), below(100));
    if (!below(64)) g->drop(below(3));
    if (!below(16)) g->called(below(1000));
    if (!below(16)) g->uploaded(below(kIds) * 256);
  }
  check(*g, last);
  g->finish();
  check(*g, last);
}

}  // namespace

int main(int argc, char** argv) {
  return djinn::fuzz::run("graph_fuzz", argc, argv, accepted, refused, [] { fuzz_session(); });
}

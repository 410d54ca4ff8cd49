// Ops of CUDA graphs. A captured op must mean the same for as long as its graph lives, while the client forgets and reuses the ids of its tensor
// descriptions: so a graph has a table of its own, the record's tensor words are changed to ids of that table, and the table takes the session's
// place while the graph's ops run. A client's record can never name an id of a graph's table.
#include <bit>

#include "semantic/wire/limits.hpp"
#include "server/execute/cpu/aten/executor.hpp"

namespace djinn::aten {

using wire::op::OpHead;

namespace {

// The graph's table stands in the session's place while this lives.
class Exchange {
 public:
  Exchange(TensorTable& a, TensorTable::Slots& b) : a_(a), b_(b) { a_.swap(b_); }
  ~Exchange() { a_.swap(b_); }
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

 private:
  TensorTable& a_;
  TensorTable::Slots& b_;
};

}  // namespace

// The graph's id for a description of the session: the one that it has, unless the client has given its id to another description since.
bool Executor::adopt(Graph& g, uint32_t& id) {
  const Interned& described = *tensors_.find(id);
  auto [known, fresh] = g.ids.try_emplace(id, 0);
  if (!fresh && g.tensors[known->second].same(described)) return id = known->second, true;
  if (graph_tensors_ >= wire::kGraphTensorsMax) return false;
  ++graph_tensors_;
  id = known->second = static_cast<uint32_t>(g.tensors.size());
  g.tensors.push_back(described);
  TensorTable::rebuild(g.tensors.back());  // not the session's TensorImpl
  return true;
}

Failure Executor::graph_add(uint64_t id, std::span<const std::byte> payload) {
  if (payload.size() < sizeof(OpHead)) return malformed("op record is too short");
  OpHead head;
  std::memcpy(&head, payload.data(), sizeof head);
  if (head.op >= ops_.size()) return malformed("op record with an undefined op id");
  OpSlot& slot = ops_[head.op];
  if (!slot.op) return refuse(slot, head);
  std::vector<uint32_t> places;
  c10::InferenceMode no_autograd;
  bool decoded = decoder_.decode(*slot.op, head, payload.subspan(sizeof head), now_, &places);
  now_.clear();
  if (!decoded) return decode_failure(slot);
  std::vector<uint64_t> words(payload.size() / 8);
  std::memcpy(words.data(), payload.data(), payload.size());
  Graph& g = graphs_[id];
  for (uint32_t place : places) {
    uint64_t& w = words[sizeof head / 8 + place];
    uint32_t tensor = wire::op::id_of(w);
    if (!adopt(g, tensor)) return {kMemoryAllocation, wire::ErrorClass::refused, slot.op->base, "too many tensors in the session's graphs"};
    w = (w & 0xffffffffu) | uint64_t{tensor} << 32;
  }
  g.ops.push_back(std::move(words));
  return {};
}

Failure Executor::graph_run(uint64_t id, uint64_t index) {
  auto g = graphs_.find(id);
  if (g == graphs_.end() || index >= g->second.ops.size()) return malformed("an op that the graph has not");
  Exchange exchange(tensors_, g->second.tensors);
  return run(std::as_bytes(std::span(g->second.ops[index])), false);
}

void Executor::graph_drop(uint64_t id) {
  auto g = graphs_.find(id);
  if (g == graphs_.end()) return;  // a graph without ops
  graph_tensors_ -= g->second.tensors.size();
  graphs_.erase(g);
}

}  // namespace djinn::aten

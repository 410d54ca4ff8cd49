// See meaning.hpp.
#include "server/session/meaning.hpp"

namespace djinn::server {

using graph::SemanticGraph;
using wire::Opcode;

// Opcodes of other commands never come here: decode/op.cpp and decode/meaning.cpp name theirs.
void Meaning::executed(Opcode opcode, std::span<const std::byte> payload, std::span<const std::byte> reply, uint64_t nanoseconds) {
  std::lock_guard lock(mutex_);
  if (opcode == Opcode::op_run) graph_.ran(SemanticGraph::Ran::run, payload, reply, nanoseconds);
  else if (opcode == Opcode::op_query) graph_.ran(SemanticGraph::Ran::query, payload, reply, nanoseconds);
  else if (opcode == Opcode::op_call) graph_.ran(SemanticGraph::Ran::call, payload, reply, nanoseconds);
  else if (opcode == Opcode::op_take) graph_.took(payload);
  else if (opcode == Opcode::op_define) graph_.define_op(payload);
  else if (opcode == Opcode::tensor_define) graph_.define_tensor(payload);
  else if (opcode == Opcode::tensor_forget) graph_.forget_tensors(payload);
}

bool Meaning::said(Opcode opcode, std::span<const std::byte> payload) {
  std::lock_guard lock(mutex_);
  if (opcode == Opcode::op_define) return graph_.define_op(payload);
  if (opcode == Opcode::meaning_context) return graph_.context(payload);
  if (opcode == Opcode::meaning_step) return graph_.step(payload);
  if (opcode == Opcode::meaning_residency) return graph_.residency(payload);
  if (opcode == Opcode::meaning_memory) return graph_.memory(payload);
  if (opcode == Opcode::meaning_op) return calls_are_meant_ = true, graph_.calls_of(payload);
  return opcode == Opcode::meaning_name && graph_.name(payload);
}

void Meaning::kept(uint64_t graph, std::span<const std::byte> payload) {
  std::lock_guard lock(mutex_);
  graph_.keep(graph, payload);
}

void Meaning::ran_kept(uint64_t graph, uint64_t index, uint64_t nanoseconds) {
  std::lock_guard lock(mutex_);
  graph_.ran_kept(graph, index, nanoseconds);
}

void Meaning::dropped(uint64_t graph) {
  std::lock_guard lock(mutex_);
  graph_.drop(graph);
}

void Meaning::uploaded(uint64_t address) {
  std::lock_guard lock(mutex_);
  graph_.uploaded(address);
}

void Meaning::called(uint64_t nanoseconds) {
  std::lock_guard lock(mutex_);
  graph_.called(nanoseconds);
}

wire::control::Meaning Meaning::now() const {
  std::lock_guard lock(mutex_);
  return graph_.meaning();
}

wire::control::Graph Meaning::snapshot(uint64_t session, bool last) {
  std::lock_guard lock(mutex_);
  if (last) graph_.finish();
  return graph_.snapshot(session);
}

}  // namespace djinn::server

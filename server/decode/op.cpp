// Op records go to the executor as they are: the words of op.hpp are read by execute/cpu/aten/decode, the mirror of hooks/torch/encode.
#include "semantic/wire/op.hpp"
#include "server/decode/decode.hpp"

namespace djinn::server::decode {

// The check layer reads along: which tensors there are, and whether a scope's calls carried an address of them.
static Failure validate(Session& s, wire::Opcode opcode, std::span<const std::byte> payload) {
  if (opcode == wire::Opcode::tensor_define) s.scope_check().define(payload);
  if (opcode == wire::Opcode::tensor_forget) s.scope_check().forget(payload);
  if (opcode != wire::Opcode::op_run && opcode != wire::Opcode::op_query) return {};
  Failure f = s.scope_check().end(payload);
  if (f.code) ++s.counts().violations;
  return f;
}

Failure op(Session& s, const Command& c) {
  if (!c.bulk.empty()) return malformed("op");
  auto opcode = static_cast<wire::Opcode>(c.head.opcode);
  // at call level ops are named for meaning_op only
  if (opcode == wire::Opcode::op_define && s.opened().level == wire::control::Level::call)
    return s.meaning().said(opcode, c.payload) ? Failure{} : malformed("op_define");
  bool computes = opcode == wire::Opcode::op_run || opcode == wire::Opcode::op_query || opcode == wire::Opcode::op_call;
  if (computes && !s.adding()) ++s.counts().ops;
  // what a graph runs again was validated when it was added
  Failure checked = s.opened().checks && !s.launching() ? validate(s, opcode, c.payload) : Failure{};
  Failure f = s.run_op(c);
  return f.code ? f : checked;
}

Failure scope(Session& s, const Command& c) {
  wire::op::Scope scope;
  if (!read_all(c, scope)) return malformed("scope");
  if (!s.opened().checks) return invalid("scope", "sent to a server that does not validate (--check)");
  s.scope_check().begin(scope.id);
  return {};
}

}  // namespace djinn::server::decode

// Op records go to the executor as they are: the coordinates of op.hpp are read by execute/cpu/aten/decode, the mirror of hooks/torch/encode.
#include "server/decode/decode.hpp"

namespace djinn::server::decode {

Failure op(Session& s, const Command& c) {
  if (!c.bulk.empty()) return malformed("op");
  auto opcode = static_cast<wire::Opcode>(c.head.opcode);
  if (opcode == wire::Opcode::op_run || opcode == wire::Opcode::op_query) ++s.counts().ops;
  return s.run_op(c);
}

Failure scope(Session& s, const Command& c) {
  struct {
    uint32_t id, op;
  } scope;
  if (!read_all(c, scope)) return malformed("scope");
  if (!s.opened().checks) return invalid("scope", "sent to a server that does not validate (--check)");
  return {};
}

}  // namespace djinn::server::decode

// Ops go to the executor (execute/cpu/aten), which was loaded for the client's torch. Mirror: hooks/torch.
#include "semantic/wire/op.hpp"

#include "server/decode/decode.hpp"

namespace djinn::server::decode {

void op(Session& s) {
  const auto& head = s.now.record->head;
  if (!s.executor_state()) return s.fail({cuda_error::not_supported, wire::ErrorClass::refused, "op", "this session has no executor for ops: it was opened at call level"});
  bool runs = head.opcode == static_cast<uint32_t>(wire::Opcode::op_run) || head.opcode == static_cast<uint32_t>(wire::Opcode::op_query);
  if (runs) ++s.count.ops;
  djinn_executor_result result{};
  auto payload = s.now.record->payload;
  s.executor()->execute(s.executor_state(), head.opcode, s.now.ticket, payload.data(), payload.size(), &result);
  if (result.code)
    return s.fail({result.code, static_cast<wire::ErrorClass>(result.error_class), result.operation ? result.operation : "op", result.text ? result.text : ""});
  if (s.now.call()) s.reply(0, {static_cast<const std::byte*>(result.reply), result.reply_size});
}

void scope(Session& s) {
  wire::op::Scope scope;
  if (!read_fixed(s, scope, "scope")) return;
  if (!s.check()) s.malformed("scope");
}

void counters(Session& s) {
  auto packed = s.packed_counters();
  s.reply(0, packed);
}

}  // namespace djinn::server::decode

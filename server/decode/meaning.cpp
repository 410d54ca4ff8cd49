// The meaning_* commands: what the program says of itself (hooks/torch, hooks/python). They change no memory and no result; one that is not what its
// layout says is refused like any other command.
#include "server/decode/decode.hpp"

namespace djinn::server::decode {

Failure meaning(Session& s, const Command& c) {
  if (!c.bulk.empty() || !s.meaning().said(static_cast<wire::Opcode>(c.head.opcode), c.payload)) return malformed("meaning");
  return {};
}

}  // namespace djinn::server::decode

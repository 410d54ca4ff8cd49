// Opcode → function. Each decoder reads one command's payload to its last byte, checks what it names against the session, and asks the device. The
// mirror of interpose/encode: memory.cpp, copy.cpp, stream.cpp, event.cpp, module.cpp, launch.cpp, op.cpp, graph.cpp; library calls come generated.
#pragma once
#include "semantic/wire/codec.hpp"
#include "server/session/session.hpp"

namespace djinn::server::decode {

using Function = Failure (*)(Session&, const Command&);
// Null for an opcode that nobody knows.
Function find(uint32_t opcode);
// Library calls: opcodes with the top bit set (server/decode/library.cpp).
Function find_library_call(uint32_t opcode);

// The payload is not what the command's layout says: an encoder of ours never does that, so the session ends.
Failure malformed(const char* command);
Failure invalid(const char* command, std::string why);
Failure illegal_address(const char* command, uint64_t address, uint64_t bytes);
Failure unknown_handle(const char* command, const char* what, uint64_t id);

// A payload that is one fixed struct and nothing else.
template <class Fixed>
bool read_all(const Command& c, Fixed& out) {
  wire::Reader r(c.payload);
  out = r.get<Fixed>();
  return r.finished() && c.bulk.empty();
}

Failure map_memory(Session&, const Command&);
Failure unmap_memory(Session&, const Command&);
Failure lease(Session&, const Command&);
Failure memory_info(Session&, const Command&);
Failure memory_create(Session&, const Command&);
Failure memory_release(Session&, const Command&);
Failure memory_map(Session&, const Command&);
Failure memory_unmap(Session&, const Command&);
Failure memory_access(Session&, const Command&);
Failure memory_share(Session&, const Command&);
Failure memory_unshare(Session&, const Command&);
Failure memory_import(Session&, const Command&);
Failure upload(Session&, const Command&);
Failure download(Session&, const Command&);
Failure push_download(Session&, const Command&);
Failure copy(Session&, const Command&);
Failure fill(Session&, const Command&);
Failure reduce(Session&, const Command&);
Failure stream_create(Session&, const Command&);
Failure stream_destroy(Session&, const Command&);
Failure stream_wait(Session&, const Command&);
Failure synchronize(Session&, const Command&);
Failure event_record(Session&, const Command&);
Failure event_destroy(Session&, const Command&);
Failure module_load(Session&, const Command&);
Failure module_unload(Session&, const Command&);
Failure kernel_get(Session&, const Command&);
Failure launch(Session&, const Command&);
Failure op(Session&, const Command&);
Failure scope(Session&, const Command&);
Failure graph_add(Session&, const Command&);
Failure graph_launch(Session&, const Command&);
Failure graph_destroy(Session&, const Command&);
Failure meaning(Session&, const Command&);
Failure counters(Session&, const Command&);

}  // namespace djinn::server::decode

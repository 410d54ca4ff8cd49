// The table of commands. Library calls (the top bit set) are found in the generated table.
#include "server/decode/decode.hpp"

#include "server/decode/library.hpp"

namespace djinn::server {

Decoder find_decoder(uint32_t opcode) {
  if (opcode & wire::kGeneratedOpcode) return find_library(opcode) ? decode_library : nullptr;
  using wire::Opcode;
  switch (static_cast<Opcode>(opcode)) {
    case Opcode::map_memory: return decode::map_memory;
    case Opcode::unmap_memory: return decode::unmap_memory;
    case Opcode::lease: return decode::lease;
    case Opcode::memory_info: return decode::memory_info;
    case Opcode::upload: return decode::upload;
    case Opcode::download: return decode::download;
    case Opcode::push_download: return decode::push_download;
    case Opcode::copy: return decode::copy;
    case Opcode::fill: return decode::fill;
    case Opcode::stream_create: return decode::stream_create;
    case Opcode::stream_destroy: return decode::stream_destroy;
    case Opcode::stream_wait: return decode::stream_wait;
    case Opcode::event_record: return decode::event_record;
    case Opcode::event_destroy: return decode::event_destroy;
    case Opcode::synchronize: return decode::synchronize;
    case Opcode::module_load: return decode::module_load;
    case Opcode::module_unload: return decode::module_unload;
    case Opcode::kernel_get: return decode::kernel_get;
    case Opcode::launch: return decode::launch;
    case Opcode::op_define:
    case Opcode::tensor_define:
    case Opcode::tensor_forget:
    case Opcode::op_run:
    case Opcode::op_query:
    case Opcode::op_take:
    case Opcode::op_drop: return decode::op;
    case Opcode::scope: return decode::scope;
    case Opcode::counters: return decode::counters;
  }
  return nullptr;
}

}  // namespace djinn::server

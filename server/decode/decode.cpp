// See decode.hpp.
#include "server/decode/decode.hpp"

#include <fmt/format.h>

#include "semantic/wire/archive.hpp"

namespace djinn::server::decode {

using wire::ErrorClass;
using wire::Opcode;

Failure malformed(const char* command) { return {cuda_error::unknown, ErrorClass::lost, command, "malformed command"}; }
Failure invalid(const char* command, std::string why) { return {cuda_error::invalid_value, ErrorClass::refused, command, std::move(why)}; }
Failure illegal_address(const char* command, uint64_t address, uint64_t bytes) {
  return {cuda_error::illegal_address, ErrorClass::sticky, command,
          fmt::format("{} bytes at {:#x} are not all inside live device memory", bytes, address)};
}
Failure unknown_handle(const char* command, const char* what, uint64_t id) {
  return {cuda_error::invalid_resource_handle, ErrorClass::refused, command, fmt::format("there is no {} {}", what, id)};
}

Failure counters(Session& s, const Command& c) {
  if (!c.payload.empty() || !c.bulk.empty()) return malformed("counters");
  s.answer = wire::control::pack(s.counters());
  return {};
}

Failure timings(Session& s, const Command& c) {
  wire::Timings t;
  if (!read_all(c, t)) return malformed("timings");
  if (t.on > 1) return invalid("timings", "on is 0 or 1");
  s.time_work(t.on);
  wire::Writer(s.answer).put(wire::TimingsReply{s.device().timestamp(0)});
  return {};
}

static Function find_command(Opcode opcode) {
  switch (opcode) {
    case Opcode::map_memory: return map_memory;
    case Opcode::unmap_memory: return unmap_memory;
    case Opcode::lease: return lease;
    case Opcode::memory_info: return memory_info;
    case Opcode::memory_create: return memory_create;
    case Opcode::memory_release: return memory_release;
    case Opcode::memory_map: return memory_map;
    case Opcode::memory_unmap: return memory_unmap;
    case Opcode::memory_access: return memory_access;
    case Opcode::memory_share: return memory_share;
    case Opcode::memory_unshare: return memory_unshare;
    case Opcode::memory_import: return memory_import;
    case Opcode::upload: return upload;
    case Opcode::download: return download;
    case Opcode::push_download: return push_download;
    case Opcode::copy: return copy;
    case Opcode::fill: return fill;
    case Opcode::reduce: return reduce;
    case Opcode::stream_create: return stream_create;
    case Opcode::stream_destroy: return stream_destroy;
    case Opcode::stream_wait: return stream_wait;
    case Opcode::event_record: return event_record;
    case Opcode::event_destroy: return event_destroy;
    case Opcode::synchronize: return synchronize;
    case Opcode::module_load: return module_load;
    case Opcode::module_unload: return module_unload;
    case Opcode::kernel_get: return kernel_get;
    case Opcode::launch: return launch;
    case Opcode::op_define:
    case Opcode::tensor_define:
    case Opcode::tensor_forget:
    case Opcode::op_run:
    case Opcode::op_query:
    case Opcode::op_take:
    case Opcode::op_drop:
    case Opcode::op_call: return op;
    case Opcode::scope: return scope;
    case Opcode::graph_add: return graph_add;
    case Opcode::graph_launch: return graph_launch;
    case Opcode::graph_destroy: return graph_destroy;
    case Opcode::meaning_context:
    case Opcode::meaning_step:
    case Opcode::meaning_residency:
    case Opcode::meaning_memory:
    case Opcode::meaning_name:
    case Opcode::meaning_op: return meaning;
    case Opcode::counters: return counters;
    case Opcode::timings: return timings;
  }
  return nullptr;
}

Function find(uint32_t opcode) {
  if (opcode & wire::kGeneratedOpcode) return find_library_call(opcode);
  return find_command(static_cast<Opcode>(opcode));
}

}  // namespace djinn::server::decode

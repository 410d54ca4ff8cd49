// From opcode to hand: one function per command, in the file that mirrors interpose/encode's. A decoder reads its payload with the bounded reader,
// asks once whether all of it was there, checks that every extent is live memory of the session, and calls the device.
#pragma once
#include "server/session/session.hpp"

namespace djinn::server {

using Decoder = void (*)(Session&);
// Null for an opcode that this server does not know.
Decoder find_decoder(uint32_t opcode);

namespace decode {
// memory.cpp
void map_memory(Session&);
void unmap_memory(Session&);
void lease(Session&);
void memory_info(Session&);
// memcpy.cpp
void upload(Session&);
void download(Session&);
void push_download(Session&);
void copy(Session&);
void fill(Session&);
// stream.cpp
void stream_create(Session&);
void stream_destroy(Session&);
void stream_wait(Session&);
void event_record(Session&);
void event_destroy(Session&);
void synchronize(Session&);
// module.cpp
void module_load(Session&);
void module_unload(Session&);
void kernel_get(Session&);
void launch(Session&);
// op.cpp
void op(Session&);
void scope(Session&);
// session.cpp
void counters(Session&);
}  // namespace decode

// Reads exactly one fixed struct; false (and the error latched) when the payload is anything else.
template <class Fixed>
bool read_fixed(Session& s, Fixed& fixed, const char* command) {
  wire::Reader r(s.now.record->payload);
  fixed = r.get<Fixed>();
  if (r.finished()) return true;
  s.malformed(command);
  return false;
}

// The error that CUDA gives for an access outside live memory: sticky.
inline void illegal_address(Session& s, const char* command, uint64_t address, uint64_t bytes) {
  char text[160];
  snprintf(text, sizeof text, "an illegal memory access: %llu bytes at 0x%llx are not allocated", static_cast<unsigned long long>(bytes),
           static_cast<unsigned long long>(address));
  s.fail({cuda_error::illegal_address, wire::ErrorClass::sticky, command, text});
}

}  // namespace djinn::server

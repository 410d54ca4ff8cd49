// Library calls (cuBLAS, cuBLASLt): generated commands, decoded by a generated table, given their meaning by the overloads of `run`. They know
// nothing of sessions but this small context, so that tests drive them directly. Mirror: interpose/entry/{library,cublas,cublaslt}.cpp and the
// generated entry points.
#pragma once
#include <string_view>

#include "djinn_api/commands.hpp"
#include "server/execute/blas.hpp"
#include "server/execute/device.hpp"

namespace djinn::server {

class LibraryContext {
 public:
  virtual ~LibraryContext() = default;
  // Every byte lies in live memory of the session; true for 0 bytes.
  virtual bool live(uint64_t address, uint64_t bytes) const = 0;
  virtual bool known_stream(uint64_t id) const = 0;
  virtual const Blas& blas() const = 0;
  // --check: inside an op scope the op computes, without ops nothing does; the call is validated only.
  bool validate_only = false;
};

struct LibraryCall {
  uint32_t opcode;
  std::string_view name;
  // Reads the payload to its last byte; a malformed one ends the session.
  Failure (*run)(LibraryContext&, wire::Reader&);
};
// Null for an opcode that no command has.
const LibraryCall* find_library(uint32_t opcode);

}  // namespace djinn::server

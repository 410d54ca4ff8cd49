// The generated table: opcode → decoder → `run`.
#include <algorithm>
#include <iterator>

#include "server/decode/library_blas.hpp"

namespace djinn::server {

namespace {

template <class C>
Failure decode_and_run(LibraryContext& x, wire::Reader& r) {
  C c;
  if (!c.decode(r)) return {cuda_error::unknown, wire::ErrorClass::lost, std::string(C::kName), "malformed command"};
  Failure f = run(x, c);
  if (f.code && f.operation.empty()) f.operation = C::kName;
  return f;
}

// in order of opcode
constexpr LibraryCall kCalls[] = {
#include "djinn_api/decode_table.inc"
};

}  // namespace

const LibraryCall* find_library(uint32_t opcode) {
  auto at = std::lower_bound(std::begin(kCalls), std::end(kCalls), opcode, [](const LibraryCall& c, uint32_t o) { return c.opcode < o; });
  return at != std::end(kCalls) && at->opcode == opcode ? at : nullptr;
}

}  // namespace djinn::server

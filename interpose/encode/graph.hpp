// Work on a stream, lowered to a command that is posted or, while the stream captures, given to its graph; and graphs, launched. Mirror:
// server/decode/graph.cpp.
#pragma once
#include "interpose/shadow/graph.hpp"

namespace djinn {

// While captures are under way. `captured`: the command has become a node.
cudaError_t post_or_capture(uint64_t stream, cudaGraphNodeType type, uint32_t opcode, std::span<const std::byte> payload, bool& captured);

// Calls of an op scope that are only validated are no work: they go to the server at once.
inline cudaError_t post_on(uint64_t stream, cudaGraphNodeType type, uint32_t opcode, uint16_t flags, std::span<const std::byte> payload) {
  if (bool captured; capturing() && !(flags & wire::kFlagScoped)) return post_or_capture(stream, type, opcode, payload, captured);
  return post(opcode, flags, payload) ? cudaSuccess : session_error();
}
template <class Fixed>
cudaError_t post_on(uint64_t stream, cudaGraphNodeType type, wire::Opcode opcode, const Fixed& fixed) {
  return post_on(stream, type, static_cast<uint32_t>(opcode), 0, std::as_bytes(std::span(&fixed, 1)));
}

// A copy between host and device. CUDA reads and writes the host's memory at each launch, so that it is no command of the graph: launches are cut
// there.
cudaError_t capture_host_copy(const Copy2D& c, bool upload, uint64_t stream, bool& captured);
// An event that the graph itself records (cudaEventRecordExternal), or waits for.
cudaError_t capture_external_record(uint64_t stream, uint64_t event, bool timed, bool& captured);
cudaError_t capture_external_wait(uint64_t stream, uint64_t event, bool& captured);

cudaError_t launch_graph(Graph& g, uint64_t stream);

}  // namespace djinn

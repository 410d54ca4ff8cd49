// Bounds of the executor itself, beside those of the wire (semantic/wire/limits.hpp). All of them limit what one session can make its own worker
// keep; a session that reaches one gets an error by name, never silence.
#pragma once
#include <cstddef>
#include <cstdint>

namespace djinn::aten {

// Results of server-first ops that wait for op_take. A client takes them at once; one per client thread is plenty.
constexpr size_t kStashesMax = 1024;
// Their bytes. They live outside the session's lease until they are taken, so the bound is what a machine can spare for a moment.
constexpr uint64_t kStashBytesMax = 4ull << 30;
// Temporaries kept for reuse in the pool; what is freed beyond it goes back to the operating system.
constexpr size_t kPoolBytesMax = 512u << 20;
// Larger blocks are not pooled: one of them would push out everything else.
constexpr size_t kPoolBlockMax = 256u << 20;
// Remembered outputs of failed ops. Beyond it the oldest is forgotten: its consumers then compute with garbage, but the error itself was reported.
constexpr size_t kPoisonRangesMax = 1024;
// Host scalars (wrapped numbers) kept as ready tensors.
constexpr size_t kScalarCacheSize = 256;  // a power of two
// Elements of a host tensor argument: bounded by the frame anyway, this keeps the product of its sizes from overflowing.
constexpr int64_t kHostElementsMax = 1 << 26;
// RNN forwards whose dropout seed the backward will ask for.
constexpr size_t kRecurrentSeedsMax = 4096;

}  // namespace djinn::aten

// R8: norms of Half and BFloat16 tensors compute in float32, as CUDA does (their saved statistics are float32), and so does any op that the CPU
// has for float32 only.
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>

#include "server/execute/cpu/aten/ops.hpp"

namespace djinn::aten {

enum Reduced : uint8_t { kHalfSeen = 1, kBFloat16Seen = 2 };
inline uint8_t reduced_bit(c10::ScalarType t) { return t == c10::ScalarType::Half ? kHalfSeen : t == c10::ScalarType::BFloat16 ? kBFloat16Seen : 0; }

// Runs `call` on float32 copies of the reduced-precision tensors of `stack`; written arguments are cast back. `cast_results`: results too
// (a query's; placing casts the others).
void in_float32(const Op& op, Stack& stack, bool cast_results, const std::function<void(Stack&)>& call);

// CUDA's softmax can read half and write float32, its backward the other way round; the CPU's work in one type. The conversion before is made here,
// that behind by placing.
void unmix_types(const Op& op, Stack& stack);

}  // namespace djinn::aten

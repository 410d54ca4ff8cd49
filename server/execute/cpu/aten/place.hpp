// Results go to where the client expects them. Mostly they are there already (placement); else they are copied.
#pragma once
#include <ATen/core/Tensor.h>

#include "server/execute/cpu/aten/tensors.hpp"

namespace djinn::aten {

// Copies `source` into `target`. Throws when the client expects another shape.
void place(const Interned& target, const at::Tensor& source, const char* op);
// Does the result already lie where and as the client expects it?
bool in_place(const Interned& target, const at::Tensor& source);
// Copies by the span of storage, so that expanded strides survive.
void copy_span(void* to, const at::Tensor& source);
uint64_t span_bytes(const at::Tensor& t);

}  // namespace djinn::aten

// The op scope: the wrapper that stands in a CUDA kernel's place. See scope.cpp.
#pragma once
#include <ATen/core/boxing/KernelFunction.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <atomic>
#include <memory>

#include "hooks/torch/op.hpp"

namespace djinn::hook {

c10::KernelFunction make_scope(c10::SafeKernelFunction original, std::unique_ptr<Op> op);
// Call level: the original, whose calls are said to be this op's.
c10::KernelFunction make_annotation(c10::SafeKernelFunction original, std::unique_ptr<Op> op);
// Ops have been registered that may want wrapping: the next op does it (start.cpp).
inline std::atomic<bool> newcomers{false};
void scan();
// Tells the server the op's name, once.
void define(Op& op);

}  // namespace djinn::hook

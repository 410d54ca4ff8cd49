// Which operators are wrapped, and how their scope begins: decided from schema, tags and dispatch table (rules R6, R7, R9, R10 of the op-level
// study), with one small table of exceptions.
#pragma once
#include <ATen/core/dispatch/Dispatcher.h>

#include <memory>

#include "hooks/torch/op.hpp"

namespace djinn::hook {

// Null: this operator passes through unwrapped at that key (a view, allocation, a query, a host transfer, not on the server's list, a user's Python
// kernel).
std::unique_ptr<Op> classify(const c10::OperatorHandle& op, c10::DispatchKey key, const c10::SafeKernelFunction& original);
// The same at call level, where the kernels do their work themselves: whatever has an explicit one.
std::unique_ptr<Op> classify_call(const c10::OperatorHandle& op, c10::DispatchKey key, const c10::SafeKernelFunction& original);
// The dispatch keys whose kernels do device work.
c10::ArrayRef<c10::DispatchKey> device_keys();

}  // namespace djinn::hook

// Ops called by name (op_call): no client kernel has looked at the arguments, there is no schema on the other side, and composite ops are called
// whole. They compute what PyTorch computes on a CPU; the emulations of CUDA (run.cpp) are for clients that run CUDA's kernels beside us.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include "server/execute/cpu/aten/executor.hpp"
#include "server/execute/cpu/aten/reduced.hpp"
#include "server/execute/cpu/aten/resolve.hpp"

namespace djinn::aten {

namespace {

// A composite op may hand out a view whose numbers nobody has checked (aten::_reshape_alias): it stays inside its storage, or nothing is read.
void check_extent(const at::Tensor& t) {
  if (!t.defined() || t.layout() != at::kStrided || t.is_nested() || !t.has_storage() || !t.numel()) return;
  uint64_t bytes, start, end;
  int64_t numel;
  auto sizes = t.sizes(), strides = t.strides();
  bool fits = span_of({sizes.data(), sizes.size()}, {strides.data(), strides.size()}, t.element_size(), bytes, numel) && t.storage_offset() >= 0 &&
              !__builtin_mul_overflow(static_cast<uint64_t>(t.storage_offset()), t.element_size(), &start) &&
              !__builtin_add_overflow(start, bytes, &end) && end <= t.storage().nbytes();
  if (!fits) throw Unsupported("a result that reaches beyond its storage");
}

void check_extents(const Stack& results) {
  for (const c10::IValue& v : results) {
    if (v.isTensor()) check_extent(v.toTensor());
    if (v.isTensorList())
      for (const at::Tensor& t : v.toTensorList()) check_extent(t);
  }
}

// What a CUDA kernel would have asserted is an exception here: the caller waits for it, and nothing is lost.
Failure without_assertion(Failure f) {
  if (f.code == kAssert) f.code = kUnknown, f.error_class = wire::ErrorClass::exception;
  return f;
}

bool only_float32(const c10::Error& e) {
  return std::string_view(e.what_without_backtrace()).find(" not implemented for '") != std::string_view::npos;
}

}  // namespace

// A rewrite is for what the CPU lacks; those of random ops would want a generator that nobody sent.
void Executor::compute_as_is(const Op& op, const Stack& arguments) {
  Op plain = op;
  if (op.handle.hasComputedKernelForDispatchKey(c10::DispatchKey::CPU)) plain.rewrite = nullptr;
  now_.stack = arguments;
  try {
    return kernel(plain, now_.stack);
  } catch (const c10::Error& e) {
    if (!now_.reduced || !only_float32(e)) throw;
  }
  now_.stack = arguments;
  in_float32(op, now_.stack, true, [&](Stack& s) { kernel(plain, s); });
}

// Whatever an op did to a description that it was given: the client's stands.
void Executor::restore_touched() {
  for (const Touched& w : now_.touched)
    if (Interned& t = *tensors_.find(w.tensor); tensors_.moved(t)) TensorTable::rebuild(t);
}

// Finds the overload, runs it, and writes the reply. Nothing is poisoned: who called is told, and has not gone on with what is not there.
Failure Executor::answer(const Given& given) {
  std::string reason;
  auto overloads = find_overloads(given.name, reason);
  if (overloads.empty()) return {kNotSupported, wire::ErrorClass::refused, given.name, reason};
  Bound bound = resolve(overloads, given);
  if (!bound.op) return {kInvalidValue, wire::ErrorClass::exception, given.name, "no overload takes these arguments: " + bound.why};
  Op& op = *bound.op;
  for (Touched& t : now_.touched) t.argument = bound.place[t.argument];
  try {
    now_.stack = bound.arguments;
    prepare(op);
    for (const Detour& d : detours_) bound.arguments[d.argument] = d.result;
    compute_as_is(op, bound.arguments);
    if (op.writes) finish_written(op);
    check_extents(now_.stack);
    reply(op, bound.place);
    return {};
  } catch (...) {
    Failure f = without_assertion(failure_in_flight());
    f.operation = given.name;
    reply_.clear();
    return f;
  }
}

Failure Executor::call(std::span<const std::byte> payload) {
  c10::InferenceMode no_autograd;
  Given given;
  Failure f;
  if (decoder_.decode_call(payload, given, now_)) {
    f = answer(given);
  } else {
    f = {kInvalidValue, wire::ErrorClass::refused, given.name.empty() ? "op_call" : given.name, decoder_.problem()};
    if (decoder_.illegal()) f.code = kIllegalAddress, f.error_class = wire::ErrorClass::sticky;
  }
  restore_touched();
  now_.stack.clear();
  detours_.clear();
  return f;
}

}  // namespace djinn::aten

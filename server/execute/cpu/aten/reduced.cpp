#include "server/execute/cpu/aten/reduced.hpp"

#include <ATen/ATen.h>

namespace djinn::aten {

namespace {

struct Written {
  at::Tensor original, copy;
};

// native_batch_norm and cudnn_batch_norm write their running statistics without saying so in the schema.
bool writes(const Op& op, size_t i) {
  if (op.arguments[i].written) return true;
  if (op.norm != Norm::forward) return false;
  const auto& name = op.handle.schema().arguments()[i].name();
  return name == "running_mean" || name == "running_var";
}

at::Tensor widen(const at::Tensor& t, bool written, std::vector<Written>& back) {
  if (!t.defined() || !reduced_bit(t.scalar_type())) return t;
  auto wide = t.to(at::kFloat);
  if (written) back.push_back({t, wide});
  return wide;
}

c10::IValue widen(const c10::IValue& v, bool written, std::vector<Written>& back) {
  if (v.isTensor()) return widen(v.toTensor(), written, back);
  if (v.isTensorList()) {
    c10::List<at::Tensor> wide;
    for (const at::Tensor& t : v.toTensorList()) wide.push_back(widen(t, written, back));
    return wide;
  }
  if (v.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> wide;
    for (std::optional<at::Tensor> t : v.toOptionalTensorList()) wide.push_back(t ? std::optional(widen(*t, written, back)) : t);
    return wide;
  }
  return v;
}

at::ScalarType first_reduced(const Stack& stack) {
  for (const auto& v : stack) {
    if (v.isTensor() && v.toTensor().defined() && reduced_bit(v.toTensor().scalar_type())) return v.toTensor().scalar_type();
    if (v.isTensorList())
      for (const at::Tensor& t : v.toTensorList())
        if (t.defined() && reduced_bit(t.scalar_type())) return t.scalar_type();
  }
  return at::kFloat;
}

void narrow_results(const Op& op, Stack& stack, at::ScalarType dtype) {
  for (size_t i = 0; i < stack.size(); i++) {
    if (op.norm == Norm::forward && i > 0) break;  // saved statistics stay float32
    auto& v = stack[i];
    if (v.isTensor() && v.toTensor().defined() && v.toTensor().scalar_type() == at::kFloat) v = v.toTensor().to(dtype);
    if (v.isTensorList()) {
      c10::List<at::Tensor> narrow;
      for (const at::Tensor& t : v.toTensorList()) narrow.push_back(t.defined() && t.scalar_type() == at::kFloat ? t.to(dtype) : t);
      v = narrow;
    }
  }
}

}  // namespace

void in_float32(const Op& op, Stack& stack, bool cast_results, const std::function<void(Stack&)>& call) {
  std::vector<Written> back;
  auto dtype = first_reduced(stack);
  for (size_t i = 0; i < stack.size(); i++) stack[i] = widen(stack[i], writes(op, i), back);
  call(stack);
  for (auto& [original, copy] : back) {
    if (original.sizes() != copy.sizes()) original.resize_(copy.sizes());
    original.copy_(copy);
    for (auto& v : stack)
      if (v.isTensor() && v.toTensor().is_same(copy)) v = original;
  }
  if (cast_results) narrow_results(op, stack, dtype);
}

void unmix_types(const Op& op, Stack& stack) {
  if (op.half_to_float >= 0 && stack[op.half_to_float].toBool()) {
    stack[0] = stack[0].toTensor().to(at::kFloat);
    stack[op.half_to_float] = false;
  }
  if (op.input_dtype >= 0) stack[op.input_dtype] = static_cast<int64_t>(stack[0].toTensor().scalar_type());
}

}  // namespace djinn::aten

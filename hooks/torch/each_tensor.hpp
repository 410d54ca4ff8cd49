// The tensors in an argument or result of an operator: one, a list, a list with holes.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

namespace djinn::hook {

template <class F>
void each_tensor(const c10::IValue& v, F f) {
  if (v.isTensor()) {
    if (v.toTensor().defined()) f(v.toTensor());
  } else if (v.isTensorList()) {
    for (const auto& e : v.toListRef()) f(e.toTensor());
  } else if (v.isList() && v.toList().elementType()->kind() == c10::TypeKind::OptionalType) {
    for (const auto& e : v.toListRef())
      if (e.isTensor() && e.toTensor().defined()) f(e.toTensor());
  }
}

}  // namespace djinn::hook

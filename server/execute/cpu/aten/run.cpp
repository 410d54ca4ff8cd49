// One op: checks, the kernel, its results into the client's memory. The kernel is called through the dispatcher with the CPU key (nothing of autograd
// or autocast is in the way: InferenceMode), nested calls inside it dispatch as usual.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include "server/execute/cpu/aten/executor.hpp"
#include "server/execute/cpu/aten/place.hpp"
#include "server/execute/cpu/aten/random.hpp"
#include "server/execute/cpu/aten/reduced.hpp"

namespace djinn::aten {

using wire::op::OpHead;

Failure Executor::refuse(const OpSlot& slot, const OpHead& head) const {
  if (slot.name.empty()) return malformed(("op record with the undefined op id " + std::to_string(head.op)).c_str());
  return {kNotSupported, wire::ErrorClass::refused, slot.name, slot.reason};
}

Failure Executor::decode_failure(const OpSlot& slot) const {
  if (!decoder_.illegal()) return fail({kInvalidValue, wire::ErrorClass::refused, {}, decoder_.problem()}, slot);
  return fail({kIllegalAddress, wire::ErrorClass::sticky, {}, std::string(slot.op->name) + ": " + decoder_.problem()}, slot);
}

// The failure of an earlier op whose output this one would read.
std::shared_ptr<Failure> Executor::poisoned(const Op& op) {
  for (const Touched& t : now_.touched) {
    const Argument& a = op.arguments[t.argument];
    if (a.out || (a.written && op.overwrites)) continue;
    const Interned& i = *tensors_.find(t.tensor);
    if (i.has_elements())
      if (auto origin = poison_.find(i.low, i.high)) return origin;
  }
  return nullptr;
}

// Which memory holds garbage now: fresh outputs always, written arguments only where the kernel may have begun.
void Executor::spoil(const Op& op, const Failure& why, const std::shared_ptr<Failure>& origin) {
  for (const Output& o : now_.outputs)
    if (const Interned& t = *tensors_.find(o.tensor); t.has_elements()) poison_.add(t.low, t.high, t.dense(), origin);
  if (why.error_class == wire::ErrorClass::refused) return;  // never started
  for (const Touched& w : now_.touched)
    if (op.arguments[w.argument].written)
      if (const Interned& t = *tensors_.find(w.tensor); t.has_elements())
        poison_.add(t.low, t.high, op.arguments[w.argument].out && t.dense(), origin);
}

void Executor::heal(const Op& op) {
  for (const Output& o : now_.outputs)
    if (const Interned& t = *tensors_.find(o.tensor); t.has_elements() && t.dense()) poison_.written(t.low, t.high);
  for (const Touched& w : now_.touched)
    if (op.arguments[w.argument].written)
      if (const Interned& t = *tensors_.find(w.tensor); t.has_elements() && t.dense()) poison_.written(t.low, t.high);
}

// out= into memory with holes: CPU kernels of gelu and avg_pool3d go wrong there. They get a fresh tensor, placing does the rest. So does an empty
// one: two of the same shape have one description, and are not one tensor (torch 2.15's aminmax looks).
void Executor::detour(const Op& op) {
  detours_.clear();
  for (const Touched& w : now_.touched) {
    if (!op.arguments[w.argument].out || w.in_list) continue;
    const Interned& t = *tensors_.find(w.tensor);
    if (t.tensor.is_contiguous() && t.has_elements()) continue;
    at::Tensor fresh = at::empty({0}, t.tensor.options());
    now_.stack[w.argument] = fresh;
    detours_.push_back({w.tensor, w.argument, fresh});
  }
}

// Memory that the kernel's allocations may take directly.
void Executor::slots(const Op& op) {
  slots_.clear();
  if (!placement_ || op.rewrite) return;
  for (const Output& o : now_.outputs) {
    const Interned& t = *tensors_.find(o.tensor);
    if (t.has_elements() && t.offset == 0 && !t.flags && t.high - t.low == t.storage_bytes && t.dense())
      slots_.push_back({reinterpret_cast<void*>(t.address), t.storage_bytes, false});
  }
}

void Executor::prepare(const Op& op) {
  if (bool on = now_.flags & wire::op::kDeterministic; on != deterministic_)
    at::globalContext().setDeterministicAlgorithms(deterministic_ = on, true);
  if (bool on = now_.flags & wire::op::kFillUninitialised; on != fill_) at::globalContext().setDeterministicFillUninitializedMemory(fill_ = on);
  if (now_.flags & wire::op::kHasGenerator) seed_generator(now_.generator.seed, now_.generator.offset);
  if (op.writes) detour(op);
  else detours_.clear();
}

void Executor::kernel(const Op& op, Stack& stack) {
  static const c10::DispatchKeySet kCpu(c10::DispatchKey::CPU);
  if (op.rewrite) {
    const void* first = nullptr;
    if (!now_.outputs.empty() && now_.outputs[0].index == 0) first = tensors_.find(now_.outputs[0].tensor)->tensor.const_data_ptr();
    Call c{op, stack, now_.generator, recurrent_, {host_.multiprocessors, host_.threads_per_multiprocessor}, first};
    op.rewrite(c);
  } else if (now_.special) {
    op.handle.callBoxed(&stack);
  } else {
    op.handle.redispatchBoxed(kCpu, &stack);
  }
}

// Runs the kernel; where the CPU has it for float32 only, once more in float32 from freshly decoded arguments.
void Executor::compute(Op& op, const OpHead& head, std::span<const std::byte> body, bool query) {
  if (now_.reduced) unmix_types(op, now_.stack);
  auto wide = [&] { in_float32(op, now_.stack, query, [&](Stack& s) { kernel(op, s); }); };
  if (now_.reduced && (op.norm != Norm::none || (op.float32_for & now_.reduced))) return wide();
  try {
    Placement placed(query ? nullptr : &slots_);
    return kernel(op, now_.stack);
  } catch (const c10::Error& e) {
    if (!now_.reduced || !lacks_reduced_precision(e.what_without_backtrace())) throw;
  }
  uint8_t dtypes = now_.reduced;
  decoder_.decode(op, head, body, now_);
  prepare(op);
  wide();
  op.float32_for |= dtypes;
}

// Results into the client's memory. A result may sit in another output's slot (two outputs of one size) or be a view of an argument: such ones
// are moved out of the way before anything is copied.
void Executor::finish(const Op& op) {
  results_.clear();
  for (size_t i = 0; i < now_.outputs.size();) {
    const Output& o = now_.outputs[i];
    const c10::IValue& v = now_.stack[o.index];
    if (!o.in_list) {
      results_.push_back(v.isTensor() ? v.toTensor() : at::Tensor());
      i++;
      continue;
    }
    auto list = v.isTensorList() ? v.toTensorVector() : std::vector<at::Tensor>();
    for (; i < now_.outputs.size() && now_.outputs[i].index == o.index; i++)
      results_.push_back(now_.outputs[i].element < list.size() ? list[now_.outputs[i].element] : at::Tensor());
  }
  uint64_t low = host_.range_address, high = low + host_.range_size;
  for (size_t i = 0; i < results_.size(); i++) {
    at::Tensor& r = results_[i];
    if (!r.defined() || !r.has_storage() || in_place(*tensors_.find(now_.outputs[i].tensor), r)) continue;
    auto address = reinterpret_cast<uint64_t>(r.const_data_ptr());
    if (address >= low && address < high) r = r.clone();
  }
  for (size_t i = 0; i < results_.size(); i++)
    if (results_[i].defined()) place(*tensors_.find(now_.outputs[i].tensor), results_[i], op.base.c_str());
  results_.clear();
}

// Written arguments are where they belong, unless the kernel resized them.
void Executor::finish_written(const Op& op) {
  for (const Detour& d : detours_) place(*tensors_.find(d.tensor), d.result, op.base.c_str());
  for (const Touched& w : now_.touched) {
    const Argument& a = op.arguments[w.argument];
    if (!a.written || (w.in_list && !a.out)) continue;
    Interned& t = *tensors_.find(w.tensor);
    if (!tensors_.moved(t)) continue;
    at::Tensor resized = std::move(t.tensor);
    TensorTable::rebuild(t);
    place(t, resized, op.base.c_str());
  }
}

Failure Executor::run(std::span<const std::byte> payload, bool query) {
  if (payload.size() < sizeof(OpHead)) return malformed("op record is too short");
  OpHead head;
  std::memcpy(&head, payload.data(), sizeof head);
  auto body = payload.subspan(sizeof head);
  if (head.op >= ops_.size()) return malformed("op record with an undefined op id");
  OpSlot& slot = ops_[head.op];
  if (!slot.op) return refuse(slot, head);
  Op& op = *slot.op;
  c10::InferenceMode no_autograd;
  Failure f;
  try {
    if (!decoder_.decode(op, head, body, now_)) return decode_failure(slot);
    if (!poison_.empty())
      if (auto origin = poisoned(op)) {
        spoil(op, *origin, origin);
        return *origin;
      }
    prepare(op);
    slots(op);
    compute(op, head, body, query);
    if (op.writes) finish_written(op);
    if (!now_.outputs.empty()) finish(op);
    if (query) reply(op);
    if (!poison_.empty()) heal(op);
  } catch (...) {
    f = fail(failure_in_flight(), slot);
  }
  if (f.code != kSuccess) {
    for (const Touched& w : now_.touched)
      if (Interned& t = *tensors_.find(w.tensor); op.arguments[w.argument].written && tensors_.moved(t)) TensorTable::rebuild(t);
    spoil(op, f, std::make_shared<Failure>(f));
    reply_.clear();
  }
  now_.stack.clear();
  detours_.clear();
  return f;
}

}  // namespace djinn::aten

// What an op is part of: phase, module, step, by facts alone. Autograd evaluates a node: backward, and the node's number says which module's forward
// made it. Inside of an optimizer's step: optimizer. Inside of a module's call: the step that the outermost call is; what kind of step shows in its
// course (how many queries met how many keys, did keys and values outlive it, what went in) and is told at its end. Nothing that is computed depends
// on any of it. Off with DJINN_MEANING=off.
#pragma once
#include <ATen/core/ivalue.h>

#include <span>

#include "hooks/torch/op.hpp"
#include "semantic/wire/op.hpp"

namespace djinn::hook::meaning {

// Facts are wanted: asked once, at the start.
void start();
bool on();

// Before an op is posted: what it is part of, told to the server when it is new; arguments and results are noted.
struct Told {
  wire::op::OpContext context;  // id 0: none
  uint32_t module;              // number of its path
  uint32_t line;                // of an op of the backward: its forward's; else 0
};
Told note(const Op& op, std::span<const c10::IValue> arguments, std::span<const c10::IValue> results);
// Results that were not there yet.
void made(const Op& op, std::span<const c10::IValue> arguments, std::span<const c10::IValue> results);

// ---- what Python says (hooks/python), in the thread where it happens ----
// A module's call begins or ends; called while the thread's scope still names the outer module, and the inner one.
void enter_module();
void leave_module();
void enter_optimizer();
void leave_optimizer();
// A parameter or buffer of a module, on the device.
void own(c10::StorageImpl* storage);

// Which part an op plays in what is looked for.
Role role_of(const std::string& name);

}  // namespace djinn::hook::meaning

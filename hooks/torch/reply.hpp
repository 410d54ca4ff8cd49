// What a server-first op gave back: the answer of op_query turned into values of the client, its tensors allocated here and filled by op_take. Errors
// of the server become the exceptions that PyTorch itself would have raised. Mirror: server/execute/cpu/aten/query.cpp.
#pragma once
#include <ATen/ATen.h>

#include <vector>

#include "hooks/torch/encode.hpp"
#include "hooks/torch/op.hpp"

namespace djinn::hook {

// Sends the encoded op and waits. Results that alias an argument are that argument; out= arguments (given in `arguments`) are resized and filled.
std::vector<c10::IValue> query(const Op& op, const Encoder& encoder, const std::vector<c10::IValue>& arguments, c10::Device device);

// "IndexError: text" → c10::IndexError{op: text} and so on.
[[noreturn]] void raise(const std::string& text);

}  // namespace djinn::hook

// Which ops this executor runs, and what it knows about each. The list goes to the client at open; an op that is not on it is refused by name,
// whatever the client sends.
#pragma once
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include <string>
#include <string_view>
#include <vector>

namespace djinn::aten {

using Stack = torch::jit::Stack;

// What the schema wants in one place of the stack; the decoder refuses anything else, so that no kernel ever unboxes a wrong value.
enum class Kind : uint8_t {
  tensor,
  integer,
  real,
  boolean,
  complex,
  number,
  string,
  device,
  generator,
  tensors,
  optional_tensors,
  integers,
  reals,
  booleans,
  numbers,
  strings,
};

struct Argument {
  Kind kind;
  bool optional;
  bool written;  // in place or out=
  bool out;      // out= alone: never read
};
struct Return {
  Kind kind;
  int alias;  // index of the written argument that it is, or -1
};

struct Call;  // rewrite.hpp
using Rewrite = void (*)(Call&);

// R8: which results of a norm keep float32 when its input has reduced precision.
enum class Norm : uint8_t { none, forward, backward };

struct Op {
  c10::OperatorHandle handle;
  std::string name;  // "aten::add.Tensor"
  std::string base;  // "aten::add": what errors say
  std::vector<Argument> arguments;
  std::vector<Return> returns;
  Rewrite rewrite = nullptr;
  Norm norm = Norm::none;
  int half_to_float = -1;   // argument of CUDA's softmax: read half, write float
  int input_dtype = -1;     // argument of its backward: read float, write half
  bool overwrites = false;  // in place, but never reads the old contents (zero_, copy_ …)
  bool writes = false;      // some argument is written
  uint8_t float32_for = 0;  // dtypes (reduced.hpp) that turned out to need float32
};

// Loads further libraries, then computes the list. Call once. Empty text: success.
std::string load_ops(const char* op_library);
// Sorted names.
const std::vector<const char*>& op_names();
// Null when the name is not on the list; `reason` then says why in one sentence.
Op* find_op(std::string_view name, std::string_view overload, std::string& reason);

// What op_call may run under a name: all overloads of "aten::add", or the one that "aten::add.Tensor" names. Empty: `reason` says why.
std::vector<Op*> find_overloads(const std::string& name, std::string& reason);

}  // namespace djinn::aten

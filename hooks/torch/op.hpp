// What is known of one wrapped operator: the facts of its schema, and how its scope begins. Made once, at registration (classify.cpp).
#pragma once
#include <ATen/core/dispatch/Dispatcher.h>

#include <atomic>
#include <string>
#include <vector>

#include "hooks/torch/shape_cache.hpp"

namespace djinn::hook {

enum class Mode : uint8_t {
  client_first,  // run the original kernel inside a scope; if it wants a device value, redo
  meta_first,    // never run the original (Python kernels): shapes from the Meta kernel
  server_first,  // outputs depend on data: the server runs it, shapes come back
};

// What an op is to whoever wants to know what a program is doing (meaning.cpp).
enum class Role : uint8_t { none, attention, projection, product, softmax, convolution, moves };

struct Op {
  uint32_t id = 0;
  std::string name, overload;
  Mode mode = Mode::client_first;
  size_t arguments = 0, returns = 0;
  std::vector<uint8_t> writes;  // per argument
  std::vector<uint8_t> out;     // per argument: an out= argument
  std::vector<int> alias;       // per return: the argument that it is, or -1
  bool has_writes = false;      // of an argument
  bool has_effect = false;      // writes, or returns a tensor
  bool random = false;          // draws from a generator
  bool may_alert = false;       // its kernel knows whether it is deterministic, though the server goes first
  bool convolves = false;       // Meta tensors do not tell the memory format of the result
  bool copies = false;          // aten::copy_: transfers between host and device pass through
  int off_switch = -1;          // argument (dropout_p) that turns the randomness off when it is 0
  bool cacheable = false;
  Role role = Role::none;
  std::atomic<bool> defined{false};
  ShapeCache cache;

  std::string full_name() const { return overload.empty() ? name : name + "." + overload; }
};

}  // namespace djinn::hook

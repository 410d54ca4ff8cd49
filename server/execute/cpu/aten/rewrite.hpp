// R6: ops that only CUDA has, said in ops that the CPU has. A rewrite takes the arguments from the stack and leaves the returns on it.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string_view>
#include <unordered_map>

#include "semantic/wire/op.hpp"
#include "server/execute/cpu/aten/ops.hpp"
#include "server/execute/cpu/aten/philox.hpp"

namespace djinn::aten {

// The dropout seed of each RNN forward, under the address of its output: cuDNN keeps it in a reserve whose size only cuDNN knows, so the client may
// have allocated none.
class RecurrentSeeds {
 public:
  void put(const void* output, uint64_t seed);
  // A server-first forward's output moves to where the client wants it.
  void rename(const void* from, const void* to);
  uint64_t get(const void* output) const;  // throws Unsupported when the forward is forgotten

 private:
  std::unordered_map<const void*, uint64_t> seeds_;
  std::deque<const void*> order_;
};

struct Call {
  const Op& op;
  Stack& stack;
  wire::op::Generator generator;
  RecurrentSeeds& recurrent;
  DeviceShape device;
  const void* result_address;  // of the first return in the client's memory, null when the server goes first

  const at::Tensor& tensor(size_t i) const { return stack[i].toTensor(); }
  // Undefined for None.
  at::Tensor optional(size_t i) const { return stack[i].isTensor() ? stack[i].toTensor() : at::Tensor(); }
  std::optional<at::Tensor> maybe(size_t i) const {
    return stack[i].isTensor() && stack[i].toTensor().defined() ? std::optional(stack[i].toTensor()) : std::nullopt;
  }
  std::optional<double> real(size_t i) const { return stack[i].isDouble() ? std::optional(stack[i].toDouble()) : std::nullopt; }
  void returns(std::initializer_list<c10::IValue> values) { stack.assign(values); }
};

// Null when the op runs as it is.
Rewrite find_rewrite(std::string_view name);

// The families, each in a file of its own.
struct RewriteRule {
  std::string_view name;
  Rewrite rewrite;
};
std::span<const RewriteRule> attention_rules();
std::span<const RewriteRule> int4_rules();
std::span<const RewriteRule> norm_rules();
std::span<const RewriteRule> random_rules();
std::span<const RewriteRule> recurrent_rules();

}  // namespace djinn::aten

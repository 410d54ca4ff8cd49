// An op record as the graph sees it: which tensors it names where, and what it is part of. The values are walked over, not understood: whether they
// fit the schema is the executor's business (server/execute/cpu/aten/decode), who has refused what does not. Every word is foreign all the same.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "semantic/wire/op.hpp"

namespace djinn::graph {

class OpRecord {
 public:
  struct Named {
    uint32_t argument;  // or which return; its number in the schema
    uint32_t tensor;    // id of a tensor_define; of an alias: the argument that it is
    bool alias = false;
  };

  // False: not the words of an op. Reused from op to op: in the steady state nothing is allocated.
  bool read(std::span<const std::byte> payload);

  wire::op::OpHead head{};
  wire::op::OpContext context{};  // {0, 0} when it says none
  std::vector<Named> arguments, outputs;
  uint64_t true_arguments = 0;  // bit i: argument i is the boolean true
};

}  // namespace djinn::graph

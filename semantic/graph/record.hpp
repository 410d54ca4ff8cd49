// An op record as the graph sees it: which tensors it names where, and what it is part of. The values are walked over, not understood: whether they
// fit the schema is the executor's business (server/execute/cpu/aten/decode), who has refused what does not. Every word is foreign all the same.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "semantic/graph/cost.hpp"
#include "semantic/wire/op.hpp"

namespace djinn::graph {

class OpRecord {
 public:
  struct Named {
    uint32_t argument;  // or which return; its number in the schema
    uint32_t tensor;    // id of a tensor_define; of an alias: the argument that it is
    bool alias = false;
  };

  struct Result {
    uint32_t index;  // which return
    Shape shape;
  };

  // False: not the words of an op. Reused from op to op: in the steady state nothing is allocated.
  bool read(std::span<const std::byte> payload);
  // The same of an op_call; values by keyword are numbered after those by position. The name is a view into the payload.
  bool read_call(std::span<const std::byte> payload, std::string_view& name);
  // What came out of it, as op_query and op_call are answered: aliases into `outputs`, new tensors into `results`. The number of the stash that they
  // wait in (0: nothing waits). Ends at what it does not know: a composite tensor, a string.
  uint64_t read_answer(std::span<const std::byte> reply);

  wire::op::OpHead head{};
  wire::op::OpContext context{};  // {0, 0} when it says none
  std::vector<Named> arguments, outputs;
  std::vector<Result> results;
  uint64_t true_arguments = 0;  // bit i: argument i is the boolean true
  bool out_given = false;       // of a call: by the keyword `out`

 private:
  void clear();
};

}  // namespace djinn::graph

// One session's executor: takes records in ticket order, keeps tables, runs ops. executor.cpp has the tables and the C interface, run.cpp the ops,
// query.cpp the server-first ones, call.cpp those called by name, graph.cpp those of CUDA graphs.
#pragma once
#include <map>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "semantic/abi/executor.h"
#include "semantic/wire/codec.hpp"
#include "server/execute/cpu/aten/decode.hpp"
#include "server/execute/cpu/aten/failure.hpp"
#include "server/execute/cpu/aten/ops.hpp"
#include "server/execute/cpu/aten/poison.hpp"
#include "server/execute/cpu/aten/pool.hpp"
#include "server/execute/cpu/aten/rewrite.hpp"
#include "server/execute/cpu/aten/tensors.hpp"

namespace djinn::aten {

class Executor {
 public:
  Executor(const djinn_executor_host& host, int threads);
  ~Executor();
  void execute(uint32_t opcode, std::span<const std::byte> payload, djinn_executor_result& result);
  // One record of whole words; `work` may throw.
  template <class Work>
  void guarded(std::span<const std::byte> payload, djinn_executor_result& result, Work&& work);
  Failure graph_add(uint64_t graph, std::span<const std::byte> payload);
  Failure graph_run(uint64_t graph, uint64_t index);
  void graph_drop(uint64_t graph);
  void set_threads(int threads) { threads_ = threads; }

 private:
  struct OpSlot {
    Op* op = nullptr;  // null: undefined, or refused with the reason below
    std::string name, reason;
  };
  struct Stash {
    std::vector<at::Tensor> tensors;
    uint64_t bytes = 0;
  };
  // out= arguments that get fresh memory for the run, because CPU kernels go wrong on non-contiguous ones.
  struct Detour {
    uint32_t tensor;
    size_t argument;
    at::Tensor result;
  };

  // graph.cpp
  struct Graph {
    std::vector<std::vector<uint64_t>> ops;  // op_run records that name tensors of the next
    TensorTable::Slots tensors;
    std::unordered_map<uint32_t, uint32_t> ids;  // the session's id at the time → ours
  };
  bool adopt(Graph& g, uint32_t& id);

  Failure dispatch(uint32_t opcode, std::span<const std::byte> payload);
  Failure define(std::span<const std::byte> payload);
  Failure malformed(const char* why) const;
  Failure fail(Failure f, const OpSlot& slot) const;

  // run.cpp
  Failure run(std::span<const std::byte> payload, bool query);
  Failure refuse(const OpSlot& slot, const wire::op::OpHead& head) const;
  Failure decode_failure(const OpSlot& slot) const;
  std::shared_ptr<Failure> poisoned(const Op& op);
  void prepare(const Op& op);
  void detour(const Op& op);
  void slots(const Op& op);
  void compute(Op& op, const wire::op::OpHead& head, std::span<const std::byte> body, bool query);
  void kernel(const Op& op, Stack& stack);
  void finish(const Op& op);
  void finish_written(const Op& op);
  void heal(const Op& op);
  void spoil(const Op& op, const Failure& why, const std::shared_ptr<Failure>& origin);
  // call.cpp
  Failure call(std::span<const std::byte> payload);
  Failure answer(const Given& given);
  void compute_as_is(const Op& op, const Stack& arguments);
  void restore_touched();
  // query.cpp
  // `place`, of an op called by name: number of a given value → its argument; aliases are told by the former.
  void reply(const Op& op, std::span<const uint16_t> place = {});
  void put_value(const c10::IValue& v, Stash& stash);
  void put_tensor(const at::Tensor& t, Stash& stash);
  void put_host(const at::Tensor& t);
  int written_argument(const Op& op, size_t index) const;
  Failure take(std::span<const std::byte> payload);
  Failure drop(std::span<const std::byte> payload);

  djinn_executor_host host_;
  TensorTable tensors_;
  HostScalars scalars_;
  Decoder decoder_;
  Poison poison_;
  RecurrentSeeds recurrent_;
  std::vector<OpSlot> ops_;
  Decoded now_;  // of the op that runs; its vectors keep their memory
  std::vector<Slot> slots_;
  std::vector<Detour> detours_;
  std::vector<at::Tensor> results_;  // per output of now_, while it is placed
  std::map<uint64_t, Graph> graphs_;
  size_t graph_tensors_ = 0;  // of all of them
  std::map<uint64_t, Stash> stashes_;
  uint64_t stash_next_ = 1, stash_bytes_ = 0;
  std::vector<std::byte> reply_;
  std::vector<uint64_t> aligned_;  // a payload that arrived unaligned
  std::string operation_, text_;   // of the last result
  int threads_, threads_applied_ = 0;
  bool deterministic_ = false, fill_ = false;
  bool placement_ = true;
};

}  // namespace djinn::aten

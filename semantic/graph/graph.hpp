// The rolling, semantically rich graph of one session: what its ops did, by op, module, phase and label (nodes), and which of them made what others
// read (edges). It is fed with the records that the worker executes, by one thread; nothing that is computed depends on it. A forward step (the
// outermost call of a module) says what it was when it is over, so what its ops did is kept aside until then. Everything is bounded (below,
// tensors.hpp and wire/limits.hpp): ops and edges that find no place are counted, places and names that find none are empty. In the steady state
// nothing is allocated, but for ops that are called by name.
#pragma once
#include <array>
#include <deque>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "semantic/graph/record.hpp"
#include "semantic/graph/tensors.hpp"
#include "semantic/wire/control.hpp"
#include "semantic/wire/limits.hpp"

namespace djinn::graph {

// Forward steps that are open at one time: one per thread that calls modules. The oldest is taken for plain forward when there are more.
constexpr size_t kOpenStepsMax = 8;
// Ops of a step that are kept aside (and as many reads as they have, up to four times as many): the forward of the largest models has some ten
// thousand. A step that is longer is plain forward.
constexpr size_t kStepOpsMax = 1 << 15;
constexpr size_t kStepReadsMax = 4 * kStepOpsMax;
// Steps that are over whose phase is remembered, for what reads their tensors later and for ops that arrive late.
constexpr size_t kClosedStepsMax = 1 << 12;
// Module paths and labels, each pair once: text, and what is kept of a name. Beyond it contexts have no module.
constexpr size_t kPlaceTextMax = 32u << 20;
constexpr size_t kOpNameMax = 256;
// Tensors that the ops of CUDA graphs name (24 MiB). The launches of an op beyond it are left out.
constexpr size_t kKeptTensorsMax = 1u << 20;
// Answers whose results wait to be taken and whose op is remembered; as many as an executor lets wait at one time, so that only one that has waited
// for that many others may lose its op.
constexpr size_t kWaitingMax = 1024;

class SemanticGraph {
 public:
  SemanticGraph();

  // ---- records of the wire; false when malformed, and then nothing has changed ----
  bool define_op(std::span<const std::byte> payload);
  bool define_tensor(std::span<const std::byte> payload) { return tensors_.define(payload); }
  bool forget_tensors(std::span<const std::byte> payload) { return tensors_.forget(payload); }
  enum class Ran : uint8_t { run, query, call };  // op_run, op_query, op_call
  // `reply`: the executor's, of what is answered.
  bool ran(Ran how, std::span<const std::byte> payload, std::span<const std::byte> reply, uint64_t nanoseconds);
  bool took(std::span<const std::byte> payload);  // op_take: a result that waited has its place
  bool context(std::span<const std::byte> payload);
  bool step(std::span<const std::byte> payload);
  bool residency(std::span<const std::byte> payload);
  bool memory(std::span<const std::byte> payload);
  bool name(std::span<const std::byte> payload);
  // Call level (meaning_op): the calls from here on are an op's, and how long one of them took. The op counts when the next begins.
  bool calls_of(std::span<const std::byte> payload);
  void called(uint64_t nanoseconds);
  // Rows from the host have been written to the address.
  void uploaded(uint64_t address);

  // ---- CUDA graphs: an op that is kept (they count from 0, also those that are not understood), and each time it runs ----
  bool keep(uint64_t graph, std::span<const std::byte> payload);
  void ran_kept(uint64_t graph, uint64_t index, uint64_t nanoseconds);
  void drop(uint64_t graph);

  // The session is over: so are its steps.
  void finish();
  // An open forward step is in the numbers when it is over; as the current phase it is what the step before it was.
  wire::control::Meaning meaning() const;
  // The nodes that took longest and the edges that carried most, as many as a control message holds.
  wire::control::Graph snapshot(uint64_t session) const;

 private:
  static constexpr uint32_t kNone = ~0u;
  static constexpr size_t kPhases = kExecutionPhases.size(), kResidencies = kDataResidencies.size();

  struct Op {
    uint32_t name = 0;  // in names_
    Cost cost = Cost::elements;
    uint32_t written = 0;     // arguments that it writes and does not return
    bool overwrites = false;  // of what it writes it reads nothing
  };
  struct Place {
    std::string module, label;
  };
  struct Context {
    uint32_t place = 0;
    ExecutionPhase phase = ExecutionPhase::other;
    bool given = false;
  };
  // One op that ran, or the results of one that were placed later (count 0); its reads follow those of the op before it.
  struct Event {
    Site site = 0;
    uint64_t nanoseconds = 0, flops = 0, written = 0;
    uint32_t count = 0, reads = 0;
  };
  struct Read {
    Site writer = 0;
    uint64_t bytes = 0, lifetime = 0;
    Moment when;
    DataResidency residency = DataResidency::other;
  };
  struct Step {
    uint32_t number = 0;  // 0: free
    uint64_t opened = 0;
    std::vector<Event> events;
    std::vector<Read> reads;
  };
  struct Closed {
    uint32_t number = 0;
    ExecutionPhase phase = ExecutionPhase::forward;
  };
  struct Node {
    uint64_t key = 0;  // Site and phase
    uint64_t count = 0, nanoseconds = 0, flops = 0, written = 0;
    std::array<uint64_t, kResidencies> read{};
  };
  struct Edge {
    uint64_t key = 0;  // both nodes
    uint64_t count = 0, bytes = 0, lifetime = 0;
    DataResidency residency = DataResidency::other;
  };
  // An op as it runs, told from its record.
  struct Touch {
    uint64_t address, bytes;
    enum Kind : uint8_t { read, write, fresh } kind;  // fresh: a storage that this op is the first to write
  };
  struct Told {
    Site site = 0;
    Moment when;
    bool context = false;  // it says what it is part of
    uint64_t flops = 0, written = 0;
    uint32_t touches = 0;
  };
  struct Kept {
    std::vector<Told> ops;
    std::vector<Touch> touches;
    std::vector<size_t> first;  // touch of each op
  };
  // Open addressing over a vector of things with a key: key → index. Never full, nothing is removed.
  class Index {
   public:
    explicit Index(size_t slots) : slots_(slots, Slot{0, kNone}) {}
    uint32_t& of(uint64_t key);

   private:
    struct Slot {
      uint64_t key;
      uint32_t index;
    };
    std::vector<Slot> slots_;
  };

  static uint64_t node_key(Site site, ExecutionPhase phase) { return site << 3 | static_cast<uint64_t>(phase); }
  static std::string_view op_of(const std::vector<std::string>& names, uint64_t key) { return names[(key >> 3) & 0xffff]; }
  static uint32_t place_of(uint64_t key) { return static_cast<uint32_t>((key >> 19) & (wire::kContextsMax - 1)); }

  Op op_named(std::string name, std::string_view overload);
  uint32_t place(std::string_view module, std::string_view label);
  const Op& recorded_op() const;
  Told tell(const Op& op);
  void list_output_shapes(const Op& op);
  uint32_t written_by(const Op& op) const;
  uint64_t part_of_table(const Op& op, uint32_t written) const;
  uint64_t flops_of(const Op& op) const;
  const Tensor* argument(uint32_t index) const;
  void touch(const Tensor& t, Touch::Kind kind, Told& told, uint64_t elements_max = ~0ull);
  void record(const Told& told, std::span<const Touch> touches, uint64_t nanoseconds);
  void note(const Told& told);
  void add(const Event& event, std::span<const Read> reads, Moment when);
  bool is_open(Moment when) const;
  Read read_of(const Touch& t);
  void write_to(const Told& told, const Touch& t);
  void close_calls();
  Context context_of(uint32_t id) const { return id < contexts_.size() ? contexts_[id] : Context{}; }
  Step* open_step(uint32_t number);
  void close_step(Step& step, ExecutionPhase phase);
  void commit(const Event& event, std::span<const Read> reads, Moment when);
  ExecutionPhase phase_of(Moment when) const;
  uint32_t node(uint64_t key);
  void add_edge(uint32_t from, uint32_t to, const Read& read);

  std::vector<Op> ops_;
  std::vector<std::string> names_;
  std::unordered_map<std::string, uint32_t> name_index_;
  std::deque<Place> places_;
  std::unordered_map<std::string, uint32_t> place_index_;
  size_t place_text_ = 0;
  std::vector<Context> contexts_;
  Tensors tensors_;
  Storages storages_;
  std::array<Step, kOpenStepsMax> steps_;
  size_t latest_step_ = 0;
  std::vector<Closed> closed_;
  uint64_t clock_ = 0;  // ops

  std::vector<Node> nodes_;
  std::vector<Edge> edges_;
  Index node_index_, edge_index_;
  uint64_t nodes_left_out_ = 0, edges_left_out_ = 0;

  std::unordered_map<uint64_t, Kept> kept_;  // by CUDA graph
  size_t kept_tensors_ = 0;

  std::string name_;
  Moment now_;
  uint32_t now_place_ = 0;
  ExecutionPhase expected_ = ExecutionPhase::forward;  // of an open step
  std::array<uint64_t, kPhases> steps_over_{}, ops_run_{}, nanoseconds_{};
  std::array<uint64_t, kResidencies> memory_{};

  // of the op at hand
  OpRecord record_;
  std::vector<Touch> touches_;
  std::vector<Read> reads_;
  std::vector<const Shape*> output_shapes_;
  std::vector<std::pair<uint64_t, Told>> waiting_;  // by the number of its stash, modulo kWaitingMax
  Told calls_;
  uint64_t calls_nanoseconds_ = 0;
};

}  // namespace djinn::graph

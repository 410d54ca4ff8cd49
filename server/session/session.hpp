// One client's session in its worker: handles, lease, latched errors, and the loop that executes records in ticket order. It owns no thread and no
// socket: the worker calls execute() on the executor thread and gives it a way to send. server/decode/*.cpp are its vocabulary, one function a
// command.
#pragma once
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "semantic/wire/control.hpp"
#include "semantic/wire/devices.hpp"
#include "server/execute/check/check.hpp"
#include "server/execute/device.hpp"
#include "server/session/channel.hpp"
#include "server/session/door.hpp"
#include "server/session/meaning.hpp"
#include "server/session/report.hpp"

namespace djinn::server {

// Handles of one session: a client that leaks more has its next creation refused rather than its worker's memory exhausted.
constexpr size_t kStreamsMax = 1 << 16;
constexpr size_t kEventsMax = 1 << 20;
constexpr size_t kModulesMax = 1 << 14;
constexpr size_t kKernelsMax = 1 << 20;

// Counted by the executor thread, read by others.
struct Counts {
  std::atomic<uint64_t> frames{0}, bytes{0}, commands{0}, ops{0}, calls{0}, launches_validated{0}, violations{0}, launches_refused{0}, errors{0},
      memory_bytes{0}, memory_peak{0}, execute_nanoseconds{0};
  void read(wire::control::Counters& into) const;
};

// One record, as the decoders see it.
struct Command {
  uint64_t ticket;
  wire::RecordHeader head;
  std::span<const std::byte> payload;
  std::span<const std::span<const std::byte>> bulk;
};

struct Module {
  std::vector<std::byte> image;  // kept for --check only; the CPU device has no other use for it
  std::unordered_set<uint64_t> kernels;
};
struct Kernel {
  uint64_t module = 0;
  std::string name;
  uint32_t param_bytes = 0;  // as the cubin says; --check only
  std::string problem;       // why it says nothing; --check only
};

// What a capturing stream was given (decode/graph.cpp).
struct Graph {
  struct Kept {
    uint32_t opcode, size;
    size_t at;  // of its payload in `bytes`
  };
  std::vector<Kept> commands;
  std::vector<std::byte> bytes;
  uint64_t ops = 0;               // of the commands
  uint64_t size = 0;              // payload bytes that it was given
  std::optional<Failure> broken;  // why a command could not be kept
};

class Session {
 public:
  struct Setup {
    wire::control::Opened opened;
    wire::control::Counters who;
    Device* device = nullptr;
    const djinn_executor* executor = nullptr;  // null: no op level
    std::string no_executor;                   // why
    Report::Send send;
    // A question to the broker and the kind of its answer; blocks; nothing when nobody answers.
    std::function<std::optional<ChannelMessage>(const ChannelMessage& question, ChannelKind answer)> ask_broker;
    // Commands that have arrived and not been executed; may be empty.
    std::function<uint64_t()> queued;
  };
  explicit Session(Setup setup);
  ~Session();

  // Executes what has not been executed before. False when the session is over; `ended` says why, in words for the client.
  bool execute(Batch& batch);
  const std::string& ended() const { return ended_; }
  void set_threads(unsigned n);
  const Counts& counts() const { return counts_; }
  // For so long commands have been executed, those of the batch at hand included; and so long ago the session was opened.
  uint64_t busy_nanoseconds() const;
  uint64_t open_nanoseconds() const;

  // ---- for the decoders ----
  Device& device() { return *setup_.device; }
  Report& report() { return report_; }
  Counts& counts() { return counts_; }
  const wire::control::Opened& opened() const { return setup_.opened; }
  // --check without ops: every call is validated and none computed; what comes back is zeros.
  bool blind() const { return setup_.opened.checks && setup_.opened.level == wire::control::Level::call; }
  check::ScopeCheck& scope_check() { return scope_check_; }
  const wire::DeviceRanges& ranges() const { return ranges_; }
  // What the session holds of one of its devices: the right to so many bytes, and how many are mapped.
  struct Holding {
    uint64_t lease = 0, mapped = 0;
  };
  const Holding& holding(size_t device) const { return holdings_[device]; }
  uint64_t change_lease(size_t device, uint64_t wanted);
  std::optional<ChannelMessage> ask_broker(const ChannelMessage& question, ChannelKind answer) { return setup_.ask_broker(question, answer); }
  // So many bytes of the device have been mapped, or unmapped when negative.
  void memory_changed(size_t device, int64_t bytes);
  wire::control::Counters counters() const;
  Meaning& meaning() { return meaning_; }
  // Makes room for `bytes` of bulk: waits for the network while a client's unread data is more than it may be.
  void await_bulk_room();
  // The reply to the command at hand, if it is a call; what a decoder leaves empty is an empty reply.
  std::vector<std::byte> answer;
  std::vector<djinn_part> answer_bulk;

  std::unordered_set<uint64_t> streams{0};        // 0 is the default stream
  std::unordered_map<uint64_t, uint64_t> events;  // id → nanoseconds of the last record
  std::unordered_map<uint64_t, Module> modules;
  std::unordered_map<uint64_t, Kernel> kernels;
  uint64_t image_bytes = 0;  // kept in modules
  // A graph's commands run in the stream that it is launched on.
  bool known_stream(uint64_t id) const { return in_graph_ || streams.count(id) != 0; }
  Failure run_op(const Command& c);

  // ---- graphs ----
  std::unordered_map<uint64_t, Graph> graphs;
  uint64_t graph_bytes = 0;  // of all of them
  // While it lives, the commands at hand are a graph's: to be checked and not executed, or executed again.
  class InGraph {
   public:
    enum Kind : uint8_t { adding, launching };
    InGraph(Session& s, Kind kind, uint64_t graph) : kind(kind), graph(graph), session_(s) { s.in_graph_ = this; }
    ~InGraph() { session_.in_graph_ = nullptr; }
    InGraph(const InGraph&) = delete;
    InGraph& operator=(const InGraph&) = delete;
    const Kind kind;
    const uint64_t graph;

   private:
    Session& session_;
  };
  bool adding() const { return in_graph_ && in_graph_->kind == InGraph::adding; }
  bool launching() const { return in_graph_ && in_graph_->kind == InGraph::launching; }
  void drop_graph_ops(uint64_t graph);
  // A long graph may report much.
  void make_report_room() {
    if (report_.full()) flush_report();
  }
  // From the next command on.
  void time_work(bool on) { timing_ = on; }

 private:
  bool step(const Command& c);
  Failure dispatch(const Command& c);
  void conclude(const Command& c, Failure f);
  void open_executor();
  // Everything that has been executed, and when.
  void flush_report();

  Setup setup_;
  Report report_;
  Counts counts_;
  Meaning meaning_;
  check::ScopeCheck scope_check_;
  wire::DeviceRanges ranges_;
  std::vector<Holding> holdings_;  // per device
  uint64_t executed_ = 0;
  std::chrono::steady_clock::time_point opened_at_ = std::chrono::steady_clock::now(), batch_begun_ = opened_at_;
  bool timing_ = false;
  std::vector<wire::Timing> timings_;
  std::optional<Failure> sticky_;
  std::string ended_;
  djinn_executor_host host_{};
  void* executor_ = nullptr;
  const InGraph* in_graph_ = nullptr;
};

}  // namespace djinn::server

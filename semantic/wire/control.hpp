// The control plane: opening a session and asking for statistics, between a client's link and the broker. Small, rare and versioned, so it is
// written with cereal, through an archive of ours over the bounded Reader (stock archives allocate what eight hostile bytes tell them to).
// One ZeroMQ message: ControlHeader, then the cereal body.
#pragma once
#include <array>
#include <cereal/cereal.hpp>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "semantic/wire/codec.hpp"
#include "semantic/wire/limits.hpp"

namespace djinn::wire::control {

constexpr uint32_t kControlMagic = 0x434e4a44;  // "DJNC"
enum class Kind : uint16_t { open = 1, opened = 2, refused = 3, stats = 4, stats_reply = 5, graph = 6, graph_reply = 7 };
struct ControlHeader {
  uint32_t magic = kControlMagic;
  uint16_t version = 1;  // = wire::kVersion; a server answers any version with `refused` in words
  Kind kind = Kind::open;
};
static_assert(sizeof(ControlHeader) == 8);

enum class Level : uint8_t { automatic = 0, call = 1, op = 2 };

// Open::torch of a client that calls ops by name: it has no libtorch whose version would have to be matched.
constexpr const char* kAnyTorch = "any";

struct Range {
  uint64_t address = 0, size = 0;
  template <class A>
  void serialize(A& a) {
    a(address, size);
  }
};
struct Open {
  std::string host, program;  // whom the session belongs to, for ps and logs
  uint32_t pid = 0, uid = 0;
  std::string torch;            // "2.14.1+cu130" when libtorch is in the process, "any" when ops are called by name (op_call), else empty
  std::string torch_directory;  // for a local server that takes its client's libtorch; ignored by others
  Level level = Level::automatic;
  std::vector<Range> ranges;  // reserved by the client, in order of preference
  template <class A>
  void serialize(A& a) {
    a(host, program, pid, uid, torch, torch_directory, level, ranges);
  }
};
// What a device of the session is, in the numbers that cudaGetDeviceProperties reports. The client's shadow answers from it.
struct Device {
  std::string name;
  uint64_t total_memory = 0, lease_bytes = 0;  // the lease that the session begins with
  uint32_t major = 0, minor = 0, multiprocessors = 0, threads_per_multiprocessor = 0, clock_khz = 0, l2_bytes = 0;
  template <class A>
  void serialize(A& a) {
    a(name, total_memory, lease_bytes, major, minor, multiprocessors, threads_per_multiprocessor, clock_khz, l2_bytes);
  }
};
struct Opened {
  uint64_t session = 0;
  uint32_t incarnation = 1;
  std::array<uint8_t, 16> token{};
  std::string endpoint;             // of the worker, for data
  std::string front_door;           // relays when `endpoint` cannot be reached
  std::vector<uint8_t> server_key;  // empty until authentication exists
  Range range;                      // the devices' reservation: the client maps the same; see devices.hpp
  Level level = Level::call;
  bool checks = false;                             // --check: scoped calls are wanted
  bool computes_kernels = false;                   // false: SASS launches are refused
  std::vector<Device> devices;                     // 1 to kDevicesMax
  std::string server_host, server_version, torch;  // torch: the executor's version
  uint32_t server_pid = 0, worker_pid = 0;
  uint32_t threads = 0;
  std::vector<std::string> ops;  // "aten::add.Tensor": what the op level may send
  template <class A>
  void serialize(A& a) {
    a(session, incarnation, token, endpoint, front_door, server_key, range, level, checks, computes_kernels, devices, server_host, server_version,
      torch, server_pid, worker_pid, threads, ops);
  }
};
struct Refused {
  std::string reason;
  template <class A>
  void serialize(A& a) {
    a(reason);
  }
};
// What a session's program is doing, as its hooks say (semantic/graph); empty where nothing says it.
struct Meaning {
  std::string name;                        // the program's own, of its session
  uint32_t phase = 0;                      // graph::ExecutionPhase of the latest op
  std::string module, label;               // of the latest op that has one
  std::vector<uint64_t> steps;             // by phase: those that are over
  std::vector<uint64_t> ops, nanoseconds;  // by phase
  std::vector<uint64_t> memory;            // bytes of living tensors by graph::DataResidency
  template <class A>
  void serialize(A& a) {
    a(name, phase, module, label, steps, ops, nanoseconds, memory);
  }
};
// Counters of one session, also the reply to the `counters` command (there through the same archive).
struct Counters {
  uint64_t session = 0;
  uint32_t client_pid = 0, worker_pid = 0;
  std::string client_host, program;
  uint64_t frames = 0, bytes = 0, commands = 0, ops = 0, calls = 0, launches_validated = 0, violations = 0, launches_refused = 0, errors = 0;
  uint64_t memory_bytes = 0, memory_peak = 0, execute_nanoseconds = 0;
  uint64_t open_nanoseconds = 0, queued = 0;  // since it was opened; commands that have arrived and not been executed
  Meaning meaning;
  template <class A>
  void serialize(A& a) {
    a(session, client_pid, worker_pid, client_host, program, frames, bytes, commands, ops, calls, launches_validated, violations, launches_refused,
      errors, memory_bytes, memory_peak, execute_nanoseconds, open_nanoseconds, queued, meaning);
  }
};
struct StatsReply {
  std::string version;
  uint32_t pid = 0;
  uint64_t sessions_opened = 0, sessions_ended = 0, refused_opens = 0;
  std::vector<std::string> rejected;  // "bad token: 3", by reason, broker and workers together
  std::vector<Counters> sessions;     // live ones
  Counters ended;                     // sum over ended ones
  uint64_t memory_total = 0, memory_leased = 0;
  template <class A>
  void serialize(A& a) {
    a(version, pid, sessions_opened, sessions_ended, refused_opens, rejected, sessions, ended, memory_total, memory_leased);
  }
};

// The semantically rich graph of one session, summed up over its life: an op of a module in a phase is a node, tensors are edges.
struct GraphWanted {
  uint64_t session = 0;
  template <class A>
  void serialize(A& a) {
    a(session);
  }
};
struct GraphNode {  // in the order in which they first ran
  std::string op, module, label;
  uint32_t phase = 0;  // graph::ExecutionPhase
  uint64_t count = 0, nanoseconds = 0, flops = 0;
  uint64_t bytes_written = 0;
  std::vector<uint64_t> bytes_read;  // by graph::DataResidency
  template <class A>
  void serialize(A& a) {
    a(op, module, label, phase, count, nanoseconds, flops, bytes_written, bytes_read);
  }
};
struct GraphEdge {
  uint32_t from = 0, to = 0;  // indices of nodes: who wrote the tensor, who read it
  uint32_t residency = 0;     // graph::DataResidency, when it was read last
  uint64_t count = 0, bytes = 0;
  uint64_t lifetime_ops = 0;  // ops between writing and reading, summed over `count`
  template <class A>
  void serialize(A& a) {
    a(from, to, residency, count, bytes, lifetime_ops);
  }
};
struct Graph {
  uint64_t session = 0;
  Meaning meaning;
  std::vector<GraphNode> nodes;
  std::vector<GraphEdge> edges;
  uint64_t nodes_left_out = 0, edges_left_out = 0;  // beyond the limits: ops, and reads, that are in no node or edge
  template <class A>
  void serialize(A& a) {
    a(session, meaning, nodes, edges, nodes_left_out, edges_left_out);
  }
};

// encode(kind, body) → message; decode returns nullopt for anything malformed, truncated, oversized or with bytes left over.
template <class T>
std::vector<std::byte> encode(Kind kind, const T& body);
template <class T>
std::optional<T> decode(std::span<const std::byte> message, Kind kind);
// The header alone: nullopt when it is not ours at all.
std::optional<ControlHeader> peek(std::span<const std::byte> message);

}  // namespace djinn::wire::control

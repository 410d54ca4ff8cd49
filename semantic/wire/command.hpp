// The commands that a hand writes on both sides (interpose/encode ↔ server/decode): memory, copies, streams, events, modules, launches, ops.
// Library calls (cuBLAS …) are generated from semantic/api and have opcodes with the top bit set (a CRC of their name, stable across versions).
// Each struct is the fixed part of a payload, laid out for the wire: fixed widths, no padding, a multiple of 8 bytes; what follows it is said
// beside it. Handles are minted by the client and never 0; stream 0 is the legacy default stream.
#pragma once
#include <compare>
#include <cstdint>
#include <type_traits>

#include "semantic/graph/vocabulary.hpp"

namespace djinn::wire {

enum class Opcode : uint32_t {
  // memory: granules of the session's address range come to life and die; a lease is the right to that many bytes
  map_memory = 0x10,    // post MapMemory
  unmap_memory = 0x11,  // post MapMemory
  lease = 0x12,         // call Lease → reply LeaseReply
  memory_info = 0x13,   // call DeviceIndex → reply MemoryInfo
  // virtual memory (cuMem*): physical memory has a handle and lies where it is mapped, at several addresses if the program wants
  memory_create = 0x14,   // post MemoryCreate
  memory_release = 0x15,  // post Handle: the memory goes when it is mapped nowhere
  memory_map = 0x16,      // post MemoryMap: not accessible yet
  memory_unmap = 0x17,    // post MapMemory: whole mappings
  memory_access = 0x18,   // post MemoryAccess: whole mappings
  // memory between sessions of one server: whoever knows the secret may import it
  memory_share = 0x19,    // call MemoryShare → empty reply
  memory_unshare = 0x1a,  // call Secret → empty reply: nobody imports it any more
  memory_import = 0x1b,   // call MemoryImport → empty reply: physical memory with a handle, mapped and released like one's own
  // copies: 1D is height = 1
  upload = 0x20,         // post Upload, then put_bytes(rows, packed) when bulk = 0, else the rows packed in the bulk parts
  download = 0x21,       // call Download → reply with the rows packed in bulk parts
  push_download = 0x22,  // post Download: the rows come unasked in a `pushed` record with this ticket
  copy = 0x23,           // post Copy: device to device
  fill = 0x24,           // post Fill: memset
  // streams and events
  stream_create = 0x30,   // post StreamCreate
  stream_destroy = 0x31,  // post Handle
  stream_wait = 0x32,     // post StreamWait
  event_record = 0x34,    // post EventRecord → later an `event_done` record when timed
  event_destroy = 0x35,   // post Handle
  synchronize = 0x36,     // call Handle (stream; ~0 = whole session) → empty reply
  // between devices: all that collectives need beyond copies
  reduce = 0x38,  // post Reduce, then put_array<uint64_t>(addresses of the arrays; one of them may be the destination)
  // modules and launches
  module_load = 0x40,    // post ModuleLoad; the image (one cubin or PTX) in the bulk parts
  module_unload = 0x41,  // post Handle
  kernel_get = 0x42,     // post KernelGet, then put_string(name)
  launch = 0x43,         // post Launch, then put_bytes(parameters packed as the kernel's KPARAM_INFO says)
  // ops (semantic/wire/op.hpp)
  op_define = 0x50,
  tensor_define = 0x51,
  tensor_forget = 0x52,
  op_run = 0x53,
  op_query = 0x54,
  op_take = 0x55,
  op_drop = 0x56,
  op_call = 0x58,  // call: an op by its name alone, without op_define; the server finds the overload
  scope = 0x57,    // post: calls with kFlagScoped that follow from this thread belong to this op; see op.hpp
  // graphs: what a capturing stream was given, kept and run again
  graph_add = 0x60,      // post GraphAdd, then the payload of the command that it keeps
  graph_launch = 0x61,   // post GraphLaunch
  graph_destroy = 0x62,  // post Handle
  // meaning (semantic/graph): what the program is doing; nothing that is computed depends on it, and a server may ignore it
  meaning_context =
      0x80,             // post MeaningContext, then put_string(module path), put_string(the program's own label); a define of a live id replaces it
  meaning_step = 0x81,  // post MeaningStep: a step is over, and what it was
  meaning_residency = 0x82,  // post put_array<uint64_t>({address of a storage's first byte, DataResidency} again and again)
  meaning_memory = 0x83,     // post MeaningMemory: the program's living tensors, now
  meaning_name = 0x84,       // post put_string(name): what the program calls its session
  meaning_op = 0x85,         // post MeaningOp: the calls that follow are part of this op (call level; ops of op level say it themselves)
  // session
  counters = 0x70,  // call (empty) → reply control::Counters
  timings = 0x71,   // call Timings → reply TimingsReply: from now on device work is reported with its times, or no longer
};
constexpr uint32_t kGeneratedOpcode = 0x80000000u;

// worker → client
enum class ReportOpcode : uint32_t {
  reply = 1,       // Reply, then the command's own reply payload; bulk parts as the command says
  event_done = 2,  // EventDone
  error = 3,       // Error, then put_string(operation), put_string(text)
  pushed = 4,      // Pushed; the rows packed in the bulk parts
  timings = 5,     // Timing after Timing to the record's end; each before its ticket is acknowledged
};

struct MapMemory {
  uint64_t address, size;  // multiples of kGranule
};
struct MemoryCreate {
  uint64_t handle, size, device;  // size: a multiple of kGranule
};
struct MemoryMap {
  uint64_t address, size, handle, offset;  // multiples of kGranule; inside the addresses of the handle's device
};
struct MemoryAccess {
  uint64_t address, size, accessible;  // 0 or 1
};
struct Secret {
  uint64_t word[2];
  friend auto operator<=>(const Secret&, const Secret&) = default;
};
struct MemoryShare {
  Secret secret;
  uint64_t handle, address, size;  // physical memory; handle 0: the granules at the address
};
struct MemoryImport {
  Secret secret;
  uint64_t handle, size, device;  // a new handle; the size and the device that were shared
};
struct DeviceIndex {
  uint64_t device;
};
struct Lease {
  uint64_t device, bytes;  // wanted in total, not in addition
};
struct LeaseReply {
  uint64_t granted;  // in total; less than wanted = refused, the old lease stands
};
struct MemoryInfo {
  uint64_t free, total;                         // of the device
  uint64_t busy_nanoseconds, open_nanoseconds;  // the worker has executed this session's commands for so long, and has been open for so long
};
struct Upload {
  uint64_t stream, address, pitch, width, height;
};
struct Download {
  uint64_t stream, address, pitch, width, height;
};
struct Copy {
  uint64_t stream, destination, destination_pitch, source, source_pitch, width, height;
};
struct Fill {
  uint64_t stream, address, pitch, width, height;  // width in bytes
  uint32_t value, element;                         // element size 1, 2 or 4; value in its low bytes
};
// By NCCL's numbers (asserted in interpose/entry/nccl.cpp).
enum class ReduceType : uint32_t {
  int8 = 0,
  uint8 = 1,
  int32 = 2,
  uint32 = 3,
  int64 = 4,
  uint64 = 5,
  float16 = 6,
  float32 = 7,
  float64 = 8,
  bfloat16 = 9
};
enum class ReduceOperation : uint32_t { sum = 0, product = 1, maximum = 2, minimum = 3, average = 4 };
struct Reduce {
  uint64_t stream, destination, count;  // elements of each array
  ReduceType type;
  ReduceOperation operation;
};
// 0: no type that can be reduced.
constexpr uint64_t element_bytes(ReduceType t) {
  switch (t) {
    case ReduceType::int8:
    case ReduceType::uint8: return 1;
    case ReduceType::float16:
    case ReduceType::bfloat16: return 2;
    case ReduceType::int32:
    case ReduceType::uint32:
    case ReduceType::float32: return 4;
    case ReduceType::int64:
    case ReduceType::uint64:
    case ReduceType::float64: return 8;
  }
  return 0;
}
struct Handle {
  uint64_t id;
};
constexpr uint64_t kAllStreams = ~0ull;
struct StreamCreate {
  uint64_t id;
  uint32_t flags;
  int32_t priority;
};
struct StreamWait {
  uint64_t stream, event;
};
struct EventRecord {
  uint64_t event, stream;
  uint64_t timed;  // 1: report the time in an event_done record
};
struct ModuleLoad {
  uint64_t id;
  uint64_t bytes;    // of the whole image
  uint64_t hash[2];  // of the image, for a later content cache; 0 = not given
};
struct KernelGet {
  uint64_t id, module;
};
struct Launch {
  uint64_t kernel, stream;
  uint32_t grid[3], block[3];
  uint32_t shared_bytes, attributes;  // attributes: bit 0 cooperative
};
struct GraphAdd {
  uint64_t graph;         // one that does not exist comes to life
  uint32_t opcode, size;  // of the command, which becomes the graph's last; its stream means nothing
};
struct GraphLaunch {
  uint64_t graph, stream;
  uint64_t first, count;  // commands of the graph: copies between host and device cut it into ranges
};

struct MeaningContext {
  uint64_t id;     // 1 to kContextsMax - 1; ops name it
  uint64_t phase;  // graph::ExecutionPhase; `forward` is what the op's step turns out to be
};
struct MeaningStep {
  uint64_t step;           // number, as its ops named it; 32 bits. 0: a step that no op names, a backward or an optimizer's
  uint64_t phase;          // graph::ExecutionPhase
  uint64_t queries, keys;  // lengths that the first attention met; 0 = none
};
struct MeaningOp {
  uint64_t op;             // id of op_define + 1; 0: of none
  uint32_t context, step;  // as in op::OpContext
};
struct MeaningMemory {
  uint64_t bytes[graph::kDataResidencies.size()];  // by graph::DataResidency
};

struct Reply {
  uint64_t ticket;
  int32_t status;  // cudaError_t of the command itself; 0 = success, else put_string(operation), put_string(text) follow instead of its own payload
  uint32_t error_class;  // ErrorClass when status != 0, else 0
};
struct EventDone {
  uint64_t event, ticket;
  uint64_t nanoseconds;  // of the device's clock
};
enum class ErrorClass : uint32_t {
  refused = 1,    // the device cannot do it (unsupported op, SASS kernel): delivered once, at the next synchronisation
  exception = 2,  // the op threw (an argument check): delivered once
  sticky = 3,     // what CUDA makes sticky: illegal address, device assertion of a kernel
  lost = 4,       // the session is over
};
struct Error {
  uint64_t ticket;
  int32_t code;  // cudaError_t
  ErrorClass error_class;
};
struct Pushed {
  uint64_t ticket;
};
struct Timings {
  uint64_t on;  // 0 or 1
};
struct TimingsReply {
  uint64_t nanoseconds;  // of the device's clock, now
};
struct Timing {
  uint64_t ticket, begin, end;  // of the work of one command, by the device's clock
};

template <class... T>
constexpr bool kWireLayout = ((std::is_trivially_copyable_v<T> && sizeof(T) % 8 == 0 && std::has_unique_object_representations_v<T>)&&...);
static_assert(
    kWireLayout<MapMemory, MemoryCreate, MemoryMap, MemoryAccess, Secret, MemoryShare, MemoryImport, DeviceIndex, Lease, LeaseReply, MemoryInfo,
                Upload, Download, Copy, Fill, Reduce, Handle, StreamCreate, StreamWait, EventRecord, ModuleLoad, KernelGet, Launch, GraphAdd,
                GraphLaunch, MeaningContext, MeaningStep, MeaningOp, MeaningMemory, Reply, EventDone, Error, Pushed, Timings, TimingsReply, Timing>);

}  // namespace djinn::wire

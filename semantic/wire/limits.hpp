// Every bound that the wire has, by name, with its reason. A decoder that meets a larger number refuses the message; an encoder that would
// produce one reports it to its caller. Both sides include this file, so a limit changes on both sides or not at all.
#pragma once
#include <cstddef>
#include <cstdint>

namespace djinn::wire {

// One message's command area. Batches flush at 32 KiB; the largest single command is a launch with 32 KiB of parameters or an op with a few
// thousand tensors (foreach over a large model), so 4 MiB leaves room without letting a stranger make us buffer much.
constexpr uint32_t kFrameBytesMax = 4u << 20;
// Commands of one frame: 4 MiB of 16-byte headers would be 262,144; a flush happens three orders of magnitude earlier.
constexpr uint32_t kFrameCommandsMax = 65536;
// Bulk parts of one frame: a batch holds at most as many uploads as commands, but each part costs an allocation on receipt.
constexpr uint32_t kBulkPartsMax = 1024;
// One bulk part. Larger copies are split by the sender; ZMQ_MAXMSGSIZE is this plus slack, so that no peer can announce more.
constexpr uint64_t kBulkBytesMax = 64ull << 20;
// Uploads up to this size travel inside the command, larger ones as a part of their own (a part costs about 1 µs, a copy of 4 KiB 0.3 µs).
constexpr uint32_t kInlineBytesMax = 4096;
// Names of ops, kernels, modules, errors. C++ mangled kernel names of PyTorch reach 3,500 characters.
constexpr uint32_t kNameBytesMax = 8192;
// Text of an error, cut by the sender.
constexpr uint32_t kErrorTextMax = 4096;
// Tensor rank: PyTorch's own limit is 64 (TensorIterator).
constexpr uint32_t kRankMax = 64;
// Elements of one list argument: foreach ops over large models have some ten thousand tensors; an int list never comes near.
constexpr uint32_t kListMax = 1u << 20;
// Depth of nested lists in an op's arguments; schemas have two.
constexpr uint32_t kNestingMax = 4;
// Interned tensor descriptions and op names of one session.
constexpr uint32_t kTensorIdsMax = 1u << 20;
constexpr uint32_t kOpIdsMax = 1u << 16;
// Values of one op_call, by position and by keyword together: the longest schemas of PyTorch have some forty arguments.
constexpr uint32_t kCallValuesMax = 256;
// Graphs of one session, and what they keep: a serving program captures some hundred graphs of some thousand commands of some hundred bytes.
constexpr uint32_t kGraphsMax = 1u << 14;
constexpr uint32_t kGraphCommandsMax = 1u << 18;      // of one graph
constexpr uint64_t kGraphBytesMax = 256ull << 20;     // of all graphs: payloads
constexpr uint32_t kGraphTensorsMax = kTensorIdsMax;  // of all graphs: tensor descriptions that their ops name
// Parameters of one kernel launch: the hardware's limit is 32,764 bytes since sm_70 with CUDA 12.1.
constexpr uint32_t kLaunchParamBytesMax = 32768;
// Contexts of one session (a module path in a phase under a label): the largest models have some ten thousand modules.
constexpr uint32_t kContextsMax = 1u << 18;
// The program's own names: of a phase, of the session.
constexpr uint32_t kLabelBytesMax = 64;
// Storages in one meaning_residency.
constexpr uint32_t kResidenciesMax = 4096;
// A session's graph, as it is kept and as it travels (4 MiB): a training step of a large model has some thousand nodes. What comes after is counted.
constexpr uint32_t kGraphNodesMax = 8192;
constexpr uint32_t kGraphEdgesMax = 32768;
// A control message (open, statistics). The op list of a torch build is about 100 KiB and travels as a blob inside it.
constexpr uint32_t kControlBytesMax = 4u << 20;
constexpr uint32_t kControlStringMax = 1u << 20;
constexpr uint32_t kControlListMax = 65536;
// The credit window: what a client may have posted and not yet seen executed. Beyond it, posting blocks ("stall").
constexpr uint64_t kCreditTickets = 16384;
constexpr uint64_t kCreditBytes = 256ull << 20;
// Devices of one session: as many as a large machine has GPUs, and each still gets 32 GiB of the 256 GiB of addresses that a client offers.
constexpr uint32_t kDevicesMax = 8;
// Arrays that one reduction combines: one of each device.
constexpr uint32_t kReduceSourcesMax = kDevicesMax;
// Device granule: CUDA's own VMM granularity, and the unit of mapping on the wire.
constexpr uint64_t kGranule = 2ull << 20;

}  // namespace djinn::wire

// Exported: NCCL, for communicators whose ranks are all in this process, as torch.cuda.comm, DataParallel and a process group of one use them. Groups
// are kept per thread; what they say goes to the communicator's clique (interpose/encode/collective.cpp) when the outermost ends.
#if __has_include(<nccl.h>)
#include <nccl.h>

#include <unistd.h>

#include <atomic>
#include <cstring>
#include <map>

#include "interpose/batch/session.hpp"
#include "interpose/encode/collective.hpp"
#include "interpose/entry/library.hpp"
#include "interpose/shadow/device.hpp"

using namespace djinn;
using Kind = CollectiveCall::Kind;

// The server reads these numbers without NVIDIA's headers.
using wire::ReduceOperation, wire::ReduceType;
static_assert(ncclInt8 == int(ReduceType::int8) && ncclUint8 == int(ReduceType::uint8) && ncclInt32 == int(ReduceType::int32));
static_assert(ncclUint32 == int(ReduceType::uint32) && ncclInt64 == int(ReduceType::int64) && ncclUint64 == int(ReduceType::uint64));
static_assert(ncclFloat16 == int(ReduceType::float16) && ncclFloat32 == int(ReduceType::float32) && ncclFloat64 == int(ReduceType::float64));
static_assert(ncclBfloat16 == int(ReduceType::bfloat16) && ncclFloat8e4m3 == 10 && ncclFloat8e5m2 == 11 && ncclNumTypes == kElementTypes);
static_assert(ncclSum == int(ReduceOperation::sum) && ncclProd == int(ReduceOperation::product) && ncclMax == int(ReduceOperation::maximum));
static_assert(ncclMin == int(ReduceOperation::minimum) && ncclAvg == int(ReduceOperation::average));

namespace {

constexpr uint32_t kCommKind = library::kind("ncclComm_t");
struct Comm final : library::Object {
  Comm(std::shared_ptr<Clique> c, size_t r, int d) : Object(kCommKind), clique(std::move(c)), rank(r), device(d) {}
  const std::shared_ptr<Clique> clique;
  const size_t rank;
  const int device;
};
Comm* comm_of(ncclComm_t c) { return static_cast<Comm*>(library::find(library::id_of(c), kCommKind)); }

thread_local std::string last_error;
ncclResult_t refuse(ncclResult_t code, std::string why) {
  say(Level::warning, "NCCL: %s", why.c_str());
  last_error = std::move(why);
  return code;
}

struct Group {
  int depth = 0;
  struct Call {
    std::shared_ptr<Clique> clique;
    Clique::Said said;
  };
  std::vector<Call> calls;
  ncclResult_t failed = ncclSuccess;  // of a call in it
};
thread_local Group group;

// Cliques are waited for in one order by all threads, so that no two wait for each other.
ncclResult_t submit(const std::vector<Group::Call>& calls) {
  std::map<std::shared_ptr<Clique>, std::vector<Clique::Said>> by_clique;
  for (const Group::Call& c : calls) by_clique[c.clique].push_back(c.said);
  for (auto& [clique, said] : by_clique)
    if (std::string why = clique->submit(said); !why.empty()) return refuse(session_error() ? ncclUnhandledCudaError : ncclInvalidUsage, why);
  return ncclSuccess;
}

// An array on the device, of so many shares.
bool device_array(const void* p, uint64_t count, uint64_t shares, uint32_t type) {
  uint64_t bytes;
  auto first = reinterpret_cast<uint64_t>(p);
  if (__builtin_mul_overflow(count, shares, &bytes) || __builtin_mul_overflow(bytes, element_bytes(type), &bytes)) return false;
  return !bytes || (session()->arenas->in_range(first) && session()->arenas->in_range(first + bytes - 1));
}

bool is_reduction(Kind k) { return k == Kind::reduce || k == Kind::all_reduce || k == Kind::reduce_scatter; }

// Which arrays a rank has in it, and how many shares each holds.
struct Arrays {
  uint64_t from, to;
};
Arrays arrays_of(Kind k, bool root, uint64_t ranks) {
  switch (k) {
    case Kind::broadcast: return {root, 1};
    case Kind::reduce: return {1, root};
    case Kind::all_reduce: return {1, 1};
    case Kind::all_gather: return {1, ranks};
    case Kind::reduce_scatter: return {ranks, 1};
    case Kind::all_to_all: return {ranks, ranks};
    case Kind::gather: return {1, root ? ranks : 0};
    case Kind::scatter: return {root ? ranks : 0, 1};
    case Kind::send: return {1, 0};
    case Kind::receive: return {0, 1};
  }
  return {};
}

ncclResult_t check(const Comm& comm, const CollectiveCall& c) {
  if (capturing() && refuse_in_capture(c.stream)) return refuse(ncclInvalidUsage, "collectives in a capturing stream are not built");
  if (c.type >= kElementTypes) return refuse(ncclInvalidArgument, "an unknown data type");
  if (c.peer < 0 || static_cast<size_t>(c.peer) >= comm.clique->ranks())
    return refuse(ncclInvalidArgument, "there is no rank " + std::to_string(c.peer));
  if (is_reduction(c.kind) && c.operation > ReduceOperation::average)
    return refuse(ncclInvalidArgument, "reductions with an operation of the program's own are not built");
  if (is_reduction(c.kind) && !wire::element_bytes(static_cast<ReduceType>(c.type)))
    return refuse(ncclInvalidArgument, "reductions of float8 are not built");
  auto [from, to] = arrays_of(c.kind, static_cast<size_t>(c.peer) == comm.rank, comm.clique->ranks());
  if (!device_array(c.from, c.count, from, c.type) || !device_array(c.to, c.count, to, c.type))
    return refuse(ncclInvalidArgument, "an array that is not in device memory");
  return ncclSuccess;
}

ncclResult_t enter(ncclComm_t handle, CollectiveCall c, cudaStream_t stream, const char* name) {
  if (abort_scope(name)) return ncclInvalidUsage;
  Comm* comm = comm_of(handle);
  c.stream = library::stream_id(stream);
  ncclResult_t e = !comm ? refuse(ncclInvalidArgument, "not a communicator") : session_error() ? ncclUnhandledCudaError : check(*comm, c);
  if (e) return group.depth ? group.failed = e : e;
  Group::Call call{comm->clique, {comm->rank, c}};
  if (!group.depth) return submit({call});
  group.calls.push_back(std::move(call));
  return ncclSuccess;
}

CollectiveCall collective(Kind kind, const void* from, void* to, size_t count, ncclDataType_t type, int peer = 0, ncclRedOp_t operation = ncclSum) {
  return {kind, from, to, count, static_cast<uint32_t>(type), static_cast<ReduceOperation>(operation), peer};
}

// ---- cliques that are joined rank by rank ----

// What ncclGetUniqueId gives: a number that only the process which made it knows.
struct UniqueId {
  char magic[8];
  uint64_t process, number;
};
static_assert(sizeof(UniqueId) <= sizeof(ncclUniqueId));
constexpr char kMagic[8] = "djinn 1";

struct Rendezvous {
  std::mutex mutex;
  uint64_t next = 1;
  std::map<uint64_t, std::shared_ptr<Clique>> cliques;  // by number of the id; null until somebody joins
};
Rendezvous& rendezvous() {
  static auto* r = new Rendezvous;
  return *r;
}

ncclResult_t mint(ncclComm_t* out, std::shared_ptr<Clique> clique, size_t rank, int device) {
  uint64_t id = library::insert(new Comm(std::move(clique), rank, device));
  *out = library::handle_of<ncclComm_t>(id);
  return id ? ncclSuccess : ncclSystemError;
}

ncclResult_t join(ncclComm_t* out, int ranks, const ncclUniqueId& bytes, int rank) {
  if (!out || ranks < 1 || rank < 0 || rank >= ranks) return ncclInvalidArgument;
  if (need_context()) return ncclUnhandledCudaError;
  UniqueId id;
  std::memcpy(&id, bytes.internal, sizeof id);
  Rendezvous& r = rendezvous();
  std::lock_guard lock(r.mutex);
  auto known = r.cliques.find(id.number);
  bool ours = !std::memcmp(id.magic, kMagic, sizeof kMagic) && id.process == static_cast<uint64_t>(getpid()) && known != r.cliques.end();
  if (!ours || ranks > device_count())
    return refuse(ncclInvalidUsage, "a communicator of " + std::to_string(ranks) + " ranks in " +
                                        (ours ? "one process with fewer devices" : "several processes") +
                                        ": Djinn has collectives among the devices of one process only");
  if (!known->second) known->second = std::make_shared<Clique>(static_cast<size_t>(ranks));
  if (known->second->ranks() != static_cast<size_t>(ranks)) return refuse(ncclInvalidArgument, "ranks that disagree about how many they are");
  if (std::string why = known->second->join(static_cast<size_t>(rank), current_device()); !why.empty()) return refuse(ncclInvalidUsage, why);
  return mint(out, known->second, static_cast<size_t>(rank), current_device());
}

ncclResult_t leave(ncclComm_t comm) { return library::erase(library::id_of(comm), kCommKind) ? ncclSuccess : ncclInvalidArgument; }

}  // namespace

DJINN_EXPORT ncclResult_t ncclCommInitAll(ncclComm_t* comms, int count, const int* devices) {
  if (!comms || count < 1) return ncclInvalidArgument;
  if (need_context()) return ncclUnhandledCudaError;
  auto clique = std::make_shared<Clique>(static_cast<size_t>(count));
  auto device_of = [&](int rank) { return devices ? devices[rank] : rank; };
  for (int r = 0; r < count; r++) {
    if (!valid_device(device_of(r))) return refuse(ncclInvalidArgument, "there is no device " + std::to_string(device_of(r)));
    if (std::string why = clique->join(static_cast<size_t>(r), device_of(r)); !why.empty()) return refuse(ncclInvalidUsage, why);
  }
  for (int r = 0; r < count; r++)
    if (ncclResult_t e = mint(&comms[r], clique, static_cast<size_t>(r), device_of(r))) return e;
  return ncclSuccess;
}
DJINN_EXPORT ncclResult_t ncclGetUniqueId(ncclUniqueId* out) {
  if (!out) return ncclInvalidArgument;
  Rendezvous& r = rendezvous();
  std::lock_guard lock(r.mutex);
  UniqueId id{{}, static_cast<uint64_t>(getpid()), r.next++};
  std::memcpy(id.magic, kMagic, sizeof kMagic);
  r.cliques.emplace(id.number, nullptr);
  std::memset(out->internal, 0, sizeof out->internal);
  std::memcpy(out->internal, &id, sizeof id);
  return ncclSuccess;
}
DJINN_EXPORT ncclResult_t ncclCommInitRank(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank) { return join(comm, ranks, id, rank); }
// The configuration tunes what is not here (channels, transports); calls complete before they return, blocking or not.
DJINN_EXPORT ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t*) {
  return join(comm, ranks, id, rank);
}
DJINN_EXPORT ncclResult_t ncclCommFinalize(ncclComm_t comm) { return comm_of(comm) ? ncclSuccess : ncclInvalidArgument; }
DJINN_EXPORT ncclResult_t ncclCommDestroy(ncclComm_t comm) { return leave(comm); }
DJINN_EXPORT ncclResult_t ncclCommAbort(ncclComm_t comm) {
  if (Comm* c = comm_of(comm)) c->clique->abort("rank " + std::to_string(c->rank) + " aborted its communicator");
  return leave(comm);
}

static ncclResult_t tell(ncclComm_t handle, int* out, auto&& value) {
  Comm* comm = comm_of(handle);
  if (!comm || !out) return ncclInvalidArgument;
  *out = value(*comm);
  return ncclSuccess;
}
DJINN_EXPORT ncclResult_t ncclCommCount(const ncclComm_t comm, int* count) {
  return tell(comm, count, [](const Comm& c) { return static_cast<int>(c.clique->ranks()); });
}
DJINN_EXPORT ncclResult_t ncclCommCuDevice(const ncclComm_t comm, int* device) {
  return tell(comm, device, [](const Comm& c) { return c.device; });
}
DJINN_EXPORT ncclResult_t ncclCommUserRank(const ncclComm_t comm, int* rank) {
  return tell(comm, rank, [](const Comm& c) { return static_cast<int>(c.rank); });
}
DJINN_EXPORT ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  if (!comm_of(comm) || !error) return ncclInvalidArgument;
  *error = session_error() ? ncclUnhandledCudaError : ncclSuccess;
  return ncclSuccess;
}
DJINN_EXPORT const char* ncclGetLastError(ncclComm_t) { return last_error.c_str(); }

DJINN_EXPORT ncclResult_t ncclGroupStart() {
  ++group.depth;
  return ncclSuccess;
}
DJINN_EXPORT ncclResult_t ncclGroupEnd() {
  if (!group.depth) return refuse(ncclInvalidUsage, "the end of a group that did not begin");
  if (--group.depth) return ncclSuccess;
  Group done = std::exchange(group, {});
  return done.failed ? done.failed : submit(done.calls);  // nothing of a group with a mistake in it
}

DJINN_EXPORT ncclResult_t ncclBroadcast(const void* from, void* to, size_t n, ncclDataType_t t, int root, ncclComm_t comm, cudaStream_t s) {
  return enter(comm, collective(Kind::broadcast, from, to, n, t, root), s, "ncclBroadcast");
}
DJINN_EXPORT ncclResult_t ncclBcast(void* p, size_t n, ncclDataType_t t, int root, ncclComm_t comm, cudaStream_t s) {
  return enter(comm, collective(Kind::broadcast, p, p, n, t, root), s, "ncclBcast");
}
DJINN_EXPORT ncclResult_t ncclReduce(const void* from, void* to, size_t n, ncclDataType_t t, ncclRedOp_t op, int root, ncclComm_t comm,
                                     cudaStream_t s) {
  return enter(comm, collective(Kind::reduce, from, to, n, t, root, op), s, "ncclReduce");
}
DJINN_EXPORT ncclResult_t ncclAllReduce(const void* from, void* to, size_t n, ncclDataType_t t, ncclRedOp_t op, ncclComm_t comm, cudaStream_t s) {
  return enter(comm, collective(Kind::all_reduce, from, to, n, t, 0, op), s, "ncclAllReduce");
}
DJINN_EXPORT ncclResult_t ncclReduceScatter(const void* from, void* to, size_t n, ncclDataType_t t, ncclRedOp_t op, ncclComm_t comm, cudaStream_t s) {
  return enter(comm, collective(Kind::reduce_scatter, from, to, n, t, 0, op), s, "ncclReduceScatter");
}
DJINN_EXPORT ncclResult_t ncclAllGather(const void* from, void* to, size_t n, ncclDataType_t t, ncclComm_t comm, cudaStream_t s) {
  return enter(comm, collective(Kind::all_gather, from, to, n, t), s, "ncclAllGather");
}
DJINN_EXPORT ncclResult_t ncclAlltoAll(const void* from, void* to, size_t n, ncclDataType_t t, ncclComm_t comm, cudaStream_t s) {
  return enter(comm, collective(Kind::all_to_all, from, to, n, t), s, "ncclAlltoAll");
}
DJINN_EXPORT ncclResult_t ncclGather(const void* from, void* to, size_t n, ncclDataType_t t, int root, ncclComm_t comm, cudaStream_t s) {
  return enter(comm, collective(Kind::gather, from, to, n, t, root), s, "ncclGather");
}
DJINN_EXPORT ncclResult_t ncclScatter(const void* from, void* to, size_t n, ncclDataType_t t, int root, ncclComm_t comm, cudaStream_t s) {
  return enter(comm, collective(Kind::scatter, from, to, n, t, root), s, "ncclScatter");
}
DJINN_EXPORT ncclResult_t ncclSend(const void* from, size_t n, ncclDataType_t t, int peer, ncclComm_t comm, cudaStream_t s) {
  return enter(comm, collective(Kind::send, from, nullptr, n, t, peer), s, "ncclSend");
}
DJINN_EXPORT ncclResult_t ncclRecv(void* to, size_t n, ncclDataType_t t, int peer, ncclComm_t comm, cudaStream_t s) {
  return enter(comm, collective(Kind::receive, nullptr, to, n, t, peer), s, "ncclRecv");
}
#endif

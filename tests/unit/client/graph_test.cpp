// Captures as a program meets them, by CUDA's rules: who captures, what joins, what is refused with which code and what that does to the capture; and
// launches, which cost one command between copies of the host's memory.
#include <cuda_runtime_api.h>

#include <fstream>
#include <thread>

#include "interpose/batch/counters.hpp"
#include "interpose/batch/session.hpp"
#include "tests/unit/client/fixture.hpp"

using namespace djinn;
using namespace djinn::test;
using wire::Opcode;

namespace {

struct Streams : OpenSession {
  Streams() {
    for (cudaStream_t* s : {&a, &b, &c}) REQUIRE(cudaStreamCreateWithFlags(s, cudaStreamNonBlocking) == cudaSuccess);
    REQUIRE(cudaMalloc(&memory, 4096) == cudaSuccess);
    REQUIRE(cudaEventCreateWithFlags(&event, cudaEventDisableTiming) == cudaSuccess);
    link.clear();
  }
  ~Streams() {
    cudaGetLastError();
    for (cudaStream_t s : {a, b, c}) CHECK(cudaStreamDestroy(s) == cudaSuccess);
    CHECK(cudaEventDestroy(event) == cudaSuccess);
    CHECK(cudaFree(memory) == cudaSuccess);
  }
  cudaError_t begin(cudaStream_t s, cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal) { return cudaStreamBeginCapture(s, mode); }
  cudaError_t work(cudaStream_t s) { return cudaMemsetAsync(memory, 1, 100, s); }
  cudaError_t fork(cudaStream_t from, cudaStream_t to) {
    if (cudaError_t e = cudaEventRecord(event, from)) return e;
    return cudaStreamWaitEvent(to, event, 0);
  }
  cudaStreamCaptureStatus status(cudaStream_t s) {
    cudaStreamCaptureStatus status;
    CHECK(cudaStreamIsCapturing(s, &status) == cudaSuccess);
    return status;
  }
  // Ends a capture that something has invalidated.
  void ends_invalidated(cudaStream_t s) {
    CHECK(status(s) == cudaStreamCaptureStatusInvalidated);
    CHECK(work(s) == cudaErrorStreamCaptureInvalidated);
    cudaGraph_t g = reinterpret_cast<cudaGraph_t>(8);
    CHECK(cudaStreamEndCapture(s, &g) == cudaErrorStreamCaptureInvalidated);
    CHECK(g == nullptr);
    CHECK(status(s) == cudaStreamCaptureStatusNone);
    CHECK(work(s) == cudaSuccess);
  }
  cudaStream_t a, b, c;
  cudaEvent_t event;
  void* memory;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
};

size_t nodes(cudaGraph_t g) {
  size_t n = 0;
  CHECK(cudaGraphGetNodes(g, nullptr, &n) == cudaSuccess);
  return n;
}

}  // namespace

TEST_CASE("capture: work becomes nodes, a launch is one command, the last handle forgets the graph") {
  Streams s;
  REQUIRE(s.begin(s.a) == cudaSuccess);
  CHECK(s.status(s.a) == cudaStreamCaptureStatusActive);
  CHECK(s.status(s.b) == cudaStreamCaptureStatusNone);
  CHECK(s.work(s.a) == cudaSuccess);
  CHECK(cudaMemcpyAsync(static_cast<char*>(s.memory) + 200, s.memory, 100, cudaMemcpyDeviceToDevice, s.a) == cudaSuccess);
  CHECK(s.work(s.b) == cudaSuccess);  // another stream goes on
  REQUIRE(cudaStreamEndCapture(s.a, &s.graph) == cudaSuccess);
  CHECK(s.status(s.a) == cudaStreamCaptureStatusNone);
  CHECK(nodes(s.graph) == 2);
  REQUIRE(cudaGraphInstantiateWithFlags(&s.exec, s.graph, cudaGraphInstantiateFlagAutoFreeOnLaunch | cudaGraphInstantiateFlagUseNodePriority) ==
          cudaSuccess);
  unsigned long long flags = 0;
  CHECK(cudaGraphExecGetFlags(s.exec, &flags) == cudaSuccess);
  CHECK(flags == (cudaGraphInstantiateFlagAutoFreeOnLaunch | cudaGraphInstantiateFlagUseNodePriority));
  CHECK(cudaGraphDestroy(s.graph) == cudaSuccess);
  CHECK(cudaGraphDestroy(s.graph) == cudaErrorInvalidValue);
  CHECK(s.sent(Opcode::graph_add).size() == 2);
  CHECK(s.sent(Opcode::fill).size() == 1);
  for (int i = 0; i < 3; i++) CHECK(cudaGraphLaunch(s.exec, s.b) == cudaSuccess);
  auto launches = s.sent(Opcode::graph_launch);
  REQUIRE(launches.size() == 3);
  auto l = launches[0].as<wire::GraphLaunch>();
  CHECK((l.first == 0 && l.count == 2 && l.stream == reinterpret_cast<uint64_t>(s.b)));
  CHECK(s.sent(Opcode::graph_destroy).empty());
  CHECK(cudaGraphExecDestroy(s.exec) == cudaSuccess);
  CHECK(s.sent(Opcode::graph_destroy).size() == 1);
  CHECK(cudaGraphLaunch(s.exec, s.a) == cudaErrorInvalidValue);
}

TEST_CASE("capture: copies of host memory cut a launch and are made anew") {
  Streams s;
  std::vector<char> in(100, 1), out(100, 0);
  REQUIRE(s.begin(s.a) == cudaSuccess);
  CHECK(cudaMemcpyAsync(s.memory, in.data(), 100, cudaMemcpyHostToDevice, s.a) == cudaSuccess);
  CHECK(cudaMemcpyAsync(static_cast<char*>(s.memory) + 200, s.memory, 100, cudaMemcpyDeviceToDevice, s.a) == cudaSuccess);
  CHECK(cudaMemcpyAsync(out.data(), static_cast<char*>(s.memory) + 200, 100, cudaMemcpyDeviceToHost, s.a) == cudaSuccess);
  REQUIRE(cudaStreamEndCapture(s.a, &s.graph) == cudaSuccess);
  CHECK(nodes(s.graph) == 3);
  CHECK((s.sent(Opcode::upload).empty() && s.sent(Opcode::push_download).empty()));
  REQUIRE(cudaGraphInstantiate(&s.exec, s.graph, 0) == cudaSuccess);
  for (char value : {5, 6}) {
    std::fill(in.begin(), in.end(), value);
    CHECK(cudaGraphLaunch(s.exec, s.a) == cudaSuccess);
    CHECK(cudaStreamSynchronize(s.a) == cudaSuccess);
    CHECK(out == in);
  }
  CHECK(s.sent(Opcode::graph_launch).size() == 2);
  CHECK(cudaGraphExecDestroy(s.exec) == cudaSuccess);
  CHECK(cudaGraphDestroy(s.graph) == cudaSuccess);
}

TEST_CASE("capture: a copy that reads what the same launch brings waits for it") {
  Streams s;
  std::vector<char> host(100, 9);
  char* device = static_cast<char*>(s.memory);
  REQUIRE(s.begin(s.a) == cudaSuccess);
  CHECK(cudaMemsetAsync(device, 3, 100, s.a) == cudaSuccess);
  CHECK(cudaMemcpyAsync(host.data(), device, 100, cudaMemcpyDeviceToHost, s.a) == cudaSuccess);
  CHECK(cudaMemcpyAsync(device + 200, host.data(), 100, cudaMemcpyHostToDevice, s.a) == cudaSuccess);
  REQUIRE(cudaStreamEndCapture(s.a, &s.graph) == cudaSuccess);
  REQUIRE(cudaGraphInstantiate(&s.exec, s.graph, 0) == cudaSuccess);
  CHECK(cudaGraphLaunch(s.exec, s.a) == cudaSuccess);
  char value = 0;
  CHECK(cudaMemcpy(&value, device + 200, 1, cudaMemcpyDeviceToHost) == cudaSuccess);
  CHECK(value == 3);
  CHECK(cudaGraphExecDestroy(s.exec) == cudaSuccess);
  CHECK(cudaGraphDestroy(s.graph) == cudaSuccess);
}

TEST_CASE("capture: an event brings another stream in, and its work must be joined") {
  Streams s;
  REQUIRE(s.begin(s.a) == cudaSuccess);
  CHECK(s.work(s.a) == cudaSuccess);
  CHECK(s.fork(s.a, s.b) == cudaSuccess);
  CHECK(s.status(s.b) == cudaStreamCaptureStatusActive);
  CHECK(s.work(s.b) == cudaSuccess);
  CHECK(s.work(s.a) == cudaSuccess);
  SECTION("joined: a diamond") {
    CHECK(s.fork(s.b, s.a) == cudaSuccess);
    CHECK(s.work(s.a) == cudaSuccess);
    REQUIRE(cudaStreamEndCapture(s.a, &s.graph) == cudaSuccess);
    CHECK(s.status(s.b) == cudaStreamCaptureStatusNone);
    size_t n = 10, edges = 10;
    cudaGraphNode_t all[10], from[10], to[10];
    CHECK(cudaGraphGetNodes(s.graph, all, &n) == cudaSuccess);
    REQUIRE(n == 4);
    CHECK(all[4] == nullptr);
    CHECK(cudaGraphGetEdges(s.graph, from, to, nullptr, &edges) == cudaSuccess);
    REQUIRE(edges == 4);
    size_t dependencies = 10;
    CHECK(cudaGraphNodeGetDependencies(all[3], from, nullptr, &dependencies) == cudaSuccess);
    CHECK((dependencies == 2 && from[0] == all[1] && from[1] == all[2]));
    size_t dependents = 0;
    CHECK(cudaGraphNodeGetDependentNodes(all[0], nullptr, nullptr, &dependents) == cudaSuccess);
    CHECK(dependents == 2);
    size_t roots = 0;
    CHECK(cudaGraphGetRootNodes(s.graph, nullptr, &roots) == cudaSuccess);
    CHECK(roots == 1);
    cudaGraphNodeType type;
    CHECK(cudaGraphNodeGetType(all[2], &type) == cudaSuccess);
    CHECK(type == cudaGraphNodeTypeMemset);
    CHECK(cudaGraphDebugDotPrint(s.graph, "graph_test.dot", 0) == cudaSuccess);
    std::ifstream file("graph_test.dot");
    std::string text{std::istreambuf_iterator<char>(file), {}};
    CHECK(text.find("node_2 -> node_3;") != std::string::npos);
    CHECK(text.find("memset") != std::string::npos);
    std::remove("graph_test.dot");
    CHECK(cudaGraphDebugDotPrint(s.graph, "/nonexistent/x", 0) == cudaErrorOperatingSystem);
    CHECK(cudaGraphDestroy(s.graph) == cudaSuccess);
    CHECK(cudaGraphNodeGetType(all[2], &type) == cudaErrorInvalidValue);
  }
  SECTION("not joined") {
    CHECK(cudaStreamEndCapture(s.a, &s.graph) == cudaErrorStreamCaptureUnjoined);
    CHECK(s.graph == nullptr);
    CHECK(s.status(s.b) == cudaStreamCaptureStatusNone);
  }
  SECTION("ended in the wrong stream") {
    CHECK(cudaStreamEndCapture(s.b, &s.graph) == cudaErrorStreamCaptureUnmatched);
    s.ends_invalidated(s.a);
  }
  // an event of a capture says nothing about work
  CHECK(cudaEventQuery(s.event) == cudaErrorCapturedEvent);
  CHECK(cudaEventSynchronize(s.event) == cudaErrorCapturedEvent);
  CHECK(cudaStreamWaitEvent(s.c, s.event, 0) == cudaErrorCapturedEvent);
  CHECK(cudaEventRecord(s.event, s.c) == cudaSuccess);
  CHECK(cudaEventSynchronize(s.event) == cudaSuccess);
}

TEST_CASE("capture: whatever waits for it or asks after it is refused and invalidates it") {
  Streams s;
  REQUIRE(s.begin(s.a) == cudaSuccess);
  CHECK(s.work(s.a) == cudaSuccess);
  SECTION("synchronise") { CHECK(cudaStreamSynchronize(s.a) == cudaErrorStreamCaptureUnsupported); }
  SECTION("query") { CHECK(cudaStreamQuery(s.a) == cudaErrorStreamCaptureUnsupported); }
  SECTION("the device") { CHECK(cudaDeviceSynchronize() == cudaErrorStreamCaptureUnsupported); }
  SECTION("destroy") { CHECK(cudaStreamDestroy(s.a) == cudaErrorStreamCaptureUnsupported); }
  SECTION("its event") {
    CHECK(cudaEventRecord(s.event, s.a) == cudaSuccess);
    CHECK(cudaEventQuery(s.event) == cudaErrorCapturedEvent);
  }
  SECTION("a synchronous copy") {
    int value;
    CHECK(cudaMemcpy(&value, s.memory, 4, cudaMemcpyDeviceToHost) == cudaErrorStreamCaptureUnsupported);
  }
  SECTION("work of another stream before it") {
    CHECK(cudaEventRecord(s.event, s.c) == cudaSuccess);
    CHECK(cudaStreamWaitEvent(s.a, s.event, 0) == cudaErrorStreamCaptureIsolation);
  }
  SECTION("a graph inside it") {
    REQUIRE(s.begin(s.b) == cudaSuccess);
    cudaGraph_t g;
    REQUIRE(cudaStreamEndCapture(s.b, &g) == cudaSuccess);
    REQUIRE(cudaGraphInstantiate(&s.exec, g, 0) == cudaSuccess);
    CHECK(cudaGraphLaunch(s.exec, s.a) == cudaErrorStreamCaptureUnsupported);
    CHECK(cudaGraphExecDestroy(s.exec) == cudaSuccess);
    CHECK(cudaGraphDestroy(g) == cudaSuccess);
  }
  SECTION("two captures meet") {
    REQUIRE(s.begin(s.b) == cudaSuccess);
    CHECK(s.fork(s.b, s.a) == cudaErrorStreamCaptureMerge);
    s.ends_invalidated(s.b);
  }
  s.ends_invalidated(s.a);
}

TEST_CASE("capture: unsafe calls are refused by the thread's mode and the captures'") {
  Streams s;
  void* p = nullptr;
  auto elsewhere = [&](auto f) {
    cudaError_t e;
    std::thread([&] { e = f(); }).join();
    return e;
  };
  auto allocate = [&] {
    cudaError_t e = cudaMalloc(&p, 100);
    return e ? e : cudaFree(p);
  };
  CHECK(cudaEventRecord(s.event, s.c) == cudaSuccess);
  SECTION("global: everybody") {
    REQUIRE(s.begin(s.a) == cudaSuccess);
    CHECK(elsewhere(allocate) == cudaErrorStreamCaptureUnsupported);
    CHECK(elsewhere([&] { return cudaEventQuery(s.event); }) == cudaErrorStreamCaptureUnsupported);
    s.ends_invalidated(s.a);
  }
  SECTION("thread-local: this thread alone") {
    REQUIRE(s.begin(s.a, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    CHECK(elsewhere(allocate) == cudaSuccess);
    CHECK(elsewhere([&] { return cudaEventSynchronize(s.event); }) == cudaSuccess);
    CHECK(s.status(s.a) == cudaStreamCaptureStatusActive);
    CHECK(elsewhere([&] { return cudaStreamEndCapture(s.a, &s.graph); }) == cudaErrorStreamCaptureWrongThread);
    CHECK(cudaMallocHost(&p, 100) == cudaErrorStreamCaptureUnsupported);
    s.ends_invalidated(s.a);
  }
  SECTION("relaxed captures and relaxed threads: nobody") {
    REQUIRE(s.begin(s.a, cudaStreamCaptureModeRelaxed) == cudaSuccess);
    CHECK(allocate() == cudaSuccess);
    CHECK(elsewhere([&] { return cudaStreamEndCapture(s.a, &s.graph); }) == cudaSuccess);
    CHECK(cudaGraphDestroy(s.graph) == cudaSuccess);
    REQUIRE(s.begin(s.a) == cudaSuccess);
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    CHECK(cudaThreadExchangeStreamCaptureMode(&mode) == cudaSuccess);
    CHECK(mode == cudaStreamCaptureModeGlobal);
    CHECK(allocate() == cudaSuccess);
    CHECK(cudaThreadExchangeStreamCaptureMode(&mode) == cudaSuccess);
    CHECK(cudaStreamEndCapture(s.a, &s.graph) == cudaSuccess);
    CHECK(cudaGraphDestroy(s.graph) == cudaSuccess);
  }
}

TEST_CASE("capture: the legacy stream captures nothing, and is unusable while a blocking stream does") {
  Streams s;
  cudaStream_t blocking;
  REQUIRE(cudaStreamCreate(&blocking) == cudaSuccess);
  CHECK(s.begin(nullptr) == cudaErrorStreamCaptureUnsupported);
  CHECK(s.begin(cudaStreamLegacy) == cudaErrorStreamCaptureUnsupported);
  CHECK(s.begin(s.a, static_cast<cudaStreamCaptureMode>(9)) == cudaErrorInvalidValue);
  REQUIRE(s.begin(s.a) == cudaSuccess);
  CHECK(s.work(nullptr) == cudaSuccess);
  CHECK(s.begin(s.a) == cudaErrorIllegalState);
  REQUIRE(cudaStreamEndCapture(s.a, &s.graph) == cudaSuccess);
  CHECK(cudaGraphDestroy(s.graph) == cudaSuccess);
  CHECK(cudaStreamEndCapture(s.a, &s.graph) == cudaErrorIllegalState);
  REQUIRE(s.begin(blocking) == cudaSuccess);
  cudaStreamCaptureStatus status;
  CHECK(cudaStreamIsCapturing(nullptr, &status) == cudaErrorStreamCaptureImplicit);
  CHECK(s.status(blocking) == cudaStreamCaptureStatusActive);  // asking does no harm
  CHECK(s.work(nullptr) == cudaErrorStreamCaptureImplicit);
  s.ends_invalidated(blocking);
  CHECK(cudaStreamDestroy(blocking) == cudaSuccess);
}

TEST_CASE("capture info names the capture, its graph and what the next node depends on") {
  Streams s;
  unsigned long long first = 0, id = 0;
  cudaStreamCaptureStatus status;
  const cudaGraphNode_t* dependencies = nullptr;
  const cudaGraphEdgeData* edges = nullptr;
  size_t count = 7;
  cudaGraph_t graph = nullptr;
  CHECK(cudaStreamGetCaptureInfo(s.a, &status, &id, &graph, nullptr, nullptr, nullptr) == cudaSuccess);
  CHECK((status == cudaStreamCaptureStatusNone && id == 0));
  REQUIRE(s.begin(s.a) == cudaSuccess);
  CHECK(cudaStreamGetCaptureInfo(s.a, &status, &first, &graph, &dependencies, &edges, &count) == cudaSuccess);
  CHECK((status == cudaStreamCaptureStatusActive && first != 0 && count == 0));
  CHECK(cudaGraphDestroy(graph) == cudaErrorInvalidValue);  // it is the capture's
  CHECK(s.work(s.a) == cudaSuccess);
  CHECK(s.work(s.a) == cudaSuccess);
  CHECK(cudaStreamGetCaptureInfo(s.a, &status, &id, nullptr, &dependencies, &edges, &count) == cudaSuccess);
  CHECK((id == first && count == 1));
  cudaGraphNode_t last = dependencies[0], before;
  size_t one = 1;
  CHECK(cudaGraphNodeGetDependencies(last, &before, nullptr, &one) == cudaSuccess);
  CHECK(cudaStreamUpdateCaptureDependencies(s.a, &before, nullptr, 1, cudaStreamSetCaptureDependencies) == cudaSuccess);
  CHECK(s.work(s.a) == cudaSuccess);  // beside the last, which needs no join
  CHECK(cudaStreamUpdateCaptureDependencies(s.b, &before, nullptr, 1, 0) == cudaErrorIllegalState);
  cudaGraphNode_t wrong = reinterpret_cast<cudaGraphNode_t>(0x99);
  CHECK(cudaStreamUpdateCaptureDependencies(s.a, &wrong, nullptr, 1, 0) == cudaErrorInvalidValue);
  REQUIRE(cudaStreamEndCapture(s.a, &s.graph) == cudaSuccess);
  CHECK(s.graph == graph);
  size_t edge_count = 0;
  CHECK(cudaGraphGetEdges(s.graph, nullptr, nullptr, nullptr, &edge_count) == cudaSuccess);
  CHECK(edge_count == 2);
  CHECK(cudaGraphDestroy(s.graph) == cudaSuccess);
  REQUIRE(s.begin(s.a) == cudaSuccess);
  CHECK(cudaStreamGetCaptureInfo(s.a, &status, &id, nullptr, nullptr, nullptr, nullptr) == cudaSuccess);
  CHECK(id != first);
  REQUIRE(cudaStreamEndCapture(s.a, &s.graph) == cudaSuccess);
  CHECK(cudaGraphDestroy(s.graph) == cudaSuccess);
}

TEST_CASE("external events are recorded by each launch") {
  Streams s;
  cudaEvent_t timed, other;
  REQUIRE(cudaEventCreate(&timed) == cudaSuccess);
  REQUIRE(cudaEventCreate(&other) == cudaSuccess);
  REQUIRE(s.begin(s.a) == cudaSuccess);
  CHECK(cudaEventRecordWithFlags(timed, s.a, cudaEventRecordExternal) == cudaSuccess);
  CHECK(s.work(s.a) == cudaSuccess);
  CHECK(cudaEventRecordWithFlags(other, s.a, cudaEventRecordExternal) == cudaSuccess);
  CHECK(cudaStreamWaitEvent(s.a, s.event, cudaEventWaitExternal) == cudaSuccess);
  CHECK(cudaEventRecordWithFlags(other, s.a, 8) == cudaErrorInvalidValue);
  REQUIRE(cudaStreamEndCapture(s.a, &s.graph) == cudaSuccess);
  CHECK(nodes(s.graph) == 4);
  REQUIRE(cudaGraphInstantiate(&s.exec, s.graph, 0) == cudaSuccess);
  float ms = 0;
  CHECK(cudaEventElapsedTime(&ms, timed, other) == cudaErrorInvalidResourceHandle);  // not recorded yet
  for (int i = 0; i < 2; i++) {
    CHECK(cudaGraphLaunch(s.exec, s.a) == cudaSuccess);
    CHECK(cudaEventSynchronize(other) == cudaSuccess);
    CHECK(cudaEventElapsedTime(&ms, timed, other) == cudaSuccess);
    CHECK(ms == Approx(1.0f));
  }
  CHECK(cudaGraphExecDestroy(s.exec) == cudaSuccess);
  CHECK(cudaGraphDestroy(s.graph) == cudaSuccess);
  CHECK(cudaEventDestroy(timed) == cudaSuccess);
  CHECK(cudaEventDestroy(other) == cudaSuccess);
}

TEST_CASE("instantiation: flags, parameters, and updates of the same topology") {
  Streams s;
  auto capture = [&](int fills) {
    cudaGraph_t g = nullptr;
    CHECK(s.begin(s.a) == cudaSuccess);
    for (int i = 0; i < fills; i++) CHECK(s.work(s.a) == cudaSuccess);
    CHECK(cudaStreamEndCapture(s.a, &g) == cudaSuccess);
    return g;
  };
  cudaGraph_t one = capture(1), same = capture(1), two = capture(2);
  CHECK(cudaGraphInstantiateWithFlags(&s.exec, one, cudaGraphInstantiateFlagUpload) == cudaErrorInvalidValue);
  CHECK(cudaGraphInstantiateWithFlags(&s.exec, one, 1 << 10) == cudaErrorInvalidValue);
  CHECK(cudaGraphInstantiateWithFlags(&s.exec, one, cudaGraphInstantiateFlagDeviceLaunch) == cudaErrorNotSupported);
  CHECK(cudaGraphInstantiateWithFlags(&s.exec, nullptr, 0) == cudaErrorInvalidValue);
  cudaGraphInstantiateParams p{};
  p.flags = cudaGraphInstantiateFlagUpload;
  p.uploadStream = s.a;
  CHECK(cudaGraphInstantiateWithParams(&s.exec, one, &p) == cudaSuccess);
  CHECK(p.result_out == cudaGraphInstantiateSuccess);
  CHECK(cudaGraphUpload(s.exec, s.a) == cudaSuccess);
  cudaGraphExecUpdateResultInfo info;
  CHECK(cudaGraphExecUpdate(s.exec, two, &info) == cudaErrorGraphExecUpdateFailure);
  CHECK(info.result == cudaGraphExecUpdateErrorTopologyChanged);
  CHECK(cudaGraphExecUpdate(s.exec, same, &info) == cudaSuccess);
  CHECK(cudaGraphDestroy(one) == cudaSuccess);
  CHECK(s.sent(Opcode::graph_destroy).size() == 1);  // nobody runs it any more
  CHECK(cudaGraphLaunch(s.exec, s.a) == cudaSuccess);
  for (cudaGraph_t g : {same, two}) CHECK(cudaGraphDestroy(g) == cudaSuccess);
  CHECK(cudaGraphExecDestroy(s.exec) == cudaSuccess);
  CHECK(s.sent(Opcode::graph_destroy).size() == 3);
}

TEST_CASE("user objects live until the program and every graph have let go") {
  Streams s;
  int destroyed = 0;
  auto destroy = [](void* p) { ++*static_cast<int*>(p); };
  cudaUserObject_t o;
  CHECK(cudaUserObjectCreate(&o, &destroyed, destroy, 1, 0) == cudaErrorInvalidValue);
  REQUIRE(cudaUserObjectCreate(&o, &destroyed, destroy, 1, cudaUserObjectNoDestructorSync) == cudaSuccess);
  CHECK(cudaUserObjectRetain(o, 1) == cudaSuccess);
  CHECK(cudaUserObjectRelease(o, 1) == cudaSuccess);
  CHECK(cudaUserObjectRelease(o, 2) == cudaErrorInvalidValue);
  REQUIRE(s.begin(s.a) == cudaSuccess);
  CHECK(s.work(s.a) == cudaSuccess);
  REQUIRE(cudaStreamEndCapture(s.a, &s.graph) == cudaSuccess);
  CHECK(cudaGraphRetainUserObject(s.graph, o, 1, cudaGraphUserObjectMove) == cudaSuccess);
  CHECK(cudaUserObjectRelease(o, 1) == cudaErrorInvalidValue);  // moved
  REQUIRE(cudaGraphInstantiate(&s.exec, s.graph, 0) == cudaSuccess);
  CHECK(cudaGraphLaunch(s.exec, s.a) == cudaSuccess);
  CHECK(cudaGraphDestroy(s.graph) == cudaSuccess);
  CHECK(destroyed == 0);
  CHECK(cudaGraphExecDestroy(s.exec) == cudaSuccess);
  CHECK(destroyed == 1);
}

TEST_CASE("a capture that exceeds a graph's limit fails, and fails alone") {
  Streams s;
  REQUIRE(s.begin(s.a) == cudaSuccess);
  cudaError_t e = cudaSuccess;
  uint32_t n = 0;
  for (; !e && n <= wire::kGraphCommandsMax; n++) e = s.work(s.a);
  CHECK(e == cudaErrorMemoryAllocation);
  CHECK(n == wire::kGraphCommandsMax + 1);
  s.ends_invalidated(s.a);
}

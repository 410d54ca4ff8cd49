// CUDA graphs as the client keeps them: which streams capture and into what, by CUDA's rules for captures (CUDA programming guide, "Graphs"; the
// reference of cudaThreadExchangeStreamCaptureMode), and the nodes and edges that came of it. Capture state belongs to streams, not to threads: other
// threads (autograd's) record into the same graph. The commands themselves are with the server (encode/graph.cpp); it runs them in the order of
// recording, which is one of the orders that the edges allow. No message is sent here.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "interpose/client.hpp"
#include "interpose/encode/memcpy.hpp"

namespace djinn {

// How many captures are under way in this process, invalidated ones included. The fast check of every function that a capture changes.
extern std::atomic<int> captures;
inline bool capturing() { return captures.load(std::memory_order_relaxed) != 0; }

// Payload bytes of all graphs: as much as the server may have kept.
extern std::atomic<uint64_t> graph_bytes;

struct GraphNode {
  cudaGraphNodeType type;
  std::vector<uint32_t> dependencies;  // indices of nodes, ascending
};

// An object of the program's that graphs keep alive: destroyed with the last reference.
struct UserObject;

// What one capture recorded. Shared by the cudaGraph_t and each cudaGraphExec_t made of it, because no function here changes a graph.
struct Graph {
  explicit Graph(uint64_t id) : id(id) {}
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  struct HostCopy {  // done anew at each launch, before command `before`
    Copy2D copy;
    bool upload;
    uint64_t before;
  };
  struct RecordedEvent {
    uint64_t event, command;
  };
  const uint64_t id;  // the server's, and the base of handles
  std::vector<GraphNode> nodes;
  uint64_t commands = 0, bytes = 0, ops = 0;  // with the server
  std::vector<HostCopy> copies;
  std::vector<RecordedEvent> events;  // recorded by the graph, not in its capture
  std::vector<std::shared_ptr<UserObject>> objects;
  std::atomic<Ticket> launched{0};  // the last launch
};
using GraphPtr = std::shared_ptr<Graph>;

// ---- handles ----
GraphPtr find_graph(cudaGraph_t g);
bool destroy_graph(cudaGraph_t g);
cudaGraph_t handle_of(const Graph& g);
cudaGraphNode_t node_handle(const Graph& g, uint32_t index);
// The node's index and its graph, while the cudaGraph_t lives.
GraphPtr find_node(cudaGraphNode_t n, uint32_t& index);

struct Executable {
  GraphPtr graph;
  unsigned long long flags = 0;
};
cudaGraphExec_t create_executable(Executable e);
Executable find_executable(cudaGraphExec_t e);  // without a graph: not known
bool update_executable(cudaGraphExec_t e, GraphPtr graph);
bool destroy_executable(cudaGraphExec_t e);

// ---- captures ----
// Every error here is CUDA's; those that CUDA lets invalidate a capture do.
cudaError_t begin_capture(uint64_t stream, cudaStreamCaptureMode mode);
cudaError_t end_capture(uint64_t stream, cudaGraph_t* graph);

struct CaptureInfo {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  uint64_t id = 0;
  cudaGraph_t graph = nullptr;
  std::vector<cudaGraphNode_t> dependencies;
};
cudaError_t capture_info(uint64_t stream, CaptureInfo& info);
cudaError_t update_dependencies(uint64_t stream, std::vector<uint32_t> nodes, const Graph& of, bool replace);

// Work given to a stream. `captured`: it captures; then `add` was called once, under the captures' lock, to put the work into the graph, and if that
// succeeded a node stands for it. An error: the stream cannot take work.
cudaError_t capture_work(uint64_t stream, cudaGraphNodeType type, bool& captured, const std::function<cudaError_t(Graph&)>& add);
// An event recorded in a capturing stream stands for the work before it; a wait for it brings the waiting stream into the capture.
cudaError_t capture_event(uint64_t stream, uint64_t event, bool& captured);
cudaError_t capture_wait(uint64_t stream, uint64_t event, bool& captured);

// What CUDA forbids. Each returns cudaSuccess when nothing stands against the call.
cudaError_t refuse_in_capture(uint64_t stream);  // waiting for a capturing stream, asking after it, destroying it
cudaError_t refuse_captured_event(uint64_t event);
cudaError_t refuse_device_wide();  // synchronising the device while any stream captures
cudaError_t refuse_unsafe();       // "potentially unsafe calls", by the thread's mode
cudaStreamCaptureMode exchange_capture_mode(cudaStreamCaptureMode mode);

// ---- user objects ----
cudaUserObject_t create_user_object(void* object, cudaHostFn_t destroy, unsigned references);
std::shared_ptr<UserObject> find_user_object(cudaUserObject_t o);
bool retain_user_object(cudaUserObject_t o, unsigned references);
bool release_user_object(cudaUserObject_t o, unsigned references);
bool graph_retains(Graph& g, cudaUserObject_t o, unsigned references, bool move);

}  // namespace djinn

// Exported: stream capture and CUDA graphs. Graphs come from captures; adding nodes by hand, conditional nodes and child graphs are refused by name
// (semantic/api/cudart.py). What captures mean for streams, events, memory and copies stands with those functions.
#include <cstdio>

#include "interpose/batch/session.hpp"
#include "interpose/encode/graph.hpp"
#include "interpose/shadow/activity.hpp"
#include "interpose/shadow/device.hpp"
#include "interpose/shadow/event.hpp"

using namespace djinn;

static uint64_t id(cudaStream_t s) { return reinterpret_cast<uint64_t>(s); }

// ---- capture ----
DJINN_EXPORT cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode) {
  if (cudaError_t e = need_context()) return fail(e);
  if (!stream_state(id(s))) return fail(cudaErrorInvalidResourceHandle);
  return fail(begin_capture(id(s), mode));
}
DJINN_EXPORT cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* graph) {
  if (!graph) return fail(cudaErrorInvalidValue);
  if (cudaError_t e = need_context()) return fail(e);
  if (!stream_state(id(s))) return fail(cudaErrorInvalidResourceHandle);
  return fail(end_capture(id(s), graph));
}
DJINN_EXPORT cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus* status) {
  if (!status) return fail(cudaErrorInvalidValue);
  *status = cudaStreamCaptureStatusNone;
  if (!stream_state(id(s))) return fail(cudaErrorInvalidResourceHandle);
  if (!capturing()) return cudaSuccess;
  CaptureInfo info;
  cudaError_t e = capture_info(id(s), info);
  *status = info.status;
  return fail(e);
}
DJINN_EXPORT cudaError_t cudaStreamGetCaptureInfo(cudaStream_t s, cudaStreamCaptureStatus* status, unsigned long long* capture, cudaGraph_t* graph,
                                                  const cudaGraphNode_t** dependencies, const cudaGraphEdgeData** edges, size_t* count) {
  if (!status || (edges && !dependencies)) return fail(cudaErrorInvalidValue);
  *status = cudaStreamCaptureStatusNone;
  if (!stream_state(id(s))) return fail(cudaErrorInvalidResourceHandle);
  if (!capturing()) return cudaSuccess;
  // the arrays live until this thread asks again
  static thread_local CaptureInfo info;
  static thread_local std::vector<cudaGraphEdgeData> data;
  if (cudaError_t e = capture_info(id(s), info)) return fail(e);
  data.assign(info.dependencies.size(), {});
  *status = info.status;
  if (info.status != cudaStreamCaptureStatusActive) return cudaSuccess;
  if (capture) *capture = info.id;
  if (graph) *graph = info.graph;
  if (dependencies) *dependencies = info.dependencies.data();
  if (edges) *edges = data.data();
  if (count) *count = info.dependencies.size();
  return cudaSuccess;
}
DJINN_EXPORT cudaError_t cudaStreamUpdateCaptureDependencies(cudaStream_t s, cudaGraphNode_t* nodes, const cudaGraphEdgeData*, size_t count,
                                                             unsigned flags) {
  if (flags > cudaStreamSetCaptureDependencies || (count && !nodes)) return fail(cudaErrorInvalidValue);
  if (!stream_state(id(s))) return fail(cudaErrorInvalidResourceHandle);
  std::vector<uint32_t> indices(count);
  GraphPtr of = std::make_shared<Graph>(0);
  for (size_t i = 0; i < count; i++) {
    GraphPtr g = find_node(nodes[i], indices[i]);
    if (!g || (i && g != of)) return fail(cudaErrorInvalidValue);
    of = g;
  }
  return fail(update_dependencies(id(s), std::move(indices), *of, flags == cudaStreamSetCaptureDependencies));
}
DJINN_EXPORT cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  if (!mode || *mode < cudaStreamCaptureModeGlobal || *mode > cudaStreamCaptureModeRelaxed) return fail(cudaErrorInvalidValue);
  *mode = exchange_capture_mode(*mode);
  return cudaSuccess;
}

// ---- executable graphs ----
static cudaError_t instantiate(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long flags) {
  constexpr unsigned long long kKnown = cudaGraphInstantiateFlagAutoFreeOnLaunch | cudaGraphInstantiateFlagUpload |
                                        cudaGraphInstantiateFlagDeviceLaunch | cudaGraphInstantiateFlagUseNodePriority;
  GraphPtr g = find_graph(graph);
  if (!out || !g || (flags & ~kKnown)) return cudaErrorInvalidValue;
  if (flags & cudaGraphInstantiateFlagDeviceLaunch)
    return say_absent("cudaGraphInstantiateFlagDeviceLaunch", "kernels cannot launch graphs"), cudaErrorNotSupported;
  // graphs here allocate nothing that a launch could free, and streams have no priorities among nodes: nothing to do for those two flags
  *out = create_executable({std::move(g), flags});
  return cudaSuccess;
}
DJINN_EXPORT cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long flags) {
  if (flags & cudaGraphInstantiateFlagUpload) return fail(cudaErrorInvalidValue);  // only with a stream to upload in
  return fail(instantiate(out, graph, flags));
}
DJINN_EXPORT cudaError_t cudaGraphInstantiate(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long flags) {
  return cudaGraphInstantiateWithFlags(out, graph, flags);
}
DJINN_EXPORT cudaError_t cudaGraphInstantiateWithParams(cudaGraphExec_t* out, cudaGraph_t graph, cudaGraphInstantiateParams* p) {
  if (!p || ((p->flags & cudaGraphInstantiateFlagUpload) && !stream_state(id(p->uploadStream)))) return fail(cudaErrorInvalidValue);
  p->errNode_out = nullptr;
  cudaError_t e = instantiate(out, graph, p->flags);
  p->result_out = e ? cudaGraphInstantiateError : cudaGraphInstantiateSuccess;
  return fail(e);
}
DJINN_EXPORT cudaError_t cudaGraphExecGetFlags(cudaGraphExec_t exec, unsigned long long* flags) {
  Executable e = find_executable(exec);
  if (!e.graph || !flags) return fail(cudaErrorInvalidValue);
  *flags = e.flags;
  return cudaSuccess;
}
DJINN_EXPORT cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s) {
  if (cudaError_t e = need_context()) return fail(e);
  if (!stream_state(id(s))) return fail(cudaErrorInvalidResourceHandle);
  Executable e = find_executable(exec);
  if (!e.graph) return fail(cudaErrorInvalidValue);
  if (capturing()) {
    cudaError_t refused = refuse_in_capture(id(s));
    if (refused == cudaErrorStreamCaptureUnsupported) say_absent("cudaGraphLaunch in a capturing stream", "graphs inside graphs are not built yet");
    if (refused) return fail(refused);
  }
  activity::Call traced("cudaGraphLaunch");
  return fail(launch_graph(*e.graph, id(s)));
}
// The commands are with the server since the capture.
DJINN_EXPORT cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t s) {
  if (cudaError_t e = need_context()) return fail(e);
  if (!stream_state(id(s))) return fail(cudaErrorInvalidResourceHandle);
  if (!find_executable(exec).graph) return fail(cudaErrorInvalidValue);
  return fail(capturing() ? refuse_in_capture(id(s)) : cudaSuccess);
}
DJINN_EXPORT cudaError_t cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t graph, cudaGraphExecUpdateResultInfo* info) {
  Executable e = find_executable(exec);
  GraphPtr g = find_graph(graph);
  if (!e.graph || !g || !info) return fail(cudaErrorInvalidValue);
  auto alike = [](const GraphNode& a, const GraphNode& b) { return a.type == b.type && a.dependencies == b.dependencies; };
  bool same = std::equal(e.graph->nodes.begin(), e.graph->nodes.end(), g->nodes.begin(), g->nodes.end(), alike);
  *info = {};
  info->result = same ? cudaGraphExecUpdateSuccess : cudaGraphExecUpdateErrorTopologyChanged;
  if (!same) return fail(cudaErrorGraphExecUpdateFailure);
  return fail(update_executable(exec, std::move(g)) ? cudaSuccess : cudaErrorInvalidValue);
}
DJINN_EXPORT cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return fail(destroy_executable(exec) ? cudaSuccess : cudaErrorInvalidValue); }
DJINN_EXPORT cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return fail(destroy_graph(graph) ? cudaSuccess : cudaErrorInvalidValue); }

// ---- what is in a graph ----
// CUDA's way of returning lists: without an array the number; with one at most as many as it holds, the rest null.
template <class Handle>
static cudaError_t give(const std::vector<Handle>& all, Handle* out, size_t* count) {
  if (!count) return cudaErrorInvalidValue;
  if (!out) return *count = all.size(), cudaSuccess;
  for (size_t i = 0; i < *count; i++) out[i] = i < all.size() ? all[i] : Handle{};
  *count = std::min(*count, all.size());
  return cudaSuccess;
}
template <class Wanted>
static cudaError_t give_nodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count, Wanted wanted) {
  GraphPtr g = find_graph(graph);
  if (!g) return cudaErrorInvalidValue;
  std::vector<cudaGraphNode_t> all;
  for (uint32_t i = 0; i < g->nodes.size(); i++)
    if (wanted(g->nodes[i])) all.push_back(node_handle(*g, i));
  return give(all, nodes, count);
}
DJINN_EXPORT cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  return fail(give_nodes(graph, nodes, count, [](const GraphNode&) { return true; }));
}
DJINN_EXPORT cudaError_t cudaGraphGetRootNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  return fail(give_nodes(graph, nodes, count, [](const GraphNode& n) { return n.dependencies.empty(); }));
}
DJINN_EXPORT cudaError_t cudaGraphGetEdges(cudaGraph_t graph, cudaGraphNode_t* from, cudaGraphNode_t* to, cudaGraphEdgeData* data, size_t* count) {
  GraphPtr g = find_graph(graph);
  if (!g || !count || !from != !to) return fail(cudaErrorInvalidValue);
  std::vector<cudaGraphNode_t> sources, targets;
  for (uint32_t i = 0; i < g->nodes.size(); i++)
    for (uint32_t d : g->nodes[i].dependencies) {
      sources.push_back(node_handle(*g, d));
      targets.push_back(node_handle(*g, i));
    }
  size_t room = *count, also = *count;
  if (cudaError_t e = give(sources, from, count)) return fail(e);
  for (size_t i = 0; data && from && i < room; i++) data[i] = {};
  return fail(give(targets, to, &also));
}
static cudaError_t give_neighbours(cudaGraphNode_t node, cudaGraphNode_t* out, cudaGraphEdgeData* data, size_t* count, bool dependents) {
  uint32_t index;
  GraphPtr g = find_node(node, index);
  if (!g || !count) return cudaErrorInvalidValue;
  std::vector<cudaGraphNode_t> all;
  if (!dependents)
    for (uint32_t d : g->nodes[index].dependencies) all.push_back(node_handle(*g, d));
  for (uint32_t i = index + 1; dependents && i < g->nodes.size(); i++)
    if (const auto& d = g->nodes[i].dependencies; std::binary_search(d.begin(), d.end(), index)) all.push_back(node_handle(*g, i));
  for (size_t i = 0; data && out && i < *count; i++) data[i] = {};
  return give(all, out, count);
}
DJINN_EXPORT cudaError_t cudaGraphNodeGetDependencies(cudaGraphNode_t node, cudaGraphNode_t* out, cudaGraphEdgeData* data, size_t* count) {
  return fail(give_neighbours(node, out, data, count, false));
}
DJINN_EXPORT cudaError_t cudaGraphNodeGetDependentNodes(cudaGraphNode_t node, cudaGraphNode_t* out, cudaGraphEdgeData* data, size_t* count) {
  return fail(give_neighbours(node, out, data, count, true));
}
DJINN_EXPORT cudaError_t cudaGraphNodeGetType(cudaGraphNode_t node, cudaGraphNodeType* type) {
  uint32_t index;
  GraphPtr g = find_node(node, index);
  if (!g || !type) return fail(cudaErrorInvalidValue);
  *type = g->nodes[index].type;
  return cudaSuccess;
}

static const char* name_of(cudaGraphNodeType type) {
  switch (type) {
    case cudaGraphNodeTypeKernel: return "kernel";
    case cudaGraphNodeTypeMemcpy: return "memcpy";
    case cudaGraphNodeTypeMemset: return "memset";
    case cudaGraphNodeTypeWaitEvent: return "event wait";
    case cudaGraphNodeTypeEventRecord: return "event record";
    default: return "node";  // the vendor's enum: nothing here makes others
  }
}
// Nodes and edges; what the flags ask for beyond (parameters of kernels, addresses) is not known for ops.
DJINN_EXPORT cudaError_t cudaGraphDebugDotPrint(cudaGraph_t graph, const char* path, unsigned) {
  GraphPtr g = find_graph(graph);
  if (!g || !path) return fail(cudaErrorInvalidValue);
  FILE* f = fopen(path, "w");
  if (!f) return fail(cudaErrorOperatingSystem);
  fprintf(f, "digraph \"graph_%llu\" {\n", static_cast<unsigned long long>(g->id));
  for (size_t i = 0; i < g->nodes.size(); i++) {
    fprintf(f, "  node_%zu [label=\"%zu: %s\"];\n", i, i, name_of(g->nodes[i].type));
    for (uint32_t d : g->nodes[i].dependencies) fprintf(f, "  node_%u -> node_%zu;\n", d, i);
  }
  fprintf(f, "}\n");
  bool written = !ferror(f);
  return fail(fclose(f) == 0 && written ? cudaSuccess : cudaErrorOperatingSystem);
}

// ---- user objects ----
DJINN_EXPORT cudaError_t cudaUserObjectCreate(cudaUserObject_t* out, void* object, cudaHostFn_t destroy, unsigned references, unsigned flags) {
  // the header knows one flag, and demands it
  if (!out || !destroy || !references || flags != cudaUserObjectNoDestructorSync) return fail(cudaErrorInvalidValue);
  *out = create_user_object(object, destroy, references);
  return cudaSuccess;
}
DJINN_EXPORT cudaError_t cudaUserObjectRetain(cudaUserObject_t o, unsigned references) {
  return fail(references && retain_user_object(o, references) ? cudaSuccess : cudaErrorInvalidValue);
}
DJINN_EXPORT cudaError_t cudaUserObjectRelease(cudaUserObject_t o, unsigned references) {
  return fail(references && release_user_object(o, references) ? cudaSuccess : cudaErrorInvalidValue);
}
DJINN_EXPORT cudaError_t cudaGraphRetainUserObject(cudaGraph_t graph, cudaUserObject_t o, unsigned references, unsigned flags) {
  GraphPtr g = find_graph(graph);
  if (!g || !references || (flags & ~unsigned{cudaGraphUserObjectMove})) return fail(cudaErrorInvalidValue);
  return fail(graph_retains(*g, o, references, flags & cudaGraphUserObjectMove) ? cudaSuccess : cudaErrorInvalidValue);
}

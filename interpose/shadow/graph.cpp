// See graph.hpp. One lock for all captures and handles: it is taken only while a capture is under way or by functions about graphs. It may be held
// while posting, and while asking the tables of streams and events; nobody takes it while holding a lock of those.
#include "interpose/shadow/graph.hpp"

#include <algorithm>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>

#include "interpose/batch/session.hpp"
#include "interpose/shadow/device.hpp"
#include "interpose/shadow/event.hpp"

namespace djinn {

std::atomic<int> captures{0};
std::atomic<uint64_t> graph_bytes{0};

struct UserObject {
  void* object;
  cudaHostFn_t destroy;
  UserObject(void* o, cudaHostFn_t d) : object(o), destroy(d) {}
  ~UserObject() { destroy(object); }
  UserObject(const UserObject&) = delete;
  UserObject& operator=(const UserObject&) = delete;
};

namespace {

using Nodes = std::vector<uint32_t>;  // indices, ascending

struct Capture {
  uint64_t id;
  GraphPtr graph;
  uint64_t origin;
  cudaStreamCaptureMode mode;
  std::thread::id thread;
  bool invalid = false;
  bool blocking = false;  // a stream of it is ordered with the legacy stream
  Nodes released;         // nodes that the program took out of a stream's dependencies: they need no join
};
using CapturePtr = std::shared_ptr<Capture>;

struct Member {  // a stream
  CapturePtr capture;
  Nodes tail;  // what its next node depends on
};
struct Mark {  // an event
  CapturePtr capture;
  Nodes tail;
};
struct HeldObject {
  std::shared_ptr<UserObject> object;
  unsigned references;  // the program's own
};

// Graph ids: far below addresses and apart from the ids of streams and events, so that a mistaken handle is found. A handle has the id above 32 bits,
// and below them 0 for the graph, else a node's index + 1.
constexpr uint64_t kFirstGraph = 0x1000, kFirstExecutable = 0x10, kFirstObject = 0x10;
constexpr unsigned kHandleShift = 32;

struct Tables {
  std::recursive_mutex mutex;  // functions here call each other
  uint64_t next_capture = 1, next_graph = kFirstGraph, next_executable = kFirstExecutable, next_object = kFirstObject;
  std::unordered_map<uint64_t, GraphPtr> graphs;
  std::unordered_map<uint64_t, Executable> executables;
  std::unordered_map<uint64_t, HeldObject> objects;
  std::vector<CapturePtr> captures;
  std::unordered_map<uint64_t, Member> members;
  std::unordered_map<uint64_t, Mark> marks;  // of events recorded in captures under way
};
Tables& tables() {
  static auto* t = new Tables;  // CUDA is called from exit handlers
  return *t;
}
using Lock = std::lock_guard<std::recursive_mutex>;

thread_local cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;

uint64_t number(const void* handle) { return reinterpret_cast<uint64_t>(handle); }
bool legacy(uint64_t stream) { return stream == 0 || stream == number(cudaStreamLegacy); }
bool blocking(uint64_t stream) {
  auto s = stream_state(stream);
  return s && !(s->flags & cudaStreamNonBlocking);
}

void merge(Nodes& into, const Nodes& more) {
  Nodes both;
  std::set_union(into.begin(), into.end(), more.begin(), more.end(), std::back_inserter(both));
  into = std::move(both);
}

Member* member_of(uint64_t stream) {
  auto m = tables().members.find(stream);
  return m == tables().members.end() ? nullptr : &m->second;
}

cudaError_t invalidate(Capture& c, cudaError_t e) {
  c.invalid = true;
  return e;
}

// Of the current device: each has its own legacy stream.
bool here(const Capture& c) {
  auto s = stream_state(c.origin);
  return s && s->device_or(current_device()) == current_device();
}

// The legacy stream waits for every blocking stream, which would tie it to their captures.
cudaError_t refuse_legacy(uint64_t stream, bool harmless) {
  cudaError_t e = cudaSuccess;
  if (legacy(stream))
    for (const CapturePtr& c : tables().captures)
      if (c->blocking && here(*c)) {
        e = cudaErrorStreamCaptureImplicit;
        if (!harmless) c->invalid = true;
      }
  return e;
}

// The stream's membership, or why it cannot take work.
cudaError_t enter(uint64_t stream, Member*& member) {
  member = member_of(stream);
  if (!member) return refuse_legacy(stream, false);
  return member->capture->invalid ? cudaErrorStreamCaptureInvalidated : cudaSuccess;
}

void finish(const CapturePtr& c) {
  Tables& t = tables();
  std::erase_if(t.members, [&](auto& m) { return m.second.capture == c; });
  std::erase_if(t.marks, [&](auto& m) { return m.second.capture == c; });
  std::erase(t.captures, c);
  --captures;
}

// Does the origin stream come after every node?
bool joined(const Capture& c, const Nodes& origin) {
  const auto& nodes = c.graph->nodes;
  std::vector<bool> reached(nodes.size());
  for (const Nodes* ends : {&origin, &c.released})
    for (uint32_t n : *ends) reached[n] = true;
  for (size_t i = nodes.size(); i-- > 0;)
    if (reached[i])
      for (uint32_t d : nodes[i].dependencies) reached[d] = true;
  return std::find(reached.begin(), reached.end(), false) == reached.end();
}

}  // namespace

// The server forgets it in ticket order, behind the last launch. What the program's destructors free may still be in use until that is executed.
Graph::~Graph() {
  if (auto* s = session(); s && !objects.empty()) s->log.wait_executed(launched);
  if (commands) post(wire::Opcode::graph_destroy, wire::Handle{id});
  graph_bytes -= bytes;
}

// ---- handles ----

cudaGraph_t handle_of(const Graph& g) { return reinterpret_cast<cudaGraph_t>(g.id << kHandleShift); }
cudaGraphNode_t node_handle(const Graph& g, uint32_t index) {
  return reinterpret_cast<cudaGraphNode_t>(g.id << kHandleShift | (uint64_t{index} + 1));
}

GraphPtr find_graph(cudaGraph_t g) {
  Lock lock(tables().mutex);
  auto found = tables().graphs.find(number(g));
  return found == tables().graphs.end() ? nullptr : found->second;
}

GraphPtr find_node(cudaGraphNode_t n, uint32_t& index) {
  GraphPtr g = find_graph(reinterpret_cast<cudaGraph_t>(number(n) >> kHandleShift << kHandleShift));
  index = static_cast<uint32_t>(number(n)) - 1;
  return g && static_cast<uint32_t>(number(n)) && index < g->nodes.size() ? g : nullptr;
}

bool destroy_graph(cudaGraph_t g) {
  GraphPtr last;  // let go outside the lock
  Lock lock(tables().mutex);
  for (const CapturePtr& c : tables().captures)
    if (handle_of(*c->graph) == g) return false;  // it is the capture's
  auto found = tables().graphs.find(number(g));
  if (found == tables().graphs.end()) return false;
  last = std::move(found->second);
  tables().graphs.erase(found);
  return true;
}

cudaGraphExec_t create_executable(Executable e) {
  Lock lock(tables().mutex);
  uint64_t id = tables().next_executable += 16;
  tables().executables.emplace(id, std::move(e));
  return reinterpret_cast<cudaGraphExec_t>(id);
}

Executable find_executable(cudaGraphExec_t e) {
  Lock lock(tables().mutex);
  auto found = tables().executables.find(number(e));
  return found == tables().executables.end() ? Executable{} : found->second;
}

bool update_executable(cudaGraphExec_t e, GraphPtr graph) {
  Lock lock(tables().mutex);
  auto found = tables().executables.find(number(e));
  if (found == tables().executables.end()) return false;
  found->second.graph.swap(graph);
  return true;
}

bool destroy_executable(cudaGraphExec_t e) {
  Executable last;
  Lock lock(tables().mutex);
  auto found = tables().executables.find(number(e));
  if (found == tables().executables.end()) return false;
  last = std::move(found->second);
  tables().executables.erase(found);
  return true;
}

// ---- captures ----

cudaError_t begin_capture(uint64_t stream, cudaStreamCaptureMode mode) {
  if (mode < cudaStreamCaptureModeGlobal || mode > cudaStreamCaptureModeRelaxed) return cudaErrorInvalidValue;
  if (legacy(stream)) return cudaErrorStreamCaptureUnsupported;
  Lock lock(tables().mutex);
  Tables& t = tables();
  if (member_of(stream)) return cudaErrorIllegalState;
  if (t.graphs.size() >= wire::kGraphsMax) return cudaErrorMemoryAllocation;
  auto graph = std::make_shared<Graph>(t.next_graph++);
  auto capture = std::make_shared<Capture>(Capture{t.next_capture++, graph, stream, mode, std::this_thread::get_id(), false, blocking(stream), {}});
  t.graphs.emplace(number(handle_of(*graph)), graph);
  t.captures.push_back(capture);
  t.members[stream] = {capture, {}};
  ++captures;
  return cudaSuccess;
}

cudaError_t end_capture(uint64_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  GraphPtr dropped;
  Lock lock(tables().mutex);
  Member* m = member_of(stream);
  if (!m) return cudaErrorIllegalState;
  CapturePtr c = m->capture;
  if (c->origin != stream) return invalidate(*c, cudaErrorStreamCaptureUnmatched);
  if (c->mode != cudaStreamCaptureModeRelaxed && c->thread != std::this_thread::get_id()) return cudaErrorStreamCaptureWrongThread;
  cudaError_t e = c->invalid ? cudaErrorStreamCaptureInvalidated : joined(*c, m->tail) ? cudaSuccess : cudaErrorStreamCaptureUnjoined;
  finish(c);
  if (!e) return *graph = handle_of(*c->graph), cudaSuccess;
  tables().graphs.erase(number(handle_of(*c->graph)));
  dropped = std::move(c->graph);
  return e;
}

cudaError_t capture_info(uint64_t stream, CaptureInfo& info) {
  info = {};
  Lock lock(tables().mutex);
  Member* m = member_of(stream);
  if (!m) return refuse_legacy(stream, true);
  const Capture& c = *m->capture;
  info.status = c.invalid ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
  info.id = c.id;
  info.graph = handle_of(*c.graph);
  for (uint32_t n : m->tail) info.dependencies.push_back(node_handle(*c.graph, n));
  return cudaSuccess;
}

cudaError_t update_dependencies(uint64_t stream, std::vector<uint32_t> nodes, const Graph& of, bool replace) {
  Lock lock(tables().mutex);
  Member* m = member_of(stream);
  if (!m) return cudaErrorIllegalState;
  if (m->capture->invalid) return cudaErrorStreamCaptureInvalidated;
  if (&of != m->capture->graph.get() && !nodes.empty()) return cudaErrorInvalidValue;
  std::sort(nodes.begin(), nodes.end());
  nodes.erase(std::unique(nodes.begin(), nodes.end()), nodes.end());
  if (replace) merge(m->capture->released, m->tail), m->tail.clear();
  merge(m->tail, nodes);
  return cudaSuccess;
}

cudaError_t capture_work(uint64_t stream, cudaGraphNodeType type, bool& captured, const std::function<cudaError_t(Graph&)>& add) {
  captured = false;
  Lock lock(tables().mutex);
  Member* m;
  if (cudaError_t e = enter(stream, m); e || !m) return e;
  captured = true;
  Graph& g = *m->capture->graph;
  if (cudaError_t e = add(g)) return invalidate(*m->capture, e);
  g.nodes.push_back({type, m->tail});
  m->tail = {static_cast<uint32_t>(g.nodes.size() - 1)};
  return cudaSuccess;
}

cudaError_t capture_event(uint64_t stream, uint64_t event, bool& captured) {
  captured = false;
  Lock lock(tables().mutex);
  Member* m;
  if (cudaError_t e = enter(stream, m); e || !m) return e;
  captured = true;
  tables().marks[event] = {m->capture, m->tail};
  event_captured(event, m->capture->id);
  return cudaSuccess;
}

cudaError_t capture_wait(uint64_t stream, uint64_t event, bool& captured) {
  captured = false;
  Lock lock(tables().mutex);
  Tables& t = tables();
  auto state = event_state(event);
  auto mark = t.marks.find(event);
  bool marked = state && state->captured && mark != t.marks.end() && mark->second.capture->id == state->captured;
  Member* m;
  if (cudaError_t e = enter(stream, m)) return e;
  if (!marked) {
    if (state && state->captured) return m ? invalidate(*m->capture, cudaErrorCapturedEvent) : cudaErrorCapturedEvent;
    if (!m || !state || !state->recorded) return captured = m != nullptr, cudaSuccess;  // an event that was never recorded is no wait
    return invalidate(*m->capture, cudaErrorStreamCaptureIsolation);
  }
  captured = true;
  Capture& c = *mark->second.capture;
  if (c.invalid) return cudaErrorStreamCaptureInvalidated;
  if (m && m->capture.get() != &c) return invalidate(*m->capture, invalidate(c, cudaErrorStreamCaptureMerge));
  if (!m && legacy(stream)) return invalidate(c, cudaErrorStreamCaptureImplicit);
  if (!m) {
    m = &t.members[stream];
    m->capture = mark->second.capture;
    c.blocking |= blocking(stream);
  }
  merge(m->tail, mark->second.tail);
  return cudaSuccess;
}

cudaError_t refuse_in_capture(uint64_t stream) {
  Lock lock(tables().mutex);
  Member* m = member_of(stream);
  if (!m) return refuse_legacy(stream, false);
  return m->capture->invalid ? cudaErrorStreamCaptureInvalidated : invalidate(*m->capture, cudaErrorStreamCaptureUnsupported);
}

cudaError_t refuse_captured_event(uint64_t event) {
  Lock lock(tables().mutex);
  auto state = event_state(event);
  if (!state || !state->captured) return refuse_unsafe();
  if (auto mark = tables().marks.find(event); mark != tables().marks.end()) mark->second.capture->invalid = true;
  return cudaErrorCapturedEvent;
}

cudaError_t refuse_device_wide() {
  cudaError_t e = cudaSuccess;
  Lock lock(tables().mutex);
  for (const CapturePtr& c : tables().captures)
    if (here(*c)) e = invalidate(*c, cudaErrorStreamCaptureUnsupported);
  return e;
}

cudaError_t refuse_unsafe() {
  if (thread_mode == cudaStreamCaptureModeRelaxed) return cudaSuccess;
  cudaError_t e = cudaSuccess;
  Lock lock(tables().mutex);
  for (const CapturePtr& c : tables().captures) {
    bool own = c->thread == std::this_thread::get_id() && c->mode != cudaStreamCaptureModeRelaxed;
    bool other = thread_mode == cudaStreamCaptureModeGlobal && c->mode == cudaStreamCaptureModeGlobal;
    if (own || other) e = invalidate(*c, cudaErrorStreamCaptureUnsupported);
  }
  return e;
}

cudaStreamCaptureMode exchange_capture_mode(cudaStreamCaptureMode mode) { return std::exchange(thread_mode, mode); }

// ---- user objects ----

cudaUserObject_t create_user_object(void* object, cudaHostFn_t destroy, unsigned references) {
  Lock lock(tables().mutex);
  uint64_t id = tables().next_object += 16;
  tables().objects[id] = {std::make_shared<UserObject>(object, destroy), references};
  return reinterpret_cast<cudaUserObject_t>(id);
}

std::shared_ptr<UserObject> find_user_object(cudaUserObject_t o) {
  Lock lock(tables().mutex);
  auto found = tables().objects.find(number(o));
  return found == tables().objects.end() ? nullptr : found->second.object;
}

bool retain_user_object(cudaUserObject_t o, unsigned references) {
  Lock lock(tables().mutex);
  auto found = tables().objects.find(number(o));
  if (found == tables().objects.end()) return false;
  found->second.references += references;
  return true;
}

// With the program's last reference the handle ends; graphs may hold the object longer.
bool release_user_object(cudaUserObject_t o, unsigned references) {
  std::shared_ptr<UserObject> last;
  Lock lock(tables().mutex);
  auto found = tables().objects.find(number(o));
  if (found == tables().objects.end() || found->second.references < references) return false;
  if (found->second.references -= references) return true;
  last = std::move(found->second.object);
  tables().objects.erase(found);
  return true;
}

bool graph_retains(Graph& g, cudaUserObject_t o, unsigned references, bool move) {
  Lock lock(tables().mutex);
  auto object = find_user_object(o);
  if (!object || (move && !release_user_object(o, references))) return false;
  g.objects.insert(g.objects.end(), references, object);
  return true;
}

}  // namespace djinn

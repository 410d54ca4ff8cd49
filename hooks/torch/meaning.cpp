// See meaning.hpp.
#include "hooks/torch/meaning.hpp"

#include <ATen/ATen.h>
#include <ATen/SequenceNumber.h>
#include <ATen/record_function.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/graph_task.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <unordered_map>
#include <vector>

#include "hooks/torch/each_tensor.hpp"
#include "hooks/torch/host.hpp"
#include "hooks/torch/residency.hpp"

namespace djinn::hook::meaning {

using graph::DataResidency;
using graph::ExecutionPhase;

namespace {

bool wanted = false;

// ---- which module made an autograd node ----

// By the number that autograd gives it in its thread. A ring, of which only the parts in use exist: a forward with more nodes than this forgets the
// first.
constexpr size_t kNodesKept = 1 << 16, kNodesInPart = 1 << 10;
// Threads that are gone and whose nodes may still be evaluated: DataParallel starts some for each step.
constexpr size_t kThreadsGone = 64;
struct Place {
  uint32_t module = 0, label = 0;
  uint32_t line = 0;  // of the program's Python, from host->line
};
class Nodes {
 public:
  ~Nodes() {
    for (auto& p : parts_) delete p.load(std::memory_order_relaxed);
  }
  // By the thread that makes them; read by autograd's threads without a lock: a torn entry names another module in a summary.
  void note(uint64_t end, Place here) {
    for (uint64_t i = std::max(noted_, end > kNodesKept ? end - kNodesKept : 0); i < end; i++) *made(i) = {i, here};
    noted_ = end;
  }
  uint64_t noted() const { return noted_; }
  Place maker(uint64_t number) const {
    const Part* p = parts_[part_of(number)].load(std::memory_order_acquire);
    const Made* m = p ? &(*p)[number % kNodesInPart] : nullptr;
    return m && m->number == number ? m->place : Place{};
  }

 private:
  struct Made {
    uint64_t number = ~0ull;
    Place place;
  };
  using Part = std::array<Made, kNodesInPart>;
  static size_t part_of(uint64_t number) { return number % kNodesKept / kNodesInPart; }
  Made* made(uint64_t number) {
    auto& p = parts_[part_of(number)];
    if (!p.load(std::memory_order_relaxed)) p.store(new Part, std::memory_order_release);
    return &(*p.load(std::memory_order_relaxed))[number % kNodesInPart];
  }
  std::array<std::atomic<Part*>, kNodesKept / kNodesInPart> parts_{};
  uint64_t noted_ = 0;  // numbers below are noted
};

struct AllNodes {
  std::shared_mutex mutex;
  std::unordered_map<uint64_t, std::shared_ptr<Nodes>> of;  // by thread, as autograd counts them
  std::deque<uint64_t> gone;
};
AllNodes& all_nodes() {
  static AllNodes* n = new AllNodes;
  return *n;
}

struct OwnNodes {
  const uint64_t thread = at::RecordFunction::currentThreadId();
  const std::shared_ptr<Nodes> nodes = std::make_shared<Nodes>();
  OwnNodes() {
    std::unique_lock lock(all_nodes().mutex);
    all_nodes().of[thread] = nodes;
  }
  ~OwnNodes() {
    std::unique_lock lock(all_nodes().mutex);
    auto& gone = all_nodes().gone;
    for (gone.push_back(thread); gone.size() > kThreadsGone; gone.pop_front()) all_nodes().of.erase(gone.front());
  }
};

// Nodes made since the last time belong to this place, and to the line that this thread is at if the place has none.
void note_nodes(Place here) {
  static thread_local OwnNodes own;
  uint64_t next = at::sequence_number::peek();
  if (next == own.nodes->noted()) return;
  if (!here.line) here.line = host->line();
  own.nodes->note(next, here);
}
Place scope_place() { return {scope().module, scope().label, scope().line}; }

Place maker_of(uint64_t thread, uint64_t number) {
  static thread_local std::pair<uint64_t, std::shared_ptr<const Nodes>> latest{~0ull, nullptr};
  if (latest.first != thread) {
    std::shared_lock lock(all_nodes().mutex);
    auto found = all_nodes().of.find(thread);
    if (found == all_nodes().of.end()) return {};
    latest = {thread, found->second};
  }
  return latest.second->maker(number);
}

// ---- the step under way in this thread ----

enum class Modality : uint8_t { none, image, audio };
// Channels of what is an image or a spectrum as it comes from the host, and not features of another network.
constexpr int64_t kImageChannels[] = {1, 3};
constexpr int64_t kSpectrumChannelsMax = 128;

struct Step {
  uint32_t number = 0;  // 0: none
  uint64_t queries = 0, keys = 0;
  Modality modality = Modality::none;
  bool used = false;      // an op of it ran: a call for the host alone (a transform, a model on the CPU) is no step
  bool recorded = false;  // one of them with grad mode on: what a decorator restores before the step's end says nothing
  Storages fed;           // keys and values of attentions, and what they were copied from
  int64_t rows = 0;       // of the last projection: sequences times queries
  // attention that is written out: a product, a softmax over it, another product
  std::optional<Storages::value_type> right;  // of the last product
  uint32_t product_module = 0;
  bool weighed = false;  // its softmax has come

  void begin() {
    static std::atomic<uint32_t> last{0};
    Storages empty = std::move(fed);
    *this = Step{};
    fed = std::move(empty);
    fed.clear();
    while (!(number = ++last)) {}
  }
};
struct Here {
  Step step;
  uint32_t modules = 0;                         // calls under way
  uint32_t optimizer = 0, optimizer_depth = 0;  // steps under way; modules at the begin of the outermost
  const void* optimizer_node = nullptr;         // that was being evaluated then: a hook of a gradient may take the step
  bool optimizer_used = false;                  // an op of it ran
  Storages optimizer_made;
};
Here& here() {
  static thread_local Here h;
  return h;
}

bool requires_grad(std::span<const c10::IValue> values) {
  bool any = false;
  for (const auto& v : values) each_tensor(v, [&](const at::Tensor& t) { any |= t.requires_grad(); });
  return any;
}

// A step of the server's statistics; number 0: no op names it.
void tell_step(uint32_t number, ExecutionPhase phase, uint64_t queries = 0, uint64_t keys = 0) {
  wire::MeaningStep told{number, static_cast<uint64_t>(phase), queries, keys};
  host->post(static_cast<uint32_t>(wire::Opcode::meaning_step), 0, &told, sizeof told);
}

// Autograd numbers its passes; each counts once, whatever threads it runs in. Passes of several threads are under way at once, and come in any order:
// one that is this much older than another under way counts again.
constexpr size_t kPassesAtOnce = 64;
void note_backward() {
  static std::array<std::atomic<int>, kPassesAtOnce> latest{};  // number + 1
  int pass = torch::autograd::get_current_graph_task_id();
  auto& seen = latest[static_cast<size_t>(pass) % kPassesAtOnce];
  int before = seen.load(std::memory_order_relaxed);
  if (pass + 1 > before && seen.compare_exchange_strong(before, pass + 1)) tell_step(0, ExecutionPhase::backward);
}

// The program's own label, where it is the name of a phase.
std::optional<ExecutionPhase> phase_of_label(uint32_t label) {
  static thread_local std::pair<uint32_t, std::optional<ExecutionPhase>> latest{0, std::nullopt};
  if (latest.first == label) return latest.second;
  latest = {label, std::nullopt};
  std::string_view text = host->text(label);
  for (size_t p = 0; p < graph::kExecutionPhases.size(); p++)
    if (graph::kExecutionPhases[p] == text) latest.second = static_cast<ExecutionPhase>(p);
  return latest.second;
}

struct Where {
  ExecutionPhase phase = ExecutionPhase::other;
  Place place;
  uint32_t step = 0;
};

Where where(std::span<const c10::IValue> arguments) {
  Where w;
  w.place = scope_place();
  const Here& h = here();
  auto node = torch::autograd::get_current_node();
  if (h.optimizer && h.modules == h.optimizer_depth && h.optimizer_node == node.get()) {
    w.phase = ExecutionPhase::optimizer;
  } else if (node) {
    w.phase = ExecutionPhase::backward;
    note_backward();
    if (!w.place.module) w.place = maker_of(node->thread_id(), node->sequence_nr());  // else a checkpoint computes its forward again
  } else if (h.step.number) {
    w.phase = ExecutionPhase::forward;
    w.step = h.step.number;
  } else if (c10::GradMode::is_enabled() && requires_grad(arguments)) {
    w.phase = ExecutionPhase::forward;
  }
  // the one of now: what the forward was called says nothing of its backward
  if (scope().label)
    if (auto named = phase_of_label(scope().label)) w.phase = *named;
  return w;
}

// ---- contexts ----

struct Contexts {
  std::mutex mutex;
  std::unordered_map<uint64_t, uint32_t> ids;
  bool full_said = false;
};
// The last ids are for the phases alone, so that an op has at least that.
constexpr size_t kModuleContextsMax = wire::kContextsMax - graph::kExecutionPhases.size() - 1;

uint64_t key_of(const Where& w) { return uint64_t{w.place.module} << 32 | uint64_t{w.place.label} << 8 | static_cast<uint64_t>(w.phase); }

// Defined under the lock: who finds the id may name it at once.
uint32_t define_locked(Contexts& contexts, const Where& w) {
  if (auto found = contexts.ids.find(key_of(w)); found != contexts.ids.end()) return found->second;
  if (contexts.ids.size() >= kModuleContextsMax && (w.place.module || w.place.label)) {
    if (!std::exchange(contexts.full_said, true))
      host->log(
          1,
          ("more than " + std::to_string(kModuleContextsMax) + " modules in phases and under labels: further ones are shown by phase only").c_str());
    return define_locked(contexts, {w.phase, {}, w.step});
  }
  const auto id = contexts.ids[key_of(w)] = static_cast<uint32_t>(contexts.ids.size() + 1);
  std::vector<std::byte> payload;
  wire::Writer out(payload);
  out.put(wire::MeaningContext{id, static_cast<uint64_t>(w.phase)});
  out.put_string(std::string_view(host->text(w.place.module)).substr(0, wire::kNameBytesMax));
  out.put_string(std::string_view(host->text(w.place.label)).substr(0, wire::kLabelBytesMax));
  post(wire::Opcode::meaning_context, payload.data(), payload.size());
  return id;
}
uint32_t define(const Where& w) {
  static Contexts* contexts = new Contexts;
  std::lock_guard lock(contexts->mutex);
  return define_locked(*contexts, w);
}

uint32_t context_of(const Where& w) {
  struct Known {
    uint64_t key = ~0ull;
    uint32_t id = 0;
  };
  static thread_local std::array<Known, 256> known;
  uint64_t key = key_of(w);
  Known& k = known[(key * 0x9E3779B97F4A7C15ull) >> 56];
  if (k.key != key) k = {key, define(w)};
  return k.id;
}

// ---- what shows in the course of a step without autograd ----

bool has_memory(const at::Tensor& t) { return t.defined() && t.is_cuda() && t.has_storage() && t.storage().data(); }

const at::Tensor* tensor_at(std::span<const c10::IValue> values, size_t i) {
  return i < values.size() && values[i].isTensor() && has_memory(values[i].toTensor()) ? &values[i].toTensor() : nullptr;
}

void look_at_input(Residencies& r, Step& s, const at::Tensor& t) {
  if (s.queries || s.modality != Modality::none || !r.is_input(t)) return;
  if (t.dim() == 4 && (t.size(1) == kImageChannels[0] || t.size(1) == kImageChannels[1])) s.modality = Modality::image;
  if (t.dim() == 3 && t.size(1) <= kSpectrumChannelsMax) s.modality = Modality::audio;
}

// The first attention of a step says what it is: encoders come before decoders, a text's own keys before another's.
void note_lengths(Step& s, int64_t queries, int64_t keys) {
  if (!s.queries) s.queries = static_cast<uint64_t>(queries), s.keys = static_cast<uint64_t>(keys);
}
const c10::StorageImpl* key_of(const at::Tensor& t) { return t.storage().unsafeGetStorageImpl(); }

// For grouped heads PyTorch may show the queries of a whole group as one head's; the projection before knows how many there are.
int64_t queries_of(const Step& s, const at::Tensor& q) {
  int64_t sequences = q.size(0), each = sequences && s.rows % sequences == 0 ? s.rows / sequences : 0;
  return q.dim() == 4 && each && q.size(-2) % each == 0 ? each : q.size(-2);
}

void look(Residencies& r, Step& s, const Op& op, std::span<const c10::IValue> arguments) {
  switch (op.role) {
    case Role::none:
    case Role::moves: return;
    case Role::convolution:
      if (auto* x = tensor_at(arguments, 0)) look_at_input(r, s, *x);
      return;
    case Role::attention: {
      auto *q = tensor_at(arguments, 0), *k = tensor_at(arguments, 1), *v = tensor_at(arguments, 2);
      if (!q || !k || !v || q->dim() < 3 || k->dim() < 3) return;
      note_lengths(s, queries_of(s, *q), k->size(-2));
      r.feed(key_of(*k), s.fed);
      r.feed(key_of(*v), s.fed);
      return;
    }
    case Role::projection:  // (a, b), or (sum, a, b)
      if (auto* a = tensor_at(arguments, op.name == "aten::addmm" ? 1 : 0); a && a->dim() == 2) s.rows = a->size(0);
      return;
    case Role::product: {  // (a, b), or (sum, a, b)
      auto* b = tensor_at(arguments, op.name == "aten::baddbmm" ? 2 : 1);
      if (!b) return;
      if (s.weighed && s.product_module == scope().module) r.feed(key_of(*b), s.fed);
      s.right = b->storage().getWeakStorageImpl();
      s.product_module = scope().module;
      s.weighed = false;
      return;
    }
    case Role::softmax: {
      auto* scores = tensor_at(arguments, 0);
      if (!scores || scores->dim() < 3 || !s.right || s.product_module != scope().module) return;
      note_lengths(s, scores->size(-2), scores->size(-1));
      r.feed(s.right->_unsafe_get_target(), s.fed);
      s.weighed = true;
      return;
    }
  }
}

// A copy's destination, and what it was copied from.
void note_copies(Residencies& r, const Op& op, std::span<const c10::IValue> arguments, std::span<const c10::IValue> results) {
  const at::Tensor* to = nullptr;
  for (size_t i = 0; i < op.arguments && !to; i++)
    if (op.writes[i]) to = tensor_at(arguments, i);
  if (!to) to = tensor_at(results, 0);
  if (!to) return;
  for (const auto& v : arguments)
    each_tensor(v, [&](const at::Tensor& t) {
      if (has_memory(t)) r.copied(t, *to);
    });
}

// By an optimizer: under a label of that name alone nothing would settle it.
void note_made(const at::Tensor& t, ExecutionPhase phase) {
  if (phase == ExecutionPhase::optimizer && here().optimizer) here().optimizer_made.push_back(t.storage().getWeakStorageImpl());
}

void note_arguments(Residencies& r, const Op& op, std::span<const c10::IValue> arguments, ExecutionPhase phase) {
  for (size_t i = 0; i < arguments.size(); i++)
    each_tensor(arguments[i], [&](const at::Tensor& t) {
      if (!has_memory(t)) return;
      if (!op.writes[i]) r.read(t);
      else if (r.written(t, phase)) note_made(t, phase);
    });
}

void note_results(Residencies& r, const Op& op, std::span<const c10::IValue> results, ExecutionPhase phase) {
  for (size_t i = 0; i < results.size(); i++) {
    if (i < op.alias.size() && op.alias[i] >= 0) continue;
    each_tensor(results[i], [&](const at::Tensor& t) {
      if (!has_memory(t)) return;
      r.made(t, phase);
      note_made(t, phase);
    });
  }
}

ExecutionPhase kind_of(const Step& s, bool outlived) {
  if (s.queries && outlived) return s.queries == 1 && s.keys > 1 ? ExecutionPhase::llm_decode : ExecutionPhase::llm_prefill;
  switch (s.modality) {
    case Modality::image: return ExecutionPhase::vision_encoding;
    case Modality::audio: return ExecutionPhase::audio_encoding;
    case Modality::none: break;
  }
  return ExecutionPhase::forward;
}

void end_step(Step& s) {
  Residencies& r = residencies();
  std::lock_guard lock(r.mutex);
  ExecutionPhase phase = s.recorded ? ExecutionPhase::forward : kind_of(s, r.any_alive(s.fed));
  if (phase == ExecutionPhase::llm_prefill || phase == ExecutionPhase::llm_decode) r.settle(s.fed, DataResidency::stateful_kv_cache);
  tell_step(s.number, phase, s.queries, s.keys);
  r.sum_up();
}

}  // namespace

void start() { wanted = host->meaning() != 0; }
bool on() { return wanted; }

Told note(const Op& op, std::span<const c10::IValue> arguments, std::span<const c10::IValue> results) {
  Where w = where(arguments);
  if (c10::GradMode::is_enabled()) note_nodes(w.place);  // of an op in the backward: its backward is of that module too
  uint32_t context = context_of(w);
  Here& h = here();
  if (h.optimizer) h.optimizer_used = true;
  if (w.step) h.step.used = true, h.step.recorded |= c10::GradMode::is_enabled();
  Residencies& r = residencies();
  std::lock_guard lock(r.mutex);
  note_arguments(r, op, arguments, w.phase);
  note_results(r, op, results, w.phase);
  if (w.step && !c10::GradMode::is_enabled()) {
    if (op.role == Role::moves) note_copies(r, op, arguments, results);
    look(r, h.step, op, arguments);
  }
  r.flush();
  return {{context, w.step}, w.place.module, w.place.line};
}

void made(const Op& op, std::span<const c10::IValue> arguments, std::span<const c10::IValue> results) {
  Where w = where(arguments);
  std::lock_guard lock(residencies().mutex);
  note_results(residencies(), op, results, w.phase);
}

void enter_module() {
  Here& h = here();
  if (c10::GradMode::is_enabled()) note_nodes(scope_place());
  // a checkpoint that computes its forward again is the backward's
  if (!h.modules++ && !torch::autograd::get_current_node()) h.step.begin();
}

void leave_module() {
  Here& h = here();
  if (c10::GradMode::is_enabled()) note_nodes(scope_place());
  if (!h.modules || --h.modules || !h.step.number) return;
  if (h.step.used) end_step(h.step);
  h.step.number = 0;
  h.step.fed.clear();
}

void enter_optimizer() {
  Here& h = here();
  if (h.optimizer++) return;
  h.optimizer_depth = h.modules;
  h.optimizer_node = torch::autograd::get_current_node().get();
  h.optimizer_used = false;
  h.optimizer_made.clear();
}

void leave_optimizer() {
  Here& h = here();
  if (!h.optimizer || --h.optimizer || !h.optimizer_used) return;
  Residencies& r = residencies();
  std::lock_guard lock(r.mutex);
  r.settle(h.optimizer_made, DataResidency::optimizer_state);
  h.optimizer_made.clear();
  tell_step(0, ExecutionPhase::optimizer);
  r.sum_up();
}

void own(c10::StorageImpl* storage) {
  std::lock_guard lock(residencies().mutex);
  residencies().own(storage);
}

Role role_of(const std::string& name) {
  auto is = [&](std::initializer_list<const char*> names) {
    return std::any_of(names.begin(), names.end(), [&](const char* n) { return name == n; });
  };
  if (name.rfind("aten::_scaled_dot_product", 0) == 0 && name.find("backward") == std::string::npos) return Role::attention;
  if (is({"aten::bmm", "aten::baddbmm"})) return Role::product;
  if (is({"aten::mm", "aten::addmm"})) return Role::projection;
  if (is({"aten::_softmax", "aten::_safe_softmax"})) return Role::softmax;
  if (is({"aten::convolution", "aten::_convolution"})) return Role::convolution;
  if (is({"aten::copy_", "aten::cat", "aten::stack", "aten::index", "aten::index_select", "aten::index_copy_", "aten::index_copy", "aten::index_put_",
          "aten::_index_put_impl_", "aten::slice_scatter", "aten::gather", "aten::repeat_interleave", "aten::expand_copy", "aten::repeat"}))
    return Role::moves;
  return Role::none;
}

}  // namespace djinn::hook::meaning

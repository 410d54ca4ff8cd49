// See graph.hpp.
#include "semantic/graph/graph.hpp"

#include <algorithm>
#include <bit>

#include "semantic/wire/codec.hpp"
#include "semantic/wire/command.hpp"

namespace djinn::graph {

// A site is 1 << 34 | place << 16 | name, so that none is 0.
static_assert(wire::kContextsMax == 1 << 18 && wire::kOpIdsMax == 1 << 16 && kExecutionPhases.size() <= 8);
static_assert(wire::kGraphNodesMax <= 1 << 13);

static Site site_of(uint32_t place, uint32_t name) { return uint64_t{1} << 34 | uint64_t{place} << 16 | name; }

// Ops that return nothing and write more than the arguments named here would count too little, not wrongly. Foreach ops write their first list.
static uint32_t written_arguments(std::string_view op) {
  if (op.starts_with("aten::_fused_adam")) return 0b11101;  // parameters, two moments and the maximum; not the gradients
  if (op.starts_with("aten::_fused_sgd")) return 0b101;
  return op.ends_with('_') ? 1 : 0;
}

// What such an op writes it has not read, though its record names it as an argument.
static bool overwrites(std::string_view op, std::string_view overload) {
  static constexpr std::string_view kOps[] = {"aten::copy_",   "aten::fill_",          "aten::zero_",         "aten::normal_",    "aten::uniform_",
                                              "aten::random_", "aten::bernoulli_",     "aten::exponential_",  "aten::geometric_", "aten::log_normal_",
                                              "aten::cauchy_", "aten::_foreach_copy_", "aten::_foreach_zero_"};
  return std::find(std::begin(kOps), std::end(kOps), op) != std::end(kOps) || overload == "out" || overload.ends_with("_out");
}

SemanticGraph::SemanticGraph()
    : closed_(kClosedStepsMax), node_index_(2 * wire::kGraphNodesMax), edge_index_(2 * wire::kGraphEdgesMax), waiting_(kWaitingMax) {
  names_.emplace_back();
  places_.emplace_back();
  name_index_.emplace("", 0);
  place_index_.emplace(std::string(1, '\0'), 0);
}

uint32_t& SemanticGraph::Index::of(uint64_t key) {
  size_t i = key * 0x9e3779b97f4a7c15u >> (64 - std::countr_zero(slots_.size()));
  while (slots_[i].index != kNone && slots_[i].key != key) i = (i + 1) & (slots_.size() - 1);
  slots_[i].key = key;  // the caller gives it an index, or leaves it free
  return slots_[i].index;
}

// ---- names ----

bool SemanticGraph::define_op(std::span<const std::byte> payload) {
  wire::Reader r(payload);
  auto d = r.get<wire::op::OpDefine>();
  std::string name(r.get_string(wire::kNameBytesMax));
  std::string_view overload = r.get_string(wire::kNameBytesMax);
  if (!r.finished() || d.id >= wire::kOpIdsMax) return false;
  if (ops_.size() <= d.id) ops_.resize(std::bit_ceil(d.id + 64));
  ops_[d.id] = op_named(std::move(name), overload);
  return true;
}

SemanticGraph::Op SemanticGraph::op_named(std::string name, std::string_view overload) {
  Op op;
  op.cost = cost_of(name);
  op.written = written_arguments(name);
  op.overwrites = overwrites(name, overload);
  if (!overload.empty()) name.append(1, '.').append(overload);
  if (name.size() > kOpNameMax) name.resize(kOpNameMax);
  if (auto known = name_index_.find(name); known != name_index_.end()) {
    op.name = known->second;
  } else if (names_.size() < wire::kOpIdsMax) {
    op.name = static_cast<uint32_t>(names_.size());
    name_index_.emplace(name, op.name);
    names_.push_back(std::move(name));
  }
  return op;
}

uint32_t SemanticGraph::place(std::string_view module, std::string_view label) {
  std::string key(module);
  key.append(1, '\0').append(label);
  if (auto known = place_index_.find(key); known != place_index_.end()) return known->second;
  if (places_.size() >= wire::kContextsMax || place_text_ + key.size() > kPlaceTextMax) return 0;
  place_text_ += key.size();
  auto id = static_cast<uint32_t>(places_.size());
  places_.push_back({std::string(module), std::string(label)});
  place_index_.emplace(std::move(key), id);
  return id;
}

bool SemanticGraph::context(std::span<const std::byte> payload) {
  wire::Reader r(payload);
  auto m = r.get<wire::MeaningContext>();
  auto module = r.get_string(wire::kNameBytesMax), label = r.get_string(wire::kLabelBytesMax);
  if (!r.finished() || !m.id || m.id >= wire::kContextsMax || !known_phase(m.phase)) return false;
  if (contexts_.size() <= m.id) contexts_.resize(std::bit_ceil(m.id + 64));
  contexts_[m.id] = {place(module, label), static_cast<ExecutionPhase>(m.phase), true};
  return true;
}

bool SemanticGraph::name(std::span<const std::byte> payload) {
  wire::Reader r(payload);
  auto name = r.get_string(wire::kLabelBytesMax);
  if (!r.finished()) return false;
  name_ = name;
  return true;
}

// ---- an op ----

const Tensor* SemanticGraph::argument(uint32_t index) const {
  for (const auto& a : record_.arguments)
    if (a.argument == index) return tensors_.find(a.tensor);
  return nullptr;
}

void SemanticGraph::touch(const Tensor& t, Touch::Kind kind, Told& told, uint64_t elements_max) {
  uint64_t bytes = elements_max < t.bytes / t.item_bytes ? elements_max * t.item_bytes : t.bytes;
  if (kind != Touch::read) told.written += bytes;
  if (t.address && bytes) touches_.push_back({t.address, bytes, kind});
}

// By number of return; a list's tensors after the first at the end. An op that returns nothing counts what it writes.
void SemanticGraph::list_output_shapes(const Op& op) {
  output_shapes_.clear();
  auto output = [&](uint32_t index, const Shape* shape) {
    if (index >= output_shapes_.size()) output_shapes_.resize(size_t{index} + 1);
    if (shape && output_shapes_[index]) index = static_cast<uint32_t>(output_shapes_.size()), output_shapes_.push_back(nullptr);
    if (shape) output_shapes_[index] = shape;
  };
  auto shape_of = [](const Tensor* t) { return t ? &t->shape : nullptr; };
  for (const auto& o : record_.outputs) output(o.argument, shape_of(o.alias ? argument(o.tensor) : tensors_.find(o.tensor)));
  for (const auto& r : record_.results) output(r.index, &r.shape);
  if (!output_shapes_.empty() || !op.written) return;
  for (const auto& a : record_.arguments)
    if (a.argument == 0) output(0, shape_of(tensors_.find(a.tensor)));
}

// Which arguments: those that are an output, or of what returns nothing those that its name says.
uint32_t SemanticGraph::written_by(const Op& op) const {
  uint32_t written = record_.outputs.empty() && record_.results.empty() ? op.written : 0;
  for (const auto& o : record_.outputs)
    if (o.alias && o.tensor < 32) written |= 1u << o.tensor;
  return written;
}

// So many elements of argument 0 are touched. A source of one element may be spread over any number of them.
uint64_t SemanticGraph::part_of_table(const Op& op, uint32_t written) const {
  if (op.cost == Cost::gather && !output_shapes_.empty() && output_shapes_[0]) return output_shapes_[0]->elements;
  if (op.cost != Cost::scatter || !(written & 1) || record_.arguments.empty()) return ~0ull;
  const Tensor* source = tensors_.find(record_.arguments.back().tensor);
  return source && source->shape.elements > 1 ? source->shape.elements : ~0ull;
}

uint64_t SemanticGraph::flops_of(const Op& op) const {
  Shapes s;
  s.true_arguments = record_.true_arguments;
  for (const auto& a : record_.arguments)
    if (a.argument < s.arguments.size() && !s.arguments[a.argument])
      if (const Tensor* t = tensors_.find(a.tensor)) s.arguments[a.argument] = &t->shape;
  s.outputs = output_shapes_;
  return flops(op.cost, s);
}

const SemanticGraph::Op& SemanticGraph::recorded_op() const {
  static constexpr Op kUnknown;
  return record_.head.op < ops_.size() ? ops_[record_.head.op] : kUnknown;
}

// The op of the record at hand. What it touches is in touches_: outputs that the client has placed are fresh, arguments that it writes are not.
SemanticGraph::Told SemanticGraph::tell(const Op& op) {
  const Context c = context_of(record_.context.context);
  Told told;
  told.site = site_of(c.place, op.name);
  told.when = {record_.context.step, c.phase};
  told.context = c.given;
  touches_.clear();
  list_output_shapes(op);
  const uint32_t written = written_by(op);
  const uint64_t part = part_of_table(op, written);
  auto writes = [&](uint32_t argument) { return argument < 32 && written >> argument & 1; };
  auto each_argument = [&](Touch::Kind kind, auto&& wanted) {
    for (const auto& a : record_.arguments)
      if (const Tensor* t = wanted(a.argument) ? tensors_.find(a.tensor) : nullptr) touch(*t, kind, told, a.argument ? ~0ull : part);
  };
  each_argument(Touch::read, [&](uint32_t argument) { return !op.overwrites || !writes(argument); });
  for (const auto& o : record_.outputs)
    if (const Tensor* t = o.alias ? nullptr : tensors_.find(o.tensor)) touch(*t, Touch::fresh, told);
  if (written) each_argument(Touch::write, writes);
  told.touches = static_cast<uint32_t>(touches_.size());
  told.flops = flops_of(op);
  return told;
}

bool SemanticGraph::ran(Ran how, std::span<const std::byte> payload, std::span<const std::byte> reply, uint64_t nanoseconds) {
  std::string_view name;
  if (how == Ran::call ? !record_.read_call(payload, name) : !record_.read(payload)) return false;
  const uint64_t stash = how == Ran::run ? 0 : record_.read_answer(reply);
  Op called;
  if (how == Ran::call) {
    size_t dot = std::min(name.find('.'), name.size());
    called = op_named(std::string(name.substr(0, dot)), name.substr(std::min(dot + 1, name.size())));
    called.overwrites |= record_.out_given;
  }
  const Told told = tell(how == Ran::call ? called : recorded_op());
  record(told, touches_, nanoseconds);
  if (stash) waiting_[stash % kWaitingMax] = {stash, told};
  return true;
}

bool SemanticGraph::took(std::span<const std::byte> payload) {
  wire::Reader r(payload);
  auto t = r.get<wire::op::OpTake>();
  if (!r.finished()) return false;
  const auto& [stash, told] = waiting_[t.stash % kWaitingMax];
  if (!t.stash || stash != t.stash || !t.address || !t.bytes) return true;
  write_to(told, {t.address, t.bytes, Touch::fresh});
  Event placed;
  placed.site = told.site;
  placed.written = t.bytes;
  add(placed, {}, told.when);
  return true;
}

void SemanticGraph::uploaded(uint64_t address) {
  if (!address) return;
  Storage& s = storages_.at(address);
  s.writer = 0;
  if (!s.named) s.residency = DataResidency::input;
}

// While a step is remembered what it was is known: a storage that is read again and again after (weights, a cache) keeps its writer.
SemanticGraph::Read SemanticGraph::read_of(const Touch& t) {
  Storage& s = storages_.at(t.address);
  if (s.when.step && closed_[s.when.step % kClosedStepsMax].number == s.when.step) s.when = {0, phase_of(s.when)};
  return {s.writer, t.bytes, s.writer ? clock_ - s.written_at : 0, s.when, s.residency};
}

void SemanticGraph::write_to(const Told& told, const Touch& t) {
  Storage& s = storages_.at(t.address);
  s.writer = told.site;
  s.written_at = clock_;
  s.when = told.when;
  if (t.kind != Touch::fresh) return;
  s.residency = told.context ? made_in(told.when.phase) : DataResidency::other;
  s.named = false;
}

void SemanticGraph::note(const Told& told) {
  now_ = told.when;
  if (uint32_t p = place_of(told.site << 3)) now_place_ = p;
}

void SemanticGraph::record(const Told& told, std::span<const Touch> touches, uint64_t nanoseconds) {
  ++clock_;
  note(told);
  reads_.clear();
  for (const Touch& t : touches)
    if (t.kind == Touch::read) reads_.push_back(read_of(t));
  for (const Touch& t : touches)
    if (t.kind != Touch::read) write_to(told, t);
  add({told.site, nanoseconds, told.flops, told.written, 1, static_cast<uint32_t>(reads_.size())}, reads_, told.when);
}

// To its node, or aside while nobody knows which that is.
void SemanticGraph::add(const Event& event, std::span<const Read> reads, Moment when) {
  Step* step = when.phase == ExecutionPhase::forward && when.step ? open_step(when.step) : nullptr;
  if (!step) return commit(event, reads, when);
  step->events.push_back(event);
  step->reads.insert(step->reads.end(), reads.begin(), reads.end());
  if (step->events.size() < kStepOpsMax && step->reads.size() < kStepReadsMax) return;
  close_step(*step, ExecutionPhase::forward);
}

// ---- steps ----

// Null: the step is over.
SemanticGraph::Step* SemanticGraph::open_step(uint32_t number) {
  if (steps_[latest_step_].number == number) return &steps_[latest_step_];
  auto step = std::find_if(steps_.begin(), steps_.end(), [&](const Step& s) { return s.number == number; });
  if (step == steps_.end()) {
    if (closed_[number % kClosedStepsMax].number == number) return nullptr;
    step = std::find_if(steps_.begin(), steps_.end(), [](const Step& s) { return !s.number; });
    if (step == steps_.end()) {
      step = std::min_element(steps_.begin(), steps_.end(), [](const Step& a, const Step& b) { return a.opened < b.opened; });
      close_step(*step, ExecutionPhase::forward);
    }
    step->number = number;
    step->opened = clock_;
  }
  latest_step_ = static_cast<size_t>(step - steps_.begin());
  return &*step;
}

void SemanticGraph::close_step(Step& step, ExecutionPhase phase) {
  closed_[step.number % kClosedStepsMax] = {step.number, phase};
  const Read* read = step.reads.data();
  for (const Event& e : step.events) {
    commit(e, {read, e.reads}, {step.number, ExecutionPhase::forward});
    read += e.reads;
  }
  step.number = 0;
  step.events.clear();
  step.reads.clear();
}

bool SemanticGraph::step(std::span<const std::byte> payload) {
  wire::Reader r(payload);
  auto m = r.get<wire::MeaningStep>();
  if (!r.finished() || m.step > UINT32_MAX || !known_phase(m.phase)) return false;
  auto phase = static_cast<ExecutionPhase>(m.phase);
  auto number = static_cast<uint32_t>(m.step);
  ++steps_over_[m.phase];
  if (!number) return true;
  expected_ = phase;
  auto step = std::find_if(steps_.begin(), steps_.end(), [&](const Step& s) { return s.number == number; });
  if (step != steps_.end()) close_step(*step, phase);
  else if (Closed& c = closed_[number % kClosedStepsMax]; c.number != number) c = {number, phase};  // else its ops are in the graph already
  return true;
}

void SemanticGraph::finish() {
  close_calls();
  for (Step& s : steps_)
    if (s.number) close_step(s, ExecutionPhase::forward);
}

ExecutionPhase SemanticGraph::phase_of(Moment when) const {
  if (when.phase != ExecutionPhase::forward || !when.step) return when.phase;
  const Closed& c = closed_[when.step % kClosedStepsMax];
  return c.number == when.step ? c.phase : ExecutionPhase::forward;
}

bool SemanticGraph::is_open(Moment when) const {
  auto open = [&](const Step& s) { return s.number == when.step; };
  return when.step && when.phase == ExecutionPhase::forward && closed_[when.step % kClosedStepsMax].number != when.step &&
         std::any_of(steps_.begin(), steps_.end(), open);
}

// ---- nodes and edges ----

uint32_t SemanticGraph::node(uint64_t key) {
  uint32_t& index = node_index_.of(key);
  if (index == kNone && nodes_.size() < wire::kGraphNodesMax) {
    index = static_cast<uint32_t>(nodes_.size());
    nodes_.emplace_back().key = key;
  }
  return index;
}

void SemanticGraph::commit(const Event& event, std::span<const Read> reads, Moment when) {
  ExecutionPhase phase = phase_of(when);
  ops_run_[static_cast<size_t>(phase)] += event.count;
  nanoseconds_[static_cast<size_t>(phase)] += event.nanoseconds;
  uint32_t to = node(node_key(event.site, phase));
  if (to == kNone) {
    nodes_left_out_ += event.count;
    edges_left_out_ += static_cast<uint64_t>(std::count_if(reads.begin(), reads.end(), [](const Read& r) { return r.writer != 0; }));
    return;
  }
  Node& n = nodes_[to];
  n.count += event.count;
  n.nanoseconds += event.nanoseconds;
  n.flops = std::min(n.flops + event.flops, kFlopsMax);
  n.written += event.written;
  for (const Read& r : reads) {
    n.read[static_cast<size_t>(r.residency)] += r.bytes;
    if (!r.writer) continue;
    uint32_t from = node_index_.of(node_key(r.writer, phase_of(r.when)));
    if (from != kNone) add_edge(from, to, r);
    else if (!is_open(r.when)) ++edges_left_out_;  // its writer was; in an open step it has no node yet, and this read no edge
  }
}

void SemanticGraph::add_edge(uint32_t from, uint32_t to, const Read& read) {
  uint64_t key = uint64_t{from} << 32 | to;
  uint32_t& index = edge_index_.of(key);
  if (index == kNone) {
    if (edges_.size() >= wire::kGraphEdgesMax) return void(++edges_left_out_);
    index = static_cast<uint32_t>(edges_.size());
    edges_.emplace_back().key = key;
  }
  Edge& e = edges_[index];
  ++e.count;
  e.bytes += read.bytes;
  e.lifetime += read.lifetime;
  e.residency = read.residency;
}

// ---- memory ----

bool SemanticGraph::residency(std::span<const std::byte> payload) {
  wire::Reader r(payload);
  auto bytes = r.get_bytes(uint64_t{wire::kResidenciesMax} * 16);
  if (!r.finished() || bytes.size() % 16) return false;
  auto word = [&](size_t at) {
    uint64_t w;
    std::memcpy(&w, bytes.data() + at, sizeof w);
    return w;
  };
  for (size_t i = 0; i < bytes.size(); i += 16)
    if (!word(i) || !known_residency(word(i + 8))) return false;
  for (size_t i = 0; i < bytes.size(); i += 16) {
    Storage& s = storages_.at(word(i));
    s.residency = static_cast<DataResidency>(word(i + 8));
    s.named = !shows_itself(s.residency);
  }
  return true;
}

bool SemanticGraph::memory(std::span<const std::byte> payload) {
  wire::Reader r(payload);
  auto m = r.get<wire::MeaningMemory>();
  if (!r.finished()) return false;
  std::copy(std::begin(m.bytes), std::end(m.bytes), memory_.begin());
  return true;
}

// ---- call level ----

bool SemanticGraph::calls_of(std::span<const std::byte> payload) {
  wire::Reader r(payload);
  auto m = r.get<wire::MeaningOp>();
  if (!r.finished() || m.op > wire::kOpIdsMax) return false;
  close_calls();
  if (!m.op) return true;
  const Context c = context_of(m.context);
  calls_.site = site_of(c.place, m.op <= ops_.size() ? ops_[m.op - 1].name : 0);
  calls_.when = {m.step, c.phase};
  calls_.context = c.given;
  return true;
}

void SemanticGraph::called(uint64_t nanoseconds) {
  if (calls_.site) calls_nanoseconds_ += nanoseconds;
}

// Shapes and tensors are not known here: the node has times only.
void SemanticGraph::close_calls() {
  if (calls_.site) record(calls_, {}, calls_nanoseconds_);
  calls_.site = 0;
  calls_nanoseconds_ = 0;
}

// ---- CUDA graphs ----

bool SemanticGraph::keep(uint64_t graph, std::span<const std::byte> payload) {
  if (!kept_.contains(graph) && kept_.size() >= wire::kGraphsMax) return false;
  Kept& k = kept_[graph];
  if (k.ops.size() >= wire::kGraphCommandsMax) return false;
  Told told;
  const bool understood = record_.read(payload);
  if (understood) told = tell(recorded_op());
  const bool room = understood && kept_tensors_ + touches_.size() <= kKeptTensorsMax;
  if (!room) told.site = 0, told.touches = 0;
  k.first.push_back(k.touches.size());
  k.ops.push_back(told);
  if (!room) return understood;
  k.touches.insert(k.touches.end(), touches_.begin(), touches_.end());
  kept_tensors_ += touches_.size();
  return true;
}

// Once its step is over, or so long ago that another has taken its place, its phase is the op's own. A graph that a step captures and launches runs
// inside of it.
void SemanticGraph::ran_kept(uint64_t graph, uint64_t index, uint64_t nanoseconds) {
  auto k = kept_.find(graph);
  if (k == kept_.end() || index >= k->second.ops.size()) return;
  Told& told = k->second.ops[index];
  if (!told.site) return void(++nodes_left_out_);
  if (told.when.step && closed_[told.when.step % kClosedStepsMax].number >= told.when.step) told.when = {0, phase_of(told.when)};
  record(told, std::span(k->second.touches).subspan(k->second.first[index], told.touches), nanoseconds);
}

void SemanticGraph::drop(uint64_t graph) {
  auto k = kept_.find(graph);
  if (k == kept_.end()) return;
  kept_tensors_ -= k->second.touches.size();
  kept_.erase(k);
}

}  // namespace djinn::graph

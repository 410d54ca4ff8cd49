// The graph as it travels: numbers become names, and what does not fit a control message is counted.
#include <algorithm>
#include <numeric>

#include "semantic/graph/graph.hpp"

namespace djinn::graph {

namespace control = wire::control;

namespace {

// A control message, less what else is in it: the meaning, and the channel's own fields.
constexpr size_t kSnapshotBytesMax = wire::kControlBytesMax - (256u << 10);

size_t padded(std::string_view s) { return 8 + wire::align8(s.size()); }

template <class T, class Weight>
std::vector<uint32_t> heaviest_first(const std::vector<T>& all, Weight weight) {
  std::vector<uint32_t> order(all.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return weight(all[a]) > weight(all[b]); });
  return order;
}

}  // namespace

control::Meaning SemanticGraph::meaning() const {
  control::Meaning m;
  m.name = name_;
  ExecutionPhase phase = phase_of(now_);
  if (now_.phase == ExecutionPhase::forward && now_.step && closed_[now_.step % kClosedStepsMax].number != now_.step) phase = expected_;
  m.phase = static_cast<uint32_t>(phase);
  m.module = places_[now_place_].module;
  m.label = places_[now_place_].label;
  m.steps.assign(steps_over_.begin(), steps_over_.end());
  m.ops.assign(ops_run_.begin(), ops_run_.end());
  m.nanoseconds.assign(nanoseconds_.begin(), nanoseconds_.end());
  m.memory.assign(memory_.begin(), memory_.end());
  return m;
}

control::Graph SemanticGraph::snapshot(uint64_t session) const {
  control::Graph g;
  g.session = session;
  g.meaning = meaning();
  g.nodes_left_out = nodes_left_out_;
  g.edges_left_out = edges_left_out_;
  size_t bytes = 0;
  std::vector<uint32_t> place_in(nodes_.size(), kNone), kept;
  for (uint32_t i : heaviest_first(nodes_, [](const Node& n) { return n.nanoseconds; })) {
    const Place& p = places_[place_of(nodes_[i].key)];
    size_t more = padded(op_of(names_, nodes_[i].key)) + padded(p.module) + padded(p.label) + 6 * 8 + nodes_[i].read.size() * 8;
    if (bytes + more > kSnapshotBytesMax * 2 / 3) {  // edges take a quarter of what nodes do
      g.nodes_left_out += nodes_[i].count;
      continue;
    }
    bytes += more;
    kept.push_back(i);
  }
  std::sort(kept.begin(), kept.end());  // the order in which they first ran
  for (uint32_t i : kept) {
    const Node& n = nodes_[i];
    const Place& p = places_[place_of(n.key)];
    place_in[i] = static_cast<uint32_t>(g.nodes.size());
    g.nodes.push_back({std::string(op_of(names_, n.key)),
                       p.module,
                       p.label,
                       static_cast<uint32_t>(n.key & 7),
                       n.count,
                       n.nanoseconds,
                       n.flops,
                       n.written,
                       {n.read.begin(), n.read.end()}});
  }
  for (uint32_t i : heaviest_first(edges_, [](const Edge& e) { return e.bytes; })) {
    const Edge& e = edges_[i];
    uint32_t from = place_in[e.key >> 32], to = place_in[static_cast<uint32_t>(e.key)];
    if (from == kNone || to == kNone || bytes + 6 * 8 > kSnapshotBytesMax) {
      g.edges_left_out += e.count;
      continue;
    }
    bytes += 6 * 8;
    g.edges.push_back({from, to, static_cast<uint32_t>(e.residency), e.count, e.bytes, e.lifetime});
  }
  return g;
}

}  // namespace djinn::graph

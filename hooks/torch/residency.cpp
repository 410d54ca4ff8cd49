// See residency.hpp.
#include "hooks/torch/residency.hpp"

#include "hooks/torch/host.hpp"

namespace djinn::hook {

using graph::ExecutionPhase;

namespace {
// Sums are for people who look; a sweep of ten thousand storages takes 0.2 ms.
constexpr auto kSumEvery = std::chrono::milliseconds(50);
// The dead are forgotten when there may be more of them than of the living.
constexpr size_t kDeadMax = 4096;
constexpr size_t kSlotsAtFirst = 1 << 10;
// Keys pass a rotation, a cache's cat and a repetition for grouped heads on their way into an attention.
constexpr int kFeedDepth = 4;

size_t hash(const c10::StorageImpl* key) { return (reinterpret_cast<uint64_t>(key) >> 4) * 0x9E3779B97F4A7C15ull >> 20; }
}  // namespace

Residencies& residencies() {
  static Residencies* r = new Residencies;  // ops are called until the process is gone
  return *r;
}

Residencies::Entry* Residencies::find(const c10::StorageImpl* key) {
  if (slots_.empty()) return nullptr;
  size_t mask = slots_.size() - 1;
  for (size_t i = hash(key) & mask; slots_[i]; i = (i + 1) & mask)
    if (entries_[slots_[i] - 1].key == key) return &entries_[slots_[i] - 1];
  return nullptr;
}

void Residencies::index(size_t slots) {
  slots_.assign(slots, 0);
  for (size_t n = 0; n < entries_.size(); n++) {
    size_t i = hash(entries_[n].key) & (slots - 1);
    while (slots_[i]) i = (i + 1) & (slots - 1);
    slots_[i] = static_cast<uint32_t>(n + 1);
  }
}

// While the weak reference lives, nobody else gets the key's address.
Residencies::Entry& Residencies::add(c10::weak_intrusive_ptr<c10::StorageImpl> storage, c10::StorageImpl* key, Residency residency, bool tell) {
  if (entries_.size() > 2 * alive_then_ + kDeadMax) forget_the_dead();
  if (2 * entries_.size() >= slots_.size()) index(std::max(kSlotsAtFirst, 2 * slots_.size()));
  Entry& e = entries_.emplace_back(Entry{std::move(storage), key});
  e.address = reinterpret_cast<uint64_t>(key->data());
  e.bytes = key->nbytes();
  e.residency = residency;
  size_t mask = slots_.size() - 1, i = hash(key) & mask;
  while (slots_[i]) i = (i + 1) & mask;
  slots_[i] = static_cast<uint32_t>(entries_.size());
  if (tell || !graph::shows_itself(residency)) changed_.insert(changed_.end(), {e.address, static_cast<uint64_t>(residency)});
  return e;
}

// Of an argument: the server, which has not seen an op make it, may remember whose memory lay at its address before. So it is told.
Residencies::Entry& Residencies::entry(const at::Tensor& t, Residency unless_weight, bool* fresh) {
  auto* key = t.storage().unsafeGetStorageImpl();
  if (fresh) *fresh = false;
  if (Entry* e = find(key)) {
    if (auto address = reinterpret_cast<uint64_t>(key->data()); address != e->address) {  // resized: what was told is of its old place
      e->address = address, e->bytes = key->nbytes();
      changed_.insert(changed_.end(), {address, static_cast<uint64_t>(e->residency)});
    }
    return *e;
  }
  if (fresh) *fresh = true;
  // what autograd collects gradients for is a weight, whoever holds it
  bool weight = t.is_leaf() && t.requires_grad();
  return add(t.storage().getWeakStorageImpl(), key, weight ? Residency::persistent_weight : unless_weight, true);
}

bool Residencies::written(const at::Tensor& t, ExecutionPhase phase) {
  bool fresh;
  entry(t, graph::made_in(phase), &fresh);
  return fresh;
}

void Residencies::made(const at::Tensor& t, ExecutionPhase phase) {
  auto* key = t.storage().unsafeGetStorageImpl();
  Residency r = graph::made_in(phase);
  if (Entry* e = find(key)) {
    if (e->residency != Residency::persistent_weight) e->residency = r;
  } else {
    add(t.storage().getWeakStorageImpl(), key, r, false);
  }
}

void Residencies::copied(const at::Tensor& from, const at::Tensor& to) {
  if (from.scalar_type() != to.scalar_type()) return;
  const c10::StorageImpl* source = entry(from).key;
  Entry& e = entry(to);
  if (source == e.key || e.source[0] == source) return;
  e.source[1] = e.source[0];
  e.source[0] = source;
}

void Residencies::change(Entry& e, Residency residency) {
  if (e.residency == residency) return;
  e.residency = residency;
  changed_.insert(changed_.end(), {e.address, static_cast<uint64_t>(residency)});
}

void Residencies::own(c10::StorageImpl* storage) {
  if (!storage || !storage->data()) return;
  if (Entry* e = find(storage)) return change(*e, Residency::persistent_weight);
  auto held = c10::intrusive_ptr<c10::StorageImpl>::unsafe_reclaim_from_nonowning(storage);
  add(c10::weak_intrusive_ptr<c10::StorageImpl>(held), storage, Residency::persistent_weight, true);
}

void Residencies::feed(const c10::StorageImpl* key, Storages& fed, int depth) {
  Entry* e = find(key);
  if (!e) return;
  fed.push_back(e->storage);
  const c10::StorageImpl* source[2] = {e->source[0], e->source[1]};
  if (depth < kFeedDepth)
    for (auto* s : source)
      if (s) feed(s, fed, depth + 1);
}

bool Residencies::any_alive(const Storages& storages) {
  for (const auto& w : storages)
    if (Entry* e = find(w._unsafe_get_target()); e && !w.expired() && e->residency != Residency::persistent_weight) return true;
  return false;
}

void Residencies::settle(const Storages& storages, Residency residency) {
  for (const auto& w : storages)
    if (Entry* e = find(w._unsafe_get_target()); e && !w.expired() && e->residency != Residency::persistent_weight) change(*e, residency);
}

void Residencies::flush() {
  for (size_t at = 0; at < changed_.size();) {
    size_t words = std::min(changed_.size() - at, size_t{2} * wire::kResidenciesMax);
    std::vector<std::byte> payload;
    wire::Writer(payload).put_array(std::span<const uint64_t>(changed_).subspan(at, words));
    host->post(static_cast<uint32_t>(wire::Opcode::meaning_residency), 0, payload.data(), payload.size());
    at += words;
  }
  changed_.clear();
}

void Residencies::forget_the_dead() {
  size_t kept = 0;
  for (size_t n = 0; n < entries_.size(); n++) {
    if (entries_[n].storage.expired()) continue;
    entries_[n].source[0] = entries_[n].source[1] = nullptr;  // their addresses may be others' now
    if (kept != n) entries_[kept] = std::move(entries_[n]);
    ++kept;
  }
  entries_.erase(entries_.begin() + static_cast<ptrdiff_t>(kept), entries_.end());
  alive_then_ = kept;
  if (!slots_.empty()) index(slots_.size());
}

void Residencies::sum_up() {
  auto now = std::chrono::steady_clock::now();
  if (now - summed_up_ < kSumEvery) return;
  summed_up_ = now;
  forget_the_dead();
  std::array<uint64_t, graph::kDataResidencies.size()> sums{};
  for (const Entry& e : entries_) sums[static_cast<size_t>(e.residency)] += e.bytes;
  if (sums == told_) return;
  told_ = sums;
  wire::MeaningMemory m;
  std::copy(sums.begin(), sums.end(), m.bytes);
  host->post(static_cast<uint32_t>(wire::Opcode::meaning_memory), 0, &m, sizeof m);
}

}  // namespace djinn::hook

// Whose memory it is (DataResidency), by ownership: each storage that an op touches is known here by a weak reference, with its class. What the
// server can tell by itself (what an op makes is an activation, a gradient, an input, by the op's phase) is not sent; what it cannot is: weights, an
// optimizer's state, a cache of keys and values, and whatever is an argument before an op has made it. Sums over the living are sent now and then.
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/core/StorageImpl.h>

#include <chrono>
#include <cstdint>
#include <mutex>
#include <vector>

#include "semantic/graph/vocabulary.hpp"

namespace djinn::hook {

// While it is held, nobody else gets the storage's address.
using Storages = std::vector<c10::weak_intrusive_ptr<c10::StorageImpl>>;

class Residencies {
 public:
  using Residency = graph::DataResidency;
  // The methods below want it held.
  std::mutex mutex;

  // An argument of an op; one that nobody has made here is a weight or an input.
  void read(const at::Tensor& t) { entry(t); }
  // An argument that the op writes; one that nobody knows is being made (a clone is an allocation and a copy). True then.
  bool written(const at::Tensor& t, graph::ExecutionPhase phase);
  // A result that is memory of its own.
  void made(const at::Tensor& t, graph::ExecutionPhase phase);
  // `to` holds a copy of (a part of) `from`: a cache is recognised through it.
  void copied(const at::Tensor& from, const at::Tensor& to);
  // A module's parameter or buffer.
  void own(c10::StorageImpl* storage);
  // Keys or values of an attention, with what they were copied from, are added to `fed`.
  void feed(const c10::StorageImpl* key, Storages& fed, int depth = 0);
  bool is_input(const at::Tensor& t) { return entry(t).residency == Residency::input; }
  // Of these: are any alive; those that are and no weights become `residency`.
  bool any_alive(const Storages& storages);
  void settle(const Storages& storages, Residency residency);

  // Tells the server what has changed, before the op that follows.
  void flush();
  // At the end of steps: forgets the dead and tells the sums, when the last time is long enough ago.
  void sum_up();

 private:
  struct Entry {
    c10::weak_intrusive_ptr<c10::StorageImpl> storage;
    c10::StorageImpl* key;
    const c10::StorageImpl* source[2] = {nullptr, nullptr};
    uint64_t address = 0, bytes = 0;
    Residency residency = Residency::other;
  };
  Entry& entry(const at::Tensor& t, Residency unless_weight = Residency::input, bool* fresh = nullptr);
  Entry* find(const c10::StorageImpl* key);
  Entry& add(c10::weak_intrusive_ptr<c10::StorageImpl> storage, c10::StorageImpl* key, Residency residency, bool tell);
  void change(Entry& e, Residency residency);
  void forget_the_dead();
  void index(size_t slots);

  std::vector<Entry> entries_;
  std::vector<uint32_t> slots_;  // open addressing: number of an entry + 1
  size_t alive_then_ = 0;        // entries that the last sweep left
  std::vector<uint64_t> changed_;
  std::array<uint64_t, graph::kDataResidencies.size()> told_{};
  std::chrono::steady_clock::time_point summed_up_{};
};
Residencies& residencies();

}  // namespace djinn::hook

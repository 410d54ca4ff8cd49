// An emulated network: delay, bandwidth and seeded faults, the one definition for tests and benches (there is no netem in a container). It sits in
// the client's link and shapes both directions; absent, it costs nothing. DJINN_LINK="rtt=1ms,bandwidth=1Gbit,seed=7,cut=0.001,slow=0.01,
// duplicate=0.01,garbage=0.01": probabilities are per message sent.
#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace djinn::link {

using Clock = std::chrono::steady_clock;

struct Emulation {
  std::chrono::nanoseconds rtt{0};
  double bits_per_second = 0;  // 0 = unlimited
  uint64_t seed = 1;
  double cut = 0, slow = 0, duplicate = 0, garbage = 0;
};
// Nullopt, and a clause that names the unknown or malformed part.
std::optional<Emulation> parse_emulation(std::string_view text, std::string& error);

// One direction: messages leave in order, each not before its time.
template <class Item>
class Pipe {
 public:
  explicit Pipe(const Emulation& e) : emulation_(e) {}
  void push(Item item, size_t bytes, std::chrono::nanoseconds extra = {}) {
    auto start = std::max(Clock::now() + extra, free_);
    if (emulation_.bits_per_second > 0) start += std::chrono::nanoseconds(static_cast<int64_t>(bytes * 8e9 / emulation_.bits_per_second));
    free_ = start;
    items_.push_back({start + emulation_.rtt / 2, std::move(item)});
  }
  std::optional<Item> pop_due() {
    if (items_.empty() || items_.front().due > Clock::now()) return std::nullopt;
    Item item = std::move(items_.front().item);
    items_.pop_front();
    return item;
  }
  std::optional<Clock::time_point> next() const { return items_.empty() ? std::nullopt : std::optional(items_.front().due); }

 private:
  struct Entry {
    Clock::time_point due;
    Item item;
  };
  Emulation emulation_;
  std::deque<Entry> items_;
  Clock::time_point free_{};
};

}  // namespace djinn::link

// An emulated network: delay, bandwidth and seeded faults, the one definition for tests and benches (there is no netem in a container). The client's
// link shapes both directions with it; absent, it costs nothing. DJINN_LINK="rtt=1ms,bandwidth=1Gbit,seed=7,cut=0.001,slow=0.01,duplicate=0.01,
// garbage=0.01": probabilities are per message that the program sends, so that one seed replays one sequence of faults whatever the clock does to
// heartbeats.
#pragma once
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>

namespace djinn::transport {

using Clock = std::chrono::steady_clock;

struct Emulation {
  std::chrono::nanoseconds rtt{0};
  double bits_per_second = 0;  // 0 = unlimited
  uint64_t seed = 1;
  double cut = 0;        // the connection ends here
  double slow = 0;       // this message and those behind it come kSlow later
  double duplicate = 0;  // the message comes twice
  double garbage = 0;    // a damaged copy comes before the message
};
constexpr std::chrono::milliseconds kSlow{50};

// Nullopt, and a clause that names the unknown or malformed part.
std::optional<Emulation> parse_emulation(std::string_view text, std::string& error);

// What happens to one message.
struct Fault {
  bool cut = false, slow = false, duplicate = false, garbage = false;
  bool operator==(const Fault&) const = default;
};

// The seeded dice. Each message draws the same number of times, so that changing one probability leaves the other faults where they were.
class Dice {
 public:
  explicit Dice(const Emulation& e) : emulation_(e), random_(e.seed) {}
  Fault roll();
  // Flips at least one byte, about one in fifty.
  void damage(std::span<std::byte> bytes);

 private:
  Emulation emulation_;
  std::mt19937_64 random_;
};

// One direction: messages leave in order, each not before its time.
template <class Item>
class Pipe {
 public:
  explicit Pipe(const Emulation& e) : emulation_(e) {}
  void push(Item item, size_t bytes, std::chrono::nanoseconds extra = {}) {
    free_ = std::max(Clock::now() + extra, free_);
    if (emulation_.bits_per_second > 0)
      free_ += std::chrono::nanoseconds(static_cast<int64_t>(static_cast<double>(bytes) * 8e9 / emulation_.bits_per_second));
    items_.push_back({free_ + emulation_.rtt / 2, std::move(item)});
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
  Clock::time_point free_{};  // when the wire has sent everything so far
};

}  // namespace djinn::transport

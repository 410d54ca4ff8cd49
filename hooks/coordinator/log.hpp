// The log of one session: posted commands and calls take their tickets here and leave in batches. What interpose/batch/log does for a CUDA program,
// for one that only calls and waits: no annotation, no events, no idle flush, because each call flushes and little comes between. A posted command
// that fails is told by the next call. Mirror: server/session.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "semantic/abi/link.h"
#include "semantic/wire/command.hpp"
#include "semantic/wire/frame.hpp"

namespace djinn::coordinator {

class Log {
 public:
  struct Reply {
    bool lost = false;  // no answer came, and none will
    int status = 0;
    std::string text;                // of a failure
    std::vector<std::byte> payload;  // also of a call that succeeded after something posted had failed
    uint64_t bulk_bytes = 0;         // stored in `into`
  };
  explicit Log(std::chrono::milliseconds patience) : patience_(patience) {}
  void start(const djinn_link_api* api, djinn_link* link, const djinn_link_opened& opened);

  // Takes the part, if any. Nothing happens once the session is lost.
  void post(wire::Opcode opcode, std::span<const std::byte> payload, const djinn_part* part = nullptr);
  // A round trip. The reply's bulk parts go one behind the other to `into`; more than fits there ends the session.
  Reply call(wire::Opcode opcode, std::span<const std::byte> payload, std::span<std::byte> into = {});

  // The session is over; the first reason stands. From whichever thread notices.
  void lose(const std::string& reason);
  bool lost() const { return lost_.load(std::memory_order_acquire); }
  std::string reason() const;
  uint64_t round_trips() const { return round_trips_.load(std::memory_order_relaxed); }

  void on_frame(std::span<const std::byte> frame, std::span<const djinn_part> bulk);
  void on_tick();

 private:
  using Clock = std::chrono::steady_clock;
  struct Pending {
    Reply reply;
    std::span<std::byte> into;
    bool done = false;
  };
  uint64_t append_locked(wire::Opcode opcode, uint16_t flags, std::span<const std::byte> payload, const djinn_part* part);
  void flush_locked();
  bool credit_locked(uint64_t bytes);
  void reserve_credit(std::unique_lock<std::mutex>& lock, uint64_t bytes);
  bool wait_until(const std::function<bool()>& done);
  void take_record(const wire::Record& record, std::span<const djinn_part> bulk);
  void take_reply(const wire::Record& record, std::span<const djinn_part> bulk);
  void take_error(const wire::Record& record);

  const std::chrono::milliseconds patience_;
  const djinn_link_api* api_ = nullptr;
  djinn_link* link_ = nullptr;

  std::mutex mutex_;  // the batch and the order of sending; may be held while sending
  wire::FrameHeader header_;
  std::vector<std::byte> frame_;
  std::vector<djinn_part> bulk_;
  uint64_t bulk_bytes_ = 0, next_ = 1, under_way_bytes_ = 0;
  struct Sent {
    uint64_t last, bytes;
  };
  std::deque<Sent> under_way_;

  std::atomic<uint64_t> acknowledged_{0}, reports_{0}, round_trips_{0};
  std::atomic<bool> lost_{false};
  mutable std::mutex answers_mutex_;  // what is waited for; never held while sending
  std::condition_variable answers_;
  std::unordered_map<uint64_t, Pending*> pending_;
  std::string reason_, posted_failure_;
};

}  // namespace djinn::coordinator

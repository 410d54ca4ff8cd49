// The one log of the process: every posted command takes its ticket here, whatever thread it comes from, and leaves in a batch. A batch is flushed
// before a round trip, when it is large, or when the server has nothing to do (everything sent so far is executed) or soon will have. What is under
// way is bounded by the credit window; beyond it a post blocks, which counts as a stall. Reports come in through on_frame. Mirror: server/session.
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <unordered_map>

#include "interpose/client.hpp"

namespace djinn {

class Log {
 public:
  // Both outlive the log. `session` and `incarnation` go into every frame.
  void start(const djinn_link_api* api, djinn_link* link, uint64_t session, uint32_t incarnation, bool flush_when_idle);

  Ticket post(uint32_t opcode, uint16_t flags, std::span<const std::byte> payload, std::span<const djinn_part> bulk);
  // No other thread's record comes between.
  Ticket post_many(size_t count, const uint32_t* opcodes, const djinn_span* payloads);
  // Takes the parts that come with an answer, on whichever thread reads the link, before the ticket counts as executed.
  using Store = std::function<void(std::span<const djinn_part>)>;
  struct Request {
    uint32_t opcode;
    uint16_t flags;
    std::span<const std::byte> payload;
    std::span<const djinn_part> bulk;
    Store store = {};  // none: the reply keeps copies of its parts
  };
  // One round trip for all of them. The reply is that of the first that failed, else of the last.
  Reply call(std::span<const Request> requests);
  Reply call(uint32_t opcode, uint16_t flags, std::span<const std::byte> payload, std::span<const djinn_part> bulk) {
    Request r{opcode, flags, payload, bulk};
    return call({&r, 1});
  }
  // A download that the server will push.
  Ticket post_download(std::span<const std::byte> payload, Store store);

  void flush();
  Ticket last();
  bool executed(Ticket t) const { return acknowledged_.load(std::memory_order_acquire) >= t; }
  // Flushes and waits until `t` has been executed; a round trip unless it has been. False when the session is lost first.
  bool wait_executed(Ticket t);
  bool lost() const { return lost_.load(std::memory_order_acquire); }

  void on_frame(std::span<const std::byte> frame, std::span<const djinn_part> bulk);
  void on_lost();
  void on_tick();

 private:
  struct Pending {
    Pending(Reply r, const Store& s) : reply(std::move(r)), store(s) {}
    Reply reply;
    const Store& store;
    std::atomic<bool> done{false};
  };
  struct Sent {  // a frame under way
    Ticket last;
    uint64_t bytes;
  };
  void annotate_locked(uint32_t opcode);
  Ticket append_locked(uint32_t opcode, uint16_t flags, std::span<const std::byte> payload, std::span<const djinn_part> bulk, uint32_t line = 0);
  void flush_locked();
  void settle_locked();
  bool server_hungry_locked();
  void flush_by_rule_locked(bool work);
  void reserve_credit(std::unique_lock<std::mutex>& lock, uint64_t bytes);
  void wait_until(const std::function<bool()>& done);
  bool fits(uint32_t opcode, size_t payload_bytes);
  bool take_reply(wire::Reader& r, const wire::Record& record, std::span<const djinn_part> bulk, Ticket& ticket);
  void take_pushed(wire::Reader& r, std::span<const djinn_part> rows);
  void take_record(const wire::Record& record, std::span<const djinn_part> bulk, std::vector<Ticket>& replied);
  void take_error(wire::Reader& r);

  const djinn_link_api* api_ = nullptr;
  djinn_link* link_ = nullptr;
  bool flush_when_idle_ = true;
  wire::FrameHeader header_;

  std::mutex mutex_;  // the batch and the order of sending
  std::vector<std::byte> frame_;
  std::vector<djinn_part> bulk_;
  uint32_t count_ = 0;
  uint64_t bulk_bytes_ = 0;
  Ticket next_ = 1;
  uint32_t annotated_ = 0;  // run of the op that the server takes the calls for
  Ticket sent_ = 0;
  std::deque<Sent> under_way_;
  uint64_t under_way_bytes_ = 0;
  uint64_t reports_ = 0;

  std::atomic<Ticket> acknowledged_{0};
  std::atomic<bool> lost_{false};
  std::mutex answers_mutex_;  // what is waited for; never held while sending
  std::condition_variable answers_;
  std::atomic<uint64_t> arrivals_{0};  // reports taken: a waiter that has looked before the last one looks again
  std::unordered_map<Ticket, Pending*> pending_;
  std::unordered_map<Ticket, Store> stores_;
};

}  // namespace djinn

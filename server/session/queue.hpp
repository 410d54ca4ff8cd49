// Batches on their way from the socket to the executor thread. It is bounded by what a client may have unacknowledged (the credit window): a client
// that keeps the rules never finds it full, and one that does not is told so, which is why nobody ever waits here to push.
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>

#include "server/session/door.hpp"

namespace djinn::server {

class BatchQueue {
 public:
  // False when the client has sent more than its credit. Frames count with slack: what the client counts as bytes is its business.
  bool push(Batch&& batch) {
    std::lock_guard lock(mutex_);
    tickets_ += batch.records.size();
    bytes_ += batch.bytes;
    if (tickets_ > wire::kCreditTickets || bytes_ > 2 * wire::kCreditBytes) return false;
    batches_.push_back(std::move(batch));
    size_.store(batches_.size(), std::memory_order_release);
    if (sleeping_) filled_.notify_one();
    return true;
  }
  bool pop(Batch& out) {
    if (!size_.load(std::memory_order_acquire)) return false;
    std::lock_guard lock(mutex_);
    if (batches_.empty()) return false;
    out = std::move(batches_.front());
    batches_.pop_front();
    size_.store(batches_.size(), std::memory_order_release);
    return true;
  }
  // What was popped has been executed: its credit is the client's again.
  void executed(size_t tickets, uint64_t bytes) {
    std::lock_guard lock(mutex_);
    tickets_ -= tickets;
    bytes_ -= bytes;
  }
  // Sleeps until something is here or somebody nudges.
  void wait() {
    std::unique_lock lock(mutex_);
    sleeping_ = true;
    filled_.wait(lock, [&] { return !batches_.empty() || nudged_; });
    sleeping_ = nudged_ = false;
  }
  void nudge() {
    std::lock_guard lock(mutex_);
    nudged_ = true;
    filled_.notify_one();
  }

 private:
  std::mutex mutex_;
  std::condition_variable filled_;
  std::deque<Batch> batches_;
  std::atomic<size_t> size_{0};
  uint64_t tickets_ = 0, bytes_ = 0;
  bool sleeping_ = false, nudged_ = false;
};

}  // namespace djinn::server

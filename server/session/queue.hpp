// Batches on their way from the socket to the executor thread, which takes most of them from the socket itself (worker.cpp). It is bounded by what a
// client may have unacknowledged (the credit window): a client that keeps the rules never finds it full, and one that does not is told so, which is
// why nobody ever waits here.
#pragma once
#include <atomic>
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
  bool empty() const { return !size_.load(std::memory_order_acquire); }
  size_t tickets() {
    std::lock_guard lock(mutex_);
    return tickets_;
  }
  // What was popped has been executed: its credit is the client's again.
  void executed(size_t tickets, uint64_t bytes) {
    std::lock_guard lock(mutex_);
    tickets_ -= tickets;
    bytes_ -= bytes;
  }

 private:
  std::mutex mutex_;
  std::deque<Batch> batches_;
  std::atomic<size_t> size_{0};
  uint64_t tickets_ = 0, bytes_ = 0;
};

}  // namespace djinn::server

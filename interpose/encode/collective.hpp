// Collectives among devices of this process, lowered to copies and reductions on the server. Their ranks call one by one, grouped or each from a
// thread of its own; what they said is matched here, and the last to come posts the work, so that it follows everything that any of them posted
// before. The others wait for it (NCCL's callers need not, because its kernels do on the device; here the log has one order). The wait ends. Mirror:
// server/decode/reduce.cpp.
#pragma once
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "interpose/client.hpp"

namespace djinn {

// Element types, by NCCL's numbers; the last two can be moved, not reduced.
constexpr uint32_t kElementTypes = 12;
uint64_t element_bytes(uint32_t type);

struct CollectiveCall {
  enum class Kind : uint8_t { broadcast, reduce, all_reduce, all_gather, reduce_scatter, all_to_all, gather, scatter, send, receive } kind;
  const void* from = nullptr;
  void* to = nullptr;
  uint64_t count = 0;  // elements of one rank's share
  uint32_t type = 0;
  wire::ReduceOperation operation{};
  int peer = 0;  // the root, or the other end
  uint64_t stream = 0;
  auto shape() const { return std::tuple(kind, count, type, operation, peer); }  // in which all ranks agree
};

// Ranks that talk to each other.
class Clique {
 public:
  explicit Clique(size_t ranks) : devices_(ranks, -1), waiting_(ranks), sends_(ranks * ranks), receives_(ranks * ranks) {}
  size_t ranks() const { return devices_.size(); }
  // Empty, or why not.
  std::string join(size_t rank, int device);

  // What one caller said in one group.
  struct Said {
    size_t rank;
    CollectiveCall call;
  };
  // Empty when all of it has been posted, else why not.
  std::string submit(std::span<const Said> calls);
  // Everybody who waits is told so, and nobody may call again.
  void abort(const std::string& why);

 private:
  struct Ticketed {  // a call, and where its caller counts what is left
    CollectiveCall call;
    size_t* left;
  };
  using Queue = std::deque<Ticketed>;
  void match();
  void match_collectives();
  void match_transfers();
  void await(std::unique_lock<std::mutex>& lock, const size_t& left);
  void fail(std::string why);
  std::string missing() const;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<int> devices_;             // of each rank; -1: it has not joined
  std::vector<Queue> waiting_;           // collectives, by rank
  std::vector<Queue> sends_, receives_;  // by sender * ranks + receiver
  std::string broken_;                   // why nothing goes on
};

}  // namespace djinn

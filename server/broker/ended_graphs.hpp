// The last graphs of sessions that have ended, as they are sent, so that a program that is over can still be looked at.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

namespace djinn::server {

// Each at most a control message: 64 MiB at the very most, some hundred KiB in practice.
constexpr size_t kGraphsKept = 16;

// In the order in which they ended, which is not that of their ids: a long session is as well worth a look as the short ones that came after it.
class EndedGraphs {
 public:
  void keep(uint64_t session, std::vector<std::byte> answer) {
    graphs_.emplace_back(session, std::move(answer));
    if (graphs_.size() > kGraphsKept) graphs_.pop_front();
  }
  // Null: there is none.
  const std::vector<std::byte>* find(uint64_t session) const {
    auto g = std::find_if(graphs_.begin(), graphs_.end(), [&](const auto& x) { return x.first == session; });
    return g == graphs_.end() ? nullptr : &g->second;
  }
  // The session that was opened last; 0: none.
  uint64_t newest() const {
    uint64_t newest = 0;
    for (const auto& [session, answer] : graphs_) newest = std::max(newest, session);
    return newest;
  }

 private:
  std::deque<std::pair<uint64_t, std::vector<std::byte>>> graphs_;
};

}  // namespace djinn::server

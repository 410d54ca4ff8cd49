// The sessions of a coordinator: one per target, opened at the first use, used by everybody, ended when idle, replaced when lost.
#pragma once
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "hooks/coordinator/session.hpp"

namespace djinn::coordinator {

class Pool {
 public:
  explicit Pool(CoordinatorConfiguration configuration);
  ~Pool() { close(); }
  // Throws UnreachableError, with `op` in it. A session that is here is open; it may be lost a moment later.
  std::shared_ptr<Session> session(const std::string& op, const std::string& target);
  CoordinatorStatistics statistics(const std::string& target) const;
  void close();
  bool foreign() const;  // in a forked child: the sweeper and the sessions' threads are the parent's, and a mutex may be held for ever

 private:
  struct Place {
    std::mutex opening;                // held for as long as an open takes, so that others wait for its outcome
    std::shared_ptr<Session> session;  // under the pool's mutex, and so is what follows
    CoordinatorStatistics past;        // of the sessions that are over
    uint64_t attempts = 0;             // opens that are over; who waited for one shares its outcome
    std::string why;                   // the last one failed
  };
  std::shared_ptr<Place> place(const std::string& op, const std::string& target, uint64_t& attempts);
  std::shared_ptr<Session> open(const std::string& op, const std::string& target, Place& p);
  std::shared_ptr<Session> take(Place& p);
  void sweep();

  CoordinatorConfiguration configuration_;
  const pid_t owner_;
  mutable std::mutex mutex_;
  std::condition_variable closing_;
  std::map<std::string, std::shared_ptr<Place>> places_;
  const djinn_link_api* api_ = nullptr;
  bool closed_ = false;
  std::thread sweeper_;
};

}  // namespace djinn::coordinator

// Starts workers: by exec of this binary, never by fork alone (OpenMP and libtorch do not survive one), and always from the same thread, because a
// worker's parent-death signal is tied to the thread that started it.
#pragma once
#include <sys/types.h>

#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "server/session/channel.hpp"

namespace djinn::server {

struct Spawned {
  pid_t pid = -1;
  Channel channel;
  std::string error;  // when pid is -1
};

class Spawner {
 public:
  Spawner();
  ~Spawner();
  // Waits for the spawner thread to do it: less than a millisecond.
  Spawned spawn();

 private:
  void run();
  std::mutex mutex_;
  std::condition_variable changed_;
  bool wanted_ = false, over_ = false;
  std::optional<Spawned> done_;
  std::thread thread_;
};

}  // namespace djinn::server

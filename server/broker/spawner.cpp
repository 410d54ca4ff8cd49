// See spawner.hpp.
#include "server/broker/spawner.hpp"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "server/session/worker.hpp"

extern char** environ;

namespace djinn::server {

namespace {

// A worker is a server: whatever preload made somebody's program a client is not for it.
std::vector<char*> worker_environment() {
  std::vector<char*> out;
  for (char** e = environ; *e; ++e)
    if (std::strncmp(*e, "LD_PRELOAD=", 11) != 0 || !std::strstr(*e, "libdjinn")) out.push_back(*e);
  out.push_back(nullptr);
  return out;
}

Spawned spawn_worker() {
  int ends[2];
  Spawned s;
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return s.error = std::strerror(errno), std::move(s);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, ends[1], kChannelDescriptor);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  std::string broker = std::to_string(getpid());
  char name[] = "djinn-gpu-server";
  std::string flag = kWorkerFlag;
  char* argv[] = {name, flag.data(), broker.data(), nullptr};
  auto environment = worker_environment();
  int error = posix_spawn(&s.pid, "/proc/self/exe", &actions, &attributes, argv, environment.data());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  close(ends[1]);
  s.channel = Channel(ends[0], false);
  if (error) {
    s.pid = -1;
    s.error = std::strerror(error);
  }
  return s;
}

}  // namespace

Spawner::Spawner() : thread_([this] { run(); }) {}

Spawner::~Spawner() {
  {
    std::lock_guard lock(mutex_);
    over_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

Spawned Spawner::spawn() {
  std::unique_lock lock(mutex_);
  wanted_ = true;
  changed_.notify_all();
  changed_.wait(lock, [&] { return done_.has_value(); });
  Spawned s = std::move(*done_);
  done_.reset();
  return s;
}

void Spawner::run() {
  pthread_setname_np(pthread_self(), "djinn-spawner");
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return wanted_ || over_; });
    if (over_) return;
    done_ = spawn_worker();
    wanted_ = false;
    changed_.notify_all();
  }
}

}  // namespace djinn::server

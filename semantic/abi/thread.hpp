// Threads of ours inside of a program that is not: its signal handlers run on its own threads, never on these.
#pragma once
#include <pthread.h>
#include <signal.h>

namespace djinn {

// Threads that this one starts while it lives take no signals.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

// Without a word when there are no more threads. The name has at most 15 bytes.
inline void start_detached(void* (*run)(void*), const char* name) {
  SignalsBlocked blocked;
  pthread_t thread;
  if (pthread_create(&thread, nullptr, run, nullptr) != 0) return;
  pthread_setname_np(thread, name);
  pthread_detach(thread);
}

}  // namespace djinn

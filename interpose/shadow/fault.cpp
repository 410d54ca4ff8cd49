// See fault.hpp. The handler runs on the faulting thread. That thread is in the program's code, not in ours, so that it holds none of our locks.
#include "interpose/shadow/fault.hpp"

#include <signal.h>

#include "interpose/batch/session.hpp"

namespace djinn {

static struct sigaction before;

static void on_fault(int, siginfo_t* info, void*) {
  auto address = reinterpret_cast<uint64_t>(info->si_addr);
  auto* s = session();
  if (s && s->arenas->in_range(address)) {
    if (auto block = s->find_block(address))
      say(Level::error, "the program touched device memory at %#lx: byte %lu of an allocation of %lu bytes at %#lx", address,
          address - block->address, block->bytes, block->address);
    else say(Level::error, "the program touched device memory at %#lx, where nothing is allocated", address);
  }
  sigaction(SIGSEGV, &before, nullptr);  // the instruction faults again, and whoever was there before deals with it
}

void watch_faults() {
  struct sigaction ours {};
  ours.sa_sigaction = on_fault;
  ours.sa_flags = SA_SIGINFO;
  sigaction(SIGSEGV, &ours, &before);
}

}  // namespace djinn

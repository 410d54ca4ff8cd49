// What the device has and who holds it: memory leases and shares of the threads. Arithmetic only; the broker sends the messages.
// The invariant: the sum of all leases never exceeds the device's memory.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>

namespace djinn::server {

// What a session gets unasked: enough for a small model, so that opening one costs no further round trip.
constexpr uint64_t kFirstLease = 256ull << 20;

class Account {
 public:
  Account(uint64_t memory, unsigned threads) : memory_(memory), threads_(threads) {}
  // The lease it starts with: kFirstLease, or half of what is left when that is less.
  uint64_t open(uint64_t session);
  // A new total for the session: what it has from now on. Asking for more than there is changes nothing.
  uint64_t change(uint64_t session, uint64_t wanted);
  void close(uint64_t session);

  // Threads of each active session.
  unsigned share() const;
  uint64_t memory() const { return memory_; }
  uint64_t leased() const { return leased_; }
  size_t sessions() const { return leases_.size(); }

 private:
  uint64_t memory_, leased_ = 0;
  unsigned threads_;
  std::map<uint64_t, uint64_t> leases_;
};

}  // namespace djinn::server

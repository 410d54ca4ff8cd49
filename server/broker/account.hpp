// What the devices have and who holds it: memory leases, one per session and device, and shares of the threads. Arithmetic only; the broker sends the
// messages. The invariant: the sum of a device's leases never exceeds its memory.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

namespace djinn::server {

// What a session gets unasked of each device: enough for a small model, so that opening one costs no further round trip.
constexpr uint64_t kFirstLease = 256ull << 20;

class Account {
 public:
  // `memory` is each device's.
  Account(uint64_t memory, unsigned devices, unsigned threads) : memory_(memory), threads_(threads), leased_(devices) {}
  // The leases it starts with, one per device: kFirstLease, or half of what is left when that is less.
  std::vector<uint64_t> open(uint64_t session);
  // A new total of the session on the device: what it has from now on. Asking for more than there is changes nothing.
  uint64_t change(uint64_t session, size_t device, uint64_t wanted);
  void close(uint64_t session);

  // Threads of each active session.
  unsigned share() const;
  uint64_t memory() const { return memory_; }
  uint64_t leased(size_t device) const { return leased_.at(device); }
  uint64_t leased() const;  // of all devices
  size_t sessions() const { return leases_.size(); }

 private:
  uint64_t memory_;
  unsigned threads_;
  std::vector<uint64_t> leased_;                      // per device
  std::map<uint64_t, std::vector<uint64_t>> leases_;  // session → its lease on each device
};

}  // namespace djinn::server

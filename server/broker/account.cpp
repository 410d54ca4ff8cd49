// See account.hpp.
#include "server/broker/account.hpp"

#include <algorithm>
#include <cassert>

#include "semantic/wire/limits.hpp"

namespace djinn::server {

uint64_t Account::open(uint64_t session) {
  assert(!leases_.count(session));
  uint64_t half = (memory_ - leased_) / 2 & ~(wire::kGranule - 1);
  uint64_t lease = std::min(kFirstLease, half);
  leases_[session] = lease;
  leased_ += lease;
  return lease;
}

uint64_t Account::change(uint64_t session, uint64_t wanted) {
  auto it = leases_.find(session);
  if (it == leases_.end()) return 0;
  if (wanted > it->second && wanted - it->second > memory_ - leased_) return it->second;
  leased_ += wanted - it->second;
  it->second = wanted;
  assert(leased_ <= memory_);
  return wanted;
}

void Account::close(uint64_t session) {
  auto it = leases_.find(session);
  if (it == leases_.end()) return;
  leased_ -= it->second;
  leases_.erase(it);
}

unsigned Account::share() const { return std::max<unsigned>(1, threads_ / static_cast<unsigned>(std::max<size_t>(1, leases_.size()))); }

}  // namespace djinn::server

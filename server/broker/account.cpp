// See account.hpp.
#include "server/broker/account.hpp"

#include <algorithm>
#include <cassert>
#include <numeric>

#include "semantic/wire/limits.hpp"

namespace djinn::server {

std::vector<uint64_t> Account::open(uint64_t session) {
  assert(!leases_.count(session));
  std::vector<uint64_t>& leases = leases_[session];
  for (uint64_t& leased : leased_) {
    uint64_t half = (memory_ - leased) / 2 & ~(wire::kGranule - 1);
    leases.push_back(std::min(kFirstLease, half));
    leased += leases.back();
  }
  return leases;
}

uint64_t Account::change(uint64_t session, size_t device, uint64_t wanted) {
  auto it = leases_.find(session);
  if (it == leases_.end() || device >= leased_.size()) return 0;
  uint64_t &lease = it->second[device], &leased = leased_[device];
  if (wanted > lease && wanted - lease > memory_ - leased) return lease;
  leased += wanted - lease;
  lease = wanted;
  assert(leased <= memory_);
  return wanted;
}

void Account::close(uint64_t session) {
  auto it = leases_.find(session);
  if (it == leases_.end()) return;
  for (size_t device = 0; device < leased_.size(); device++) leased_[device] -= it->second[device];
  leases_.erase(it);
}

uint64_t Account::leased() const { return std::accumulate(leased_.begin(), leased_.end(), uint64_t{0}); }

unsigned Account::share() const { return std::max<unsigned>(1, threads_ / static_cast<unsigned>(std::max<size_t>(1, leases_.size()))); }

}  // namespace djinn::server

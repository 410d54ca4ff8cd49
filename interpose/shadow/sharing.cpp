// See sharing.hpp.
#include "interpose/shadow/sharing.hpp"

#include <sys/random.h>

#include "interpose/batch/session.hpp"
#include "interpose/shadow/error.hpp"

namespace djinn {

using wire::kGranule;

Sharing& sharing() {
  static Sharing* s = new Sharing;
  return *s;
}

int device_of(const SharedMemory& s) {
  const auto& devices = session()->devices;
  auto i = std::find(devices.begin(), devices.end(), s.device);
  return i == devices.end() ? -1 : static_cast<int>(i - devices.begin());
}

cudaError_t share_memory(uint64_t handle, uint64_t address, uint64_t size, int device, SharedMemory& out) {
  out = {};
  if (getrandom(&out.secret, sizeof out.secret, 0) != static_cast<ssize_t>(sizeof out.secret)) return cudaErrorOperatingSystem;
  out.session = session()->opened.session;
  out.device = session()->devices[static_cast<size_t>(device)];
  out.size = size;
  Reply r = call(wire::Opcode::memory_share, wire::MemoryShare{out.secret, handle, address, size});
  return r.status ? fail_with(r) : cudaSuccess;
}

void unshare_memory(const SharedMemory& s) { call(wire::Opcode::memory_unshare, s.secret); }

cudaError_t Sharing::get_handle(uint64_t address, SharedMemory& out) {
  std::lock_guard lock(mutex_);
  if (auto i = ours_.find(address); i != ours_.end()) return out = i->second, cudaSuccess;
  auto block = session()->arenas->find(address);
  if (!block || block->address != address) return cudaErrorInvalidValue;
  uint64_t first = address / kGranule * kGranule, end = (address + block->bytes + kGranule - 1) / kGranule * kGranule;
  if (cudaError_t e = share_memory(0, first, end - first, session()->arenas->device_of(address), out)) return e;
  out.offset = address - first;
  ours_[address] = out;
  return cudaSuccess;
}

void Sharing::freed(uint64_t address) {
  std::lock_guard lock(mutex_);
  auto i = ours_.find(address);
  if (i == ours_.end()) return;
  unshare_memory(i->second);
  ours_.erase(i);
}

// What has been done is undone when a later step fails: each holds on to the one before it.
cudaError_t Sharing::open(const SharedMemory& s, uint64_t& address) {
  std::lock_guard lock(mutex_);
  if (auto i = open_secrets_.find(s.secret); i != open_secrets_.end()) return ++opened_.at(address = i->second).uses, cudaSuccess;
  VirtualMemory& memory = *session()->virtual_memory;
  int device = device_of(s);
  if (device < 0) return cudaErrorInvalidDevice;
  uint64_t handle, base;
  if (cudaError_t e = memory.import(&handle, s, device)) return e;
  CUresult e = memory.reserve(&base, s.size, 0, device);
  if (!e && (e = memory.map(base, s.size, 0, handle))) memory.free_reservation(base, s.size);
  if (!e) e = memory.set_access(base, s.size, device, true);
  memory.release(handle);  // the mapping keeps it
  if (e) return cudaErrorMapBufferObjectFailed;
  address = base + s.offset;
  open_secrets_[s.secret] = address;
  opened_[address] = {base, handle, s.size, 1};
  return cudaSuccess;
}

cudaError_t Sharing::close(uint64_t address) {
  std::lock_guard lock(mutex_);
  auto i = opened_.find(address);
  if (i == opened_.end()) return cudaErrorInvalidValue;
  if (--i->second.uses) return cudaSuccess;
  VirtualMemory& memory = *session()->virtual_memory;
  memory.unmap(i->second.base, i->second.size);
  memory.free_reservation(i->second.base, i->second.size);
  std::erase_if(open_secrets_, [&](const auto& s) { return s.second == address; });
  opened_.erase(i);
  return cudaSuccess;
}

}  // namespace djinn

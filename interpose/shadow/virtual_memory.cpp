// See virtual_memory.hpp.
#include "interpose/shadow/virtual_memory.hpp"

#include <algorithm>
#include <bit>

#include "interpose/shadow/error.hpp"
#include "interpose/shadow/sharing.hpp"

namespace djinn {

using wire::kGranule;
static_assert(wire::kDevicesMax <= 32);  // Mapping::devices

namespace {
bool whole_granules(uint64_t address, uint64_t bytes) { return bytes && address % kGranule == 0 && bytes % kGranule == 0; }
CUresult posted(Ticket t) { return t ? CUDA_SUCCESS : to_driver(lost_error()); }
}  // namespace

CUresult VirtualMemory::reserve(uint64_t* address, uint64_t bytes, uint64_t alignment, int device) {
  if (!whole_granules(0, bytes) || (alignment && !std::has_single_bit(alignment))) return CUDA_ERROR_INVALID_VALUE;
  auto at = arenas_.of(device).reserve(bytes, std::max(alignment, kGranule));
  if (!at) return CUDA_ERROR_OUT_OF_MEMORY;
  std::lock_guard lock(mutex_);
  reservations_[*at] = bytes;
  *address = *at;
  return CUDA_SUCCESS;
}

CUresult VirtualMemory::free_reservation(uint64_t address, uint64_t bytes) {
  std::lock_guard lock(mutex_);
  auto r = reservations_.find(address);
  if (r == reservations_.end() || r->second != bytes) return CUDA_ERROR_INVALID_VALUE;
  auto mapped = mappings_.lower_bound(address);
  if (mapped != mappings_.end() && mapped->first - address < bytes) return CUDA_ERROR_INVALID_VALUE;
  reservations_.erase(r);
  arenas_.of(arenas_.device_of(address)).unreserve(address, bytes);
  return CUDA_SUCCESS;
}

CUresult VirtualMemory::create(uint64_t* handle, uint64_t bytes, const CUmemAllocationProp& properties, size_t on_server) {
  if (!whole_granules(0, bytes)) return CUDA_ERROR_INVALID_VALUE;
  DeviceArena& arena = arenas_.of(properties.location.id);
  if (!arena.charge(bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  std::lock_guard lock(mutex_);
  uint64_t id = next_handle_++;
  if (!post(wire::Opcode::memory_create, wire::MemoryCreate{id, bytes, on_server})) {
    arena.discharge(bytes);
    return posted(0);
  }
  physical_[id] = {bytes, properties};
  *handle = id;
  return CUDA_SUCCESS;
}

// The worker learns of a release when nothing is mapped either, so that a handle can come back from its mapping (retain).
void VirtualMemory::free_if_unused(uint64_t handle) {
  auto p = physical_.find(handle);
  if (p->second.references || p->second.mappings) return;
  if (p->second.shared) unshare_memory(*p->second.shared);
  post(wire::Opcode::memory_release, wire::Handle{handle});
  if (!p->second.foreign) arenas_.of(p->second.properties.location.id).discharge(p->second.bytes);
  physical_.erase(p);
}

CUresult VirtualMemory::release(uint64_t handle) {
  std::lock_guard lock(mutex_);
  auto p = physical_.find(handle);
  if (p == physical_.end() || !p->second.references) return CUDA_ERROR_INVALID_VALUE;
  --p->second.references;
  free_if_unused(handle);
  return CUDA_SUCCESS;
}

cudaError_t VirtualMemory::import(uint64_t* handle, const SharedMemory& s, int device) {
  std::lock_guard lock(mutex_);
  uint64_t id = next_handle_++;
  Reply r = call(wire::Opcode::memory_import, wire::MemoryImport{s.secret, id, s.size, s.device});
  if (r.status) return fail_with(r);
  CUmemAllocationProp p{};
  p.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  p.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  p.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  p.location.id = device;
  physical_[id] = {.bytes = s.size, .properties = p, .foreign = true};
  *handle = id;
  return cudaSuccess;
}

cudaError_t VirtualMemory::share(uint64_t handle, SharedMemory& out) {
  std::lock_guard lock(mutex_);
  auto i = physical_.find(handle);
  if (i == physical_.end() || !i->second.references) return cudaErrorInvalidValue;
  Physical& p = i->second;
  if (p.foreign || !(p.properties.requestedHandleTypes & CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)) return cudaErrorInvalidValue;
  if (!p.shared) {
    if (cudaError_t e = share_memory(handle, 0, p.bytes, p.properties.location.id, out)) return e;
    p.shared = std::make_shared<SharedMemory>(out);
  }
  out = *p.shared;
  return cudaSuccess;
}

CUresult VirtualMemory::retain(uint64_t* handle, uint64_t address) {
  std::lock_guard lock(mutex_);
  auto m = mapping_of(address);
  if (m == mappings_.end()) return CUDA_ERROR_INVALID_VALUE;
  *handle = m->second.handle;
  ++physical_.at(*handle).references;
  return CUDA_SUCCESS;
}

CUresult VirtualMemory::properties(CUmemAllocationProp* out, uint64_t handle) {
  std::lock_guard lock(mutex_);
  auto p = physical_.find(handle);
  if (p == physical_.end() || !p->second.references) return CUDA_ERROR_INVALID_VALUE;
  *out = p->second.properties;
  return CUDA_SUCCESS;
}

bool VirtualMemory::reserved(uint64_t address, uint64_t bytes) const {
  auto next = reservations_.upper_bound(address);
  if (next == reservations_.begin()) return false;
  auto [begin, size] = *std::prev(next);
  return address - begin < size && bytes <= size - (address - begin);
}

// CUDA: the offset must be zero for now. An address says whose memory it is, so a device's memory is mapped among its own addresses only.
CUresult VirtualMemory::map(uint64_t address, uint64_t bytes, uint64_t offset, uint64_t handle) {
  std::lock_guard lock(mutex_);
  auto p = physical_.find(handle);
  if (p == physical_.end() || !p->second.references || offset || bytes > p->second.bytes) return CUDA_ERROR_INVALID_VALUE;
  if (!whole_granules(address, bytes) || !reserved(address, bytes)) return CUDA_ERROR_INVALID_VALUE;
  auto next = mappings_.lower_bound(address);
  if (next != mappings_.end() && next->first - address < bytes) return CUDA_ERROR_INVALID_VALUE;
  if (mapping_of(address) != mappings_.end()) return CUDA_ERROR_INVALID_VALUE;
  if (arenas_.device_of(address) != p->second.properties.location.id) {
    say_absent("cuMemMap", "memory of one device at addresses that were reserved while another was current");
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  Ticket t = post(wire::Opcode::memory_map, wire::MemoryMap{address, bytes, handle, offset});
  if (!t) return posted(t);
  mappings_[address] = {bytes, handle};
  ++p->second.mappings;
  return CUDA_SUCCESS;
}

bool VirtualMemory::whole_mappings(uint64_t address, uint64_t bytes) const {
  if (!whole_granules(address, bytes)) return false;
  for (uint64_t done = 0; done < bytes;) {
    auto m = mappings_.find(address + done);
    if (m == mappings_.end() || m->second.bytes > bytes - done) return false;
    done += m->second.bytes;
  }
  return true;
}

CUresult VirtualMemory::unmap(uint64_t address, uint64_t bytes) {
  std::lock_guard lock(mutex_);
  if (!whole_mappings(address, bytes)) return CUDA_ERROR_INVALID_VALUE;
  Ticket t = post(wire::Opcode::memory_unmap, wire::MapMemory{address, bytes});
  for (auto m = mappings_.find(address); m != mappings_.end() && m->first - address < bytes; m = mappings_.erase(m)) {
    --physical_.at(m->second.handle).mappings;
    free_if_unused(m->second.handle);
  }
  return posted(t);
}

// The worker is one process for all devices: memory is accessible to it while any device may access it.
CUresult VirtualMemory::set_access(uint64_t address, uint64_t bytes, int device, bool accessible) {
  std::lock_guard lock(mutex_);
  if (!whole_mappings(address, bytes)) return CUDA_ERROR_INVALID_VALUE;
  uint32_t bit = 1u << device;
  Ticket t = 1;
  for (auto m = mappings_.find(address); m != mappings_.end() && m->first - address < bytes; ++m) {
    uint32_t before = m->second.devices, after = accessible ? before | bit : before & ~bit;
    m->second.devices = after;
    if (!before != !after) t = post(wire::Opcode::memory_access, wire::MemoryAccess{m->first, m->second.bytes, after != 0});
    if (!t) break;
  }
  return posted(t);
}

CUresult VirtualMemory::get_access(bool* accessible, int device, uint64_t address) {
  std::lock_guard lock(mutex_);
  auto m = mapping_of(address);
  if (m == mappings_.end()) return CUDA_ERROR_INVALID_VALUE;
  *accessible = m->second.devices >> device & 1;
  return CUDA_SUCCESS;
}

std::map<uint64_t, VirtualMemory::Mapping>::const_iterator VirtualMemory::mapping_of(uint64_t address) const {
  auto next = mappings_.upper_bound(address);
  if (next == mappings_.begin()) return mappings_.end();
  auto m = std::prev(next);
  return address - m->first < m->second.bytes ? m : mappings_.end();
}

std::optional<DeviceArena::Block> VirtualMemory::find(uint64_t address) const {
  std::lock_guard lock(mutex_);
  auto m = mapping_of(address);
  return m == mappings_.end() ? std::nullopt : std::optional(DeviceArena::Block{m->first, m->second.bytes});
}

}  // namespace djinn

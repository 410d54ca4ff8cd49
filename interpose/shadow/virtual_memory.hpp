// CUDA's virtual memory management as the client answers for it: reservations, physical memory by handle, what is mapped where and who may access it.
// Reservations are sub-ranges of the session's range (shadow/arena); everything that the worker must know is posted, nothing waits but a lease that
// has to grow. Errors are those of the driver's documentation. Mirror: server/decode/memory.cpp over server/execute/cpu/arena.
#pragma once
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>

#include "interpose/client.hpp"
#include "interpose/shadow/arenas.hpp"

namespace djinn {

struct SharedMemory;  // shadow/sharing.hpp

class VirtualMemory {
 public:
  explicit VirtualMemory(DeviceArenas& arenas) : arenas_(arenas) {}

  CUresult reserve(uint64_t* address, uint64_t bytes, uint64_t alignment, int device);
  CUresult free_reservation(uint64_t address, uint64_t bytes);
  // `on_server` is the device's index there.
  CUresult create(uint64_t* handle, uint64_t bytes, const CUmemAllocationProp& properties, size_t on_server);
  CUresult release(uint64_t handle);
  // Somebody else's memory under a handle of one's own, not counted against the lease; and one's own for somebody else. Both are round trips.
  cudaError_t import(uint64_t* handle, const SharedMemory& s, int device);
  cudaError_t share(uint64_t handle, SharedMemory& out);
  CUresult retain(uint64_t* handle, uint64_t address);
  CUresult properties(CUmemAllocationProp* out, uint64_t handle);
  CUresult map(uint64_t address, uint64_t bytes, uint64_t offset, uint64_t handle);
  CUresult unmap(uint64_t address, uint64_t bytes);
  CUresult set_access(uint64_t address, uint64_t bytes, int device, bool accessible);
  CUresult get_access(bool* accessible, int device, uint64_t address);
  // The mapping that holds `address`.
  std::optional<DeviceArena::Block> find(uint64_t address) const;

 private:
  struct Physical {
    uint64_t bytes;
    CUmemAllocationProp properties;
    bool foreign = false;
    std::shared_ptr<SharedMemory> shared{};  // once it is
    uint32_t references = 1, mappings = 0;
  };
  struct Mapping {
    uint64_t bytes, handle;
    uint32_t devices = 0;  // a bit for each that may access it
  };
  bool reserved(uint64_t address, uint64_t bytes) const;
  bool whole_mappings(uint64_t address, uint64_t bytes) const;
  std::map<uint64_t, Mapping>::const_iterator mapping_of(uint64_t address) const;
  void free_if_unused(uint64_t handle);

  DeviceArenas& arenas_;
  mutable std::mutex mutex_;
  std::map<uint64_t, uint64_t> reservations_;  // address → bytes
  std::map<uint64_t, Mapping> mappings_;
  std::unordered_map<uint64_t, Physical> physical_;
  uint64_t next_handle_ = 1;
};

}  // namespace djinn

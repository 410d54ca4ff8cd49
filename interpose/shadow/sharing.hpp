// Memory between processes (CUDA's IPC): what a handle says, which of this session's allocations have one, and which of other sessions' are open
// here. A handle names memory of one server by a secret, which is the right to map it; the server maps it for the importing session (memory_import),
// and here it is virtual memory like any other. As on CUDA an allocation's handle shares its whole granules (2 MiB), neighbours included, and memory
// that its owner frees while others have it open is undefined. Mirror: server/broker/admit.cpp.
#pragma once
#include <map>
#include <mutex>

#include "interpose/shadow/virtual_memory.hpp"

namespace djinn {

// Fills a cudaIpcMemHandle_t, and the file of an exported cuMem handle.
struct SharedMemory {
  uint64_t magic = kMagic;
  wire::Secret secret{};
  uint64_t session = 0, device = 0;  // whose memory: on the server
  uint64_t size = 0;                 // granules
  uint64_t offset = 0;               // of the allocation in its first granule
  uint64_t reserved = 0;
  static constexpr uint64_t kMagic = 0x314d454d4e4e4a44;  // "DJNNMEM1"
};
static_assert(sizeof(SharedMemory) == sizeof(cudaIpcMemHandle_t));

// Shares granules, or physical memory when `handle` is not 0, and ends it; round trips: another process may hear of either at once.
cudaError_t share_memory(uint64_t handle, uint64_t address, uint64_t size, int device, SharedMemory& out);
void unshare_memory(const SharedMemory& s);
// The device of the memory as this program numbers it; -1: the program does not see it.
int device_of(const SharedMemory& s);

class Sharing {
 public:
  // `address` is an allocation's first byte. The same handle each time, until the allocation is freed.
  cudaError_t get_handle(uint64_t address, SharedMemory& out);
  void freed(uint64_t address);
  // The same address each time, until it has been closed as often.
  cudaError_t open(const SharedMemory& s, uint64_t& address);
  cudaError_t close(uint64_t address);

 private:
  struct Opened {
    uint64_t base, handle, size, uses;
  };
  std::mutex mutex_;
  std::map<uint64_t, SharedMemory> ours_;          // by address
  std::map<wire::Secret, uint64_t> open_secrets_;  // → address
  std::map<uint64_t, Opened> opened_;              // by address
};
Sharing& sharing();

}  // namespace djinn

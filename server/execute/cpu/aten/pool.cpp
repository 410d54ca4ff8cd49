// Blocks carry a header of one cache line with their size class. Classes grow by quarters of a power of two, so at most 25 % is wasted. The lists are
// thread-local and belong to the executor thread; a block freed elsewhere goes straight back to malloc.
#include "server/execute/cpu/aten/pool.hpp"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>

#include <array>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <cstring>

#include "server/execute/cpu/aten/limits.hpp"

namespace djinn::aten {

namespace {

constexpr size_t kHeader = 64;  // keeps the data on a cache line, what vectorised kernels and oneDNN like
constexpr int kUnpooled = -1;
constexpr size_t kClasses = 4 * 48;

struct Header {
  int size_class;
  size_t bytes;
};

struct Pool {
  std::array<std::vector<void*>, kClasses> free;
  size_t kept = 0;
  PoolCounters counters{};
};

thread_local Pool* pool = nullptr;
thread_local std::vector<Slot>* slots = nullptr;
std::atomic<uint64_t> arena_low{0}, arena_high{0};

// Size class of n bytes and the bytes of that class: 64, 80, 96, 112, 128, 160, …
int class_of(size_t n, size_t& bytes) {
  if (n <= 64) return bytes = 64, 0;
  int log = 63 - std::countl_zero(n - 1);  // 2^log < n ≤ 2^(log+1)
  size_t step = size_t{1} << (log - 2);
  size_t quarter = (n - (size_t{1} << log) + step - 1) / step;  // 1…4
  bytes = (size_t{1} << log) + quarter * step;
  return (log - 6) * 4 + static_cast<int>(quarter);
}

void* fresh_block(int size_class, size_t bytes) {
  void* block = nullptr;
  if (posix_memalign(&block, kHeader, bytes + kHeader) != 0)
    TORCH_CHECK_WITH(OutOfMemoryError, false, "the server has no memory for a temporary of ", bytes, " bytes");
  *static_cast<Header*>(block) = {size_class, bytes};
  return block;
}

void give_back(void* data) {
  auto address = reinterpret_cast<uint64_t>(data);
  if (!data || (address >= arena_low.load(std::memory_order_relaxed) && address < arena_high.load(std::memory_order_relaxed))) return;
  void* block = static_cast<char*>(data) - kHeader;
  Header head = *static_cast<Header*>(block);
  if (!pool || head.size_class == kUnpooled || pool->kept + head.bytes > kPoolBytesMax) return std::free(block);
  pool->kept += head.bytes;
  pool->free[head.size_class].push_back(block);
}

class PlacingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t n) override {
    void* data = n ? take(n) : nullptr;
    return {data, data, &give_back, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
  void copy_data(void* to, const void* from, size_t n) const override { std::memcpy(to, from, n); }

 private:
  static void* take(size_t n) {
    if (slots)
      for (Slot& slot : *slots)
        if (!slot.used && slot.bytes == n) {
          slot.used = true;
          pool->counters.placed++;
          return slot.address;
        }
    if (!pool || n > kPoolBlockMax) return static_cast<char*>(fresh_block(kUnpooled, n)) + kHeader;
    size_t bytes;
    int size_class = class_of(n, bytes);
    auto& list = pool->free[size_class];
    if (list.empty()) {
      pool->counters.fresh++;
      return static_cast<char*>(fresh_block(size_class, bytes)) + kHeader;
    }
    void* block = list.back();
    list.pop_back();
    pool->kept -= bytes;
    pool->counters.reused++;
    return static_cast<char*>(block) + kHeader;
  }
};

}  // namespace

void install_allocator(uint64_t low, uint64_t high) {
  // c10 keeps the pointer for ever and static destructors of libtorch free through it: it is never deleted.
  static PlacingAllocator* allocator = new PlacingAllocator;
  constexpr uint8_t kAboveTheDefault = 200;
  arena_low = low;
  arena_high = high;
  c10::SetCPUAllocator(allocator, kAboveTheDefault);
}

void adopt_pool() {
  if (!pool) pool = new Pool;
}

void release_pool() {
  if (!pool) return;
  for (auto& list : pool->free)
    for (void* block : list) std::free(block);
  delete pool;
  pool = nullptr;
}

Placement::Placement(std::vector<Slot>* s) {
  if (pool) slots = s;
}
Placement::~Placement() { slots = nullptr; }

PoolCounters pool_counters() { return pool ? pool->counters : PoolCounters{}; }

}  // namespace djinn::aten

// The CPU device: host memory, host threads. Everything runs in the order of the calls, on the session's executor thread.
#include <time.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "server/execute/blas.hpp"
#include "server/execute/cpu/arena.hpp"
#include "server/execute/cpu/reduce.hpp"
#include "server/execute/device.hpp"

namespace djinn::server {

namespace {

std::byte* at(uint64_t address) { return reinterpret_cast<std::byte*>(address); }

// Where packed bytes [first, first + count) of pitched rows lie in device memory, piece by piece; they may begin and end inside a row.
template <class Each>
void pieces(uint64_t address, uint64_t pitch, uint64_t width, uint64_t height, uint64_t first, uint64_t count, Each&& each) {
  if (height == 1 || pitch == width) return each(at(address + first), 0, count);
  for (uint64_t done = 0; done < count;) {
    uint64_t row = (first + done) / width, column = (first + done) % width;
    uint64_t n = std::min(width - column, count - done);
    each(at(address + row * pitch + column), done, n);
    done += n;
  }
}

constexpr uint32_t kMultiprocessors = 4;

class CpuDevice final : public Device {
 public:
  explicit CpuDevice(uint64_t total_memory) : total_memory_(total_memory) {}

  // Numbers that PyTorch's host code computes grids from: those of a small GPU of compute capability 12.0, the same on every machine, so that what
  // depends on them (the random numbers of a grid-stride loop) does not depend on where the server runs.
  wire::control::Device describe() const override {
    wire::control::Device d;
    d.name = "Djinn CPU device";
    d.total_memory = total_memory_;
    d.major = 12;
    d.minor = 0;
    d.multiprocessors = kMultiprocessors;
    d.threads_per_multiprocessor = 1536;
    d.clock_khz = 1000000;
    d.l2_bytes = 32u << 20;
    return d;
  }
  bool reserve(uint64_t address, uint64_t size) override { return arena_.reserve(address, size); }
  std::string map(uint64_t address, uint64_t size) override { return arena_.map(address, size); }
  std::string unmap(uint64_t address, uint64_t size) override { return arena_.unmap(address, size); }
  std::string create(const wire::MemoryCreate& m) override { return arena_.create(m.handle, m.size, m.device); }
  std::string release(uint64_t handle, Freed& freed) override { return arena_.release(handle, freed); }
  std::string map(const wire::MemoryMap& m) override { return arena_.map(m.address, m.size, m.handle, m.offset); }
  std::string unmap_virtual(uint64_t address, uint64_t size, Freed& freed) override { return arena_.unmap_virtual(address, size, freed); }
  std::string access(const wire::MemoryAccess& m) override { return arena_.access(m.address, m.size, m.accessible != 0); }
  const uint64_t* device_of(uint64_t handle) const override { return arena_.device_of(handle); }
  int file() const override { return arena_.file(); }
  std::string locate(const wire::MemoryShare& m, FilePart& part) const override { return arena_.locate(m.handle, m.address, m.size, part); }
  std::string import(const wire::MemoryImport& m, Descriptor file, FilePart part) override {
    return arena_.import(m.handle, m.device, std::move(file), part);
  }
  bool live(uint64_t address, uint64_t bytes) const override { return arena_.live(address, bytes); }
  bool live(uint64_t address, uint64_t pitch, uint64_t width, uint64_t height) const override { return arena_.live(address, pitch, width, height); }
  uint64_t memory_epoch() const override { return arena_.epoch(); }
  uint64_t mapped() const override { return arena_.mapped(); }
  uint64_t peak() const override { return arena_.peak(); }

  void upload(const wire::Upload& to, std::span<const std::byte> host, uint64_t first) override {
    pieces(to.address, to.pitch, to.width, to.height, first, host.size(),
           [&](std::byte* device, uint64_t done, uint64_t n) { std::memcpy(device, host.data() + done, n); });
  }
  void download(const wire::Download& from, uint64_t first, std::span<std::byte> host) override {
    pieces(from.address, from.pitch, from.width, from.height, first, host.size(),
           [&](std::byte* device, uint64_t done, uint64_t n) { std::memcpy(host.data() + done, device, n); });
  }
  const std::byte* host_view(uint64_t address, uint64_t) override { return at(address); }
  void copy(const wire::Copy& c) override {
    for (uint64_t row = 0; row < c.height; row++)
      std::memmove(at(c.destination + row * c.destination_pitch), at(c.source + row * c.source_pitch), c.width);
  }
  void fill(const wire::Fill& f) override {
    for (uint64_t row = 0; row < f.height; row++) {
      std::byte* p = at(f.address + row * f.pitch);
      if (f.element == 1) std::memset(p, static_cast<int>(f.value & 0xff), f.width);
      else
        for (uint64_t i = 0; i + f.element <= f.width; i += f.element) std::memcpy(p + i, &f.value, f.element);
    }
  }
  void reduce(const wire::Reduce& r, std::span<const uint64_t> sources) override { cpu_reduce(r, sources); }
  uint64_t timestamp(uint64_t) override {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<uint64_t>(t.tv_sec) * 1000000000u + static_cast<uint64_t>(t.tv_nsec);
  }
  const Blas& blas() const override { return cpu_blas(); }
  Failure launch(const std::string& kernel, const wire::Launch&, std::span<const std::byte>) override {
    return {cuda_error::not_supported, wire::ErrorClass::refused, kernel,
            "the CPU device cannot run machine code for GPUs (SASS); this kernel needs a GPU or an op scope"};
  }

 private:
  Arena arena_;
  uint64_t total_memory_;
};

}  // namespace

std::unique_ptr<Device> make_cpu_device(uint64_t total_memory) { return std::make_unique<CpuDevice>(total_memory); }

}  // namespace djinn::server

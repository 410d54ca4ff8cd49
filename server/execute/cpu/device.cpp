// The CPU device: host memory, host threads. Everything runs in the order of the calls, on the session's executor thread.
#include <time.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "server/execute/cpu/arena.hpp"
#include "server/execute/device.hpp"

namespace djinn::server {

namespace {

std::byte* at(uint64_t address) { return reinterpret_cast<std::byte*>(address); }

class CpuDevice final : public Device {
 public:
  CpuDevice(uint64_t total_memory, unsigned threads) : total_memory_(total_memory), threads_(threads) {}

  // Numbers that PyTorch's host code computes grids from. They are those of a small GPU of compute capability 12.0, with one multiprocessor per
  // thread: small grids keep the client's host code short, and its results do not depend on them.
  wire::control::Device describe() const override {
    wire::control::Device d;
    d.name = "Djinn CPU device";
    d.total_memory = total_memory_;
    d.major = 12;
    d.minor = 0;
    d.multiprocessors = std::max(1u, threads_);
    d.threads_per_multiprocessor = 1536;
    d.clock_khz = 1000000;
    d.l2_bytes = 32u << 20;
    return d;
  }
  bool reserve(uint64_t address, uint64_t size) override { return arena_.reserve(address, size); }
  std::string map(uint64_t address, uint64_t size) override { return arena_.map(address, size); }
  std::string unmap(uint64_t address, uint64_t size) override { return arena_.unmap(address, size); }
  bool live(uint64_t address, uint64_t bytes) const override { return arena_.live(address, bytes); }
  bool live(uint64_t address, uint64_t pitch, uint64_t width, uint64_t height) const override { return arena_.live(address, pitch, width, height); }
  uint64_t memory_epoch() const override { return arena_.epoch(); }
  uint64_t mapped() const override { return arena_.mapped(); }
  uint64_t peak() const override { return arena_.peak(); }

  void upload(const wire::Upload& to, std::span<const std::byte> host, uint64_t first) override {
    if (to.height == 1) {
      std::memcpy(at(to.address) + first, host.data(), host.size());
      return;
    }
    for (size_t done = 0; done < host.size();) {  // the part may begin and end inside a row
      uint64_t row = (first + done) / to.width, column = (first + done) % to.width;
      size_t n = std::min<size_t>(to.width - column, host.size() - done);
      std::memcpy(at(to.address + row * to.pitch + column), host.data() + done, n);
      done += n;
    }
  }
  void download(const wire::Download& from, std::byte* host) override {
    for (uint64_t row = 0; row < from.height; row++) std::memcpy(host + row * from.width, at(from.address + row * from.pitch), from.width);
  }
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
  uint64_t timestamp(uint64_t) override {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<uint64_t>(t.tv_sec) * 1000000000u + static_cast<uint64_t>(t.tv_nsec);
  }
  Failure launch(const std::string& kernel, const wire::Launch&, std::span<const std::byte>) override {
    return {cuda_error::not_supported, wire::ErrorClass::refused, kernel, "the CPU device cannot run machine code for GPUs (SASS); this kernel needs a GPU or an op scope"};
  }

 private:
  Arena arena_;
  uint64_t total_memory_;
  unsigned threads_;
};

}  // namespace

std::unique_ptr<Device> make_cpu_device(uint64_t total_memory, unsigned threads) { return std::make_unique<CpuDevice>(total_memory, threads); }

}  // namespace djinn::server

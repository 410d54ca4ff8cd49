// What a session asks of its device. Every device fills the same table; the session and the decoders know no other way to it. The CPU device
// (execute/cpu) executes in the order of the calls, which is a legal schedule of any streams; `--check` is a layer over a device, not a device.
// Addresses have been checked against live memory before a call gets here. Errors: empty text = done.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "semantic/abi/executor.h"
#include "semantic/wire/command.hpp"
#include "semantic/wire/control.hpp"
#include "server/descriptor.hpp"

namespace djinn::server {

struct Failure {
  int32_t code = 0;  // cudaError_t; 0 = success
  wire::ErrorClass error_class = wire::ErrorClass::refused;
  std::string operation, text;
  explicit operator bool() const { return code != 0; }
};

// cudaError_t values that the server itself gives, by CUDA's numbers (the server needs no CUDA headers).
namespace cuda_error {
constexpr int32_t invalid_value = 1, memory_allocation = 2, invalid_resource_handle = 400, illegal_address = 700, launch_failure = 719,
                  not_supported = 801, unknown = 999;
}

struct Blas;

class Device {
 public:
  virtual ~Device() = default;
  virtual wire::control::Device describe() const = 0;
  virtual bool reserve(uint64_t address, uint64_t size) = 0;
  virtual std::string map(uint64_t address, uint64_t size) = 0;
  virtual std::string unmap(uint64_t address, uint64_t size) = 0;
  // Physical memory by handle (server/execute/cpu/arena.hpp has the rules).
  struct Freed {
    uint64_t device = 0, bytes = 0;
  };
  virtual std::string create(const wire::MemoryCreate& m) = 0;
  virtual std::string release(uint64_t handle, Freed& freed) = 0;
  virtual std::string map(const wire::MemoryMap& m) = 0;
  virtual std::string unmap_virtual(uint64_t address, uint64_t size, Freed& freed) = 0;
  virtual std::string access(const wire::MemoryAccess& m) = 0;
  virtual const uint64_t* device_of(uint64_t handle) const = 0;  // null: there is no such handle
  // Memory between sessions: the file that all of it lies in (-1: there is none), which part of it a share names, and somebody else's part under a
  // handle of one's own.
  struct FilePart {
    uint64_t offset = 0, size = 0;
  };
  virtual int file() const = 0;
  virtual std::string locate(const wire::MemoryShare& m, FilePart& part) const = 0;
  virtual std::string import(const wire::MemoryImport& m, Descriptor file, FilePart part) = 0;
  virtual bool live(uint64_t address, uint64_t bytes) const = 0;
  virtual bool live(uint64_t address, uint64_t pitch, uint64_t width, uint64_t height) const = 0;
  virtual uint64_t memory_epoch() const = 0;
  virtual uint64_t mapped() const = 0;
  virtual uint64_t peak() const = 0;

  // Rows of `width` bytes; `host` is packed (no padding between rows): a part of it that begins at byte `first`.
  virtual void upload(const wire::Upload& to, std::span<const std::byte> host, uint64_t first) = 0;
  // Packed bytes [first, first + host.size()) of the rows.
  virtual void download(const wire::Download& from, uint64_t first, std::span<std::byte> host) = 0;
  // Where the host can read the bytes in place; null when it cannot (memory of a real GPU).
  virtual const std::byte* host_view(uint64_t address, uint64_t bytes) = 0;
  virtual void copy(const wire::Copy& c) = 0;
  virtual void fill(const wire::Fill& f) = 0;
  virtual void reduce(const wire::Reduce& r, std::span<const uint64_t> sources) = 0;
  // Nanoseconds of the device's clock when everything issued on the stream so far is done.
  virtual uint64_t timestamp(uint64_t stream) = 0;
  // `kernel` is the mangled name. The CPU device runs kernels that carry PTX (later) and refuses SASS by name.
  virtual Failure launch(const std::string& kernel, const wire::Launch& l, std::span<const std::byte> parameters) = 0;
  // The products of its BLAS (server/execute/blas.hpp).
  virtual const Blas& blas() const = 0;
};

std::unique_ptr<Device> make_cpu_device(uint64_t total_memory);

}  // namespace djinn::server

// Memory as a program uses it: what is copied, when, in what shape, and what the entry points refuse. The worker at the end of the fake link moves
// real bytes, so that every direction is checked by its content.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstring>

#include "interpose/batch/counters.hpp"
#include "interpose/batch/session.hpp"
#include "tests/unit/client/fixture.hpp"

using namespace djinn;
using namespace djinn::test;
using wire::Opcode;

namespace {

struct Device {
  explicit Device(size_t n) { REQUIRE(cudaMalloc(&p, n) == cudaSuccess); }
  ~Device() { CHECK(cudaFree(p) == cudaSuccess); }
  std::byte* at(size_t offset = 0) const { return static_cast<std::byte*>(p) + offset; }
  void* p = nullptr;
};
struct Pinned {
  explicit Pinned(size_t bytes) : n(bytes) { REQUIRE(cudaMallocHost(&p, n) == cudaSuccess); }
  ~Pinned() { CHECK(cudaFreeHost(p) == cudaSuccess); }
  std::byte* at(size_t offset = 0) const { return static_cast<std::byte*>(p) + offset; }
  std::vector<std::byte> bytes() const { return {at(), at(n)}; }
  size_t n;
  void* p = nullptr;
};

std::vector<std::byte> read_back(const void* device, size_t n) {
  std::vector<std::byte> out(n, std::byte{0xee});
  REQUIRE(cudaMemcpy(out.data(), device, n, cudaMemcpyDeviceToHost) == cudaSuccess);
  return out;
}

struct InScope {
  InScope() {
    scope() = {};
    scope().depth = 1;
  }
  ~InScope() { scope() = {}; }
};

}  // namespace

TEST_CASE("bytes of every size survive the way up and down") {
  OpenSession s;
  for (size_t n : {size_t{1}, size_t{7}, size_t{4096}, size_t{4097}, size_t{3'000'001}, size_t{wire::kBulkBytesMax + 5}}) {
    Device d(n);
    auto in = pattern(n, static_cast<unsigned>(n));
    REQUIRE(cudaMemcpy(d.p, in.data(), n, cudaMemcpyHostToDevice) == cudaSuccess);
    REQUIRE(read_back(d.p, n) == in);
  }
  for (auto& u : s.sent(Opcode::upload)) CHECK((u.as<wire::Upload>().width > wire::kInlineBytesMax) == (u.head.bulk > 0));
}

TEST_CASE("pageable memory may be overwritten as soon as the call returns, even an asynchronous one") {
  OpenSession s;
  for (size_t n : {size_t{100}, size_t{100'000}}) {
    Device d(n);
    auto in = pattern(n, 1), original = in;
    s.link.automatic = false;
    REQUIRE(cudaMemcpyAsync(d.p, in.data(), n, cudaMemcpyHostToDevice, nullptr) == cudaSuccess);
    std::fill(in.begin(), in.end(), std::byte{0});
    s.link.automatic = true;
    CHECK(read_back(d.p, n) == original);
  }
}

TEST_CASE("pinned memory goes by reference when the copy is asynchronous, and only then") {
  OpenSession s;
  constexpr size_t kBytes = 1 << 20;
  Device d(kBytes);
  Pinned h(kBytes);
  auto in = pattern(kBytes, 2);
  std::memcpy(h.p, in.data(), kBytes);
  s.link.clear();
  REQUIRE(cudaMemcpyAsync(d.p, h.p, kBytes, cudaMemcpyHostToDevice, nullptr) == cudaSuccess);
  REQUIRE(cudaMemcpy(d.p, h.p, kBytes, cudaMemcpyHostToDevice) == cudaSuccess);
  auto sent = s.sent(Opcode::upload);
  REQUIRE(sent.size() == 2);
  CHECK(sent[0].parts.at(0).data == h.p);
  CHECK(sent[1].parts.at(0).data != h.p);
  CHECK(read_back(d.p, kBytes) == in);
}

TEST_CASE("an asynchronous download into pinned memory arrives when its event says so, without a round trip") {
  OpenSession s;
  constexpr size_t kBytes = 70'000;
  Device d(kBytes);
  Pinned h(kBytes);
  auto in = pattern(kBytes, 3);
  REQUIRE(cudaMemcpy(d.p, in.data(), kBytes, cudaMemcpyHostToDevice) == cudaSuccess);
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  std::memset(h.p, 0, kBytes);
  cudaEvent_t e;
  REQUIRE(cudaEventCreateWithFlags(&e, cudaEventDisableTiming) == cudaSuccess);
  s.link.automatic = false;
  uint64_t trips = counters().round_trips;
  REQUIRE(cudaMemcpyAsync(h.p, d.p, kBytes, cudaMemcpyDeviceToHost, nullptr) == cudaSuccess);
  REQUIRE(cudaEventRecord(e, nullptr) == cudaSuccess);
  CHECK(cudaEventQuery(e) == cudaErrorNotReady);
  CHECK(h.bytes() == std::vector<std::byte>(kBytes));
  while (s.link.step()) {}
  CHECK(cudaEventQuery(e) == cudaSuccess);
  CHECK(h.bytes() == in);
  CHECK(counters().round_trips == trips);
  CHECK(cudaEventDestroy(e) == cudaSuccess);
}

TEST_CASE("freeing pinned memory waits for the copies that refer to it") {
  OpenSession s;
  constexpr size_t kBytes = 1 << 20;
  Device d(kBytes);
  auto in = pattern(kBytes, 4);
  void* h = nullptr;
  REQUIRE(cudaMallocHost(&h, kBytes) == cudaSuccess);
  std::memcpy(h, in.data(), kBytes);
  REQUIRE(cudaMemcpyAsync(d.p, h, kBytes, cudaMemcpyHostToDevice, nullptr) == cudaSuccess);
  Ticket upload = session()->log.last();
  REQUIRE(cudaFreeHost(h) == cudaSuccess);
  CHECK(session()->log.executed(upload));
  CHECK(read_back(d.p, kBytes) == in);
}

TEST_CASE("rows with pitches in every direction, the bytes between them untouched") {
  OpenSession s;
  struct Shape {
    size_t width, height, host_pitch, device_pitch;
  };
  for (auto [width, height, host_pitch, device_pitch] :
       {Shape{5, 7, 9, 16}, Shape{512, 300, 512, 512}, Shape{1000, 40, 1024, 1000}, Shape{33, 1, 100, 64}}) {
    size_t host_bytes = host_pitch * height, device_bytes = device_pitch * height;
    Device a(device_bytes), b(device_bytes);
    auto in = pattern(host_bytes, 5);
    REQUIRE(cudaMemset(a.p, 0x11, device_bytes) == cudaSuccess);
    REQUIRE(cudaMemset(b.p, 0x22, device_bytes) == cudaSuccess);
    REQUIRE(cudaMemcpy2D(a.p, device_pitch, in.data(), host_pitch, width, height, cudaMemcpyHostToDevice) == cudaSuccess);
    REQUIRE(cudaMemcpy2DAsync(b.p, device_pitch, a.p, device_pitch, width, height, cudaMemcpyDeviceToDevice, nullptr) == cudaSuccess);
    std::vector<std::byte> out(host_bytes, std::byte{0x33});
    REQUIRE(cudaMemcpy2D(out.data(), host_pitch, b.p, device_pitch, width, height, cudaMemcpyDefault) == cudaSuccess);
    Pinned pinned(host_bytes);
    std::memset(pinned.p, 0x44, host_bytes);
    REQUIRE(cudaMemcpy2DAsync(pinned.p, host_pitch, b.p, device_pitch, width, height, cudaMemcpyDeviceToHost, nullptr) == cudaSuccess);
    auto raw = read_back(b.p, device_bytes);
    for (size_t row = 0; row < height; row++) {
      auto line = [&](const std::vector<std::byte>& v, size_t pitch) { return std::vector<std::byte>(&v[row * pitch], &v[row * pitch] + width); };
      REQUIRE(line(out, host_pitch) == line(in, host_pitch));
      REQUIRE(line(pinned.bytes(), host_pitch) == line(in, host_pitch));
      REQUIRE(line(raw, device_pitch) == line(in, host_pitch));
      for (size_t i = width; i < host_pitch; i++) REQUIRE(out[row * host_pitch + i] == std::byte{0x33});
      for (size_t i = width; i < host_pitch; i++) REQUIRE(pinned.at()[row * host_pitch + i] == std::byte{0x44});
      for (size_t i = width; i < device_pitch; i++) REQUIRE(raw[row * device_pitch + i] == std::byte{0x22});
    }
  }
}

TEST_CASE("fills, copies on the device, to itself as a peer, and from host to host") {
  OpenSession s;
  Device a(1000), b(1000);
  REQUIRE(cudaMemset(a.p, 0x5a, 1000) == cudaSuccess);
  REQUIRE(cudaMemsetAsync(a.at(10), -1, 20, nullptr) == cudaSuccess);
  REQUIRE(cudaMemset2DAsync(a.at(100), 10, 7, 4, 3, nullptr) == cudaSuccess);
  REQUIRE(cudaMemcpyPeerAsync(b.p, 0, a.p, 0, 1000, nullptr) == cudaSuccess);
  std::vector<std::byte> expected(1000, std::byte{0x5a});
  std::fill_n(expected.begin() + 10, 20, std::byte{0xff});
  for (ptrdiff_t row = 0; row < 3; row++) std::fill_n(expected.begin() + 100 + 10 * row, 4, std::byte{7});
  CHECK(read_back(b.p, 1000) == expected);
  CHECK(cudaMemcpyPeerAsync(b.p, 1, a.p, 0, 10, nullptr) == cudaErrorInvalidDevice);
  auto in = pattern(100, 6);
  std::vector<std::byte> out(100);
  REQUIRE(cudaMemcpy(out.data(), in.data(), 100, cudaMemcpyHostToHost) == cudaSuccess);
  CHECK(out == in);
}

TEST_CASE("what is wrong with a copy is said at once, and nothing is sent") {
  OpenSession s;
  Device d(4096);
  std::vector<std::byte> h(4096);
  s.link.clear();
  CHECK(cudaMemcpy(nullptr, h.data(), 10, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  CHECK(cudaMemcpy(d.p, nullptr, 10, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  CHECK(cudaMemcpy(h.data(), h.data(), 10, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  CHECK(cudaMemcpy(h.data(), h.data(), 10, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
  CHECK(cudaMemcpy(d.p, h.data(), 10, static_cast<cudaMemcpyKind>(9)) == cudaErrorInvalidMemcpyDirection);
  CHECK(cudaMemcpy2D(d.p, 8, h.data(), 16, 16, 2, cudaMemcpyHostToDevice) == cudaErrorInvalidPitchValue);
  CHECK(cudaMemcpy2D(d.p, ~size_t{0} / 2, h.data(), ~size_t{0} / 2, 16, 5, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  CHECK(cudaMemcpyAsync(d.p, h.data(), 10, cudaMemcpyHostToDevice, reinterpret_cast<cudaStream_t>(0x777)) == cudaErrorInvalidResourceHandle);
  CHECK(cudaMemset(h.data(), 0, 10) == cudaErrorInvalidValue);
  CHECK(cudaMemcpy(nullptr, nullptr, 0, cudaMemcpyHostToDevice) == cudaSuccess);
  CHECK(cudaMalloc(nullptr, 5) == cudaErrorInvalidValue);
  CHECK(cudaFree(d.at(256)) == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaSuccess);
  session()->log.flush();
  CHECK(s.link.sent().empty());
}

TEST_CASE("in an op scope device work is dropped, a value for the host aborts, memory and events go on") {
  OpenSession s;
  Device d(1000);
  std::vector<std::byte> h(1000);
  REQUIRE(cudaMemset(d.p, 1, 1000) == cudaSuccess);
  session()->log.flush();
  s.link.clear();
  uint64_t dropped = counters().dropped;
  {
    InScope in;
    CHECK(cudaMemsetAsync(d.p, 9, 1000, nullptr) == cudaSuccess);
    CHECK(cudaMemcpyAsync(d.p, h.data(), 1000, cudaMemcpyHostToDevice, nullptr) == cudaSuccess);
    CHECK(cudaMemcpyAsync(d.at(500), d.p, 100, cudaMemcpyDeviceToDevice, nullptr) == cudaSuccess);
    CHECK(cudaStreamSynchronize(nullptr) == cudaSuccess);
    CHECK(scope().abort == 0);
    CHECK(scope().dropped == 3);
    CHECK(s.sent(Opcode::fill).size() + s.sent(Opcode::upload).size() + s.sent(Opcode::copy).size() == 0);
    CHECK(cudaMemcpyAsync(h.data(), d.p, 10, cudaMemcpyDeviceToHost, nullptr) != cudaSuccess);
    CHECK(scope().abort == 1);
    CHECK(std::string(scope().why) == "cudaMemcpyAsync");
    void* p = nullptr;
    CHECK(cudaMalloc(&p, 5 << 20) == cudaSuccess);
    CHECK(cudaFree(p) == cudaSuccess);
    CHECK(s.sent(Opcode::map_memory).size() == 1);
  }
  cudaGetLastError();
  CHECK(counters().dropped - dropped == 3);
  CHECK(read_back(d.p, 1000) == std::vector<std::byte>(1000, std::byte{1}));
}

TEST_CASE("out of memory is an error of its own, after which smaller requests succeed") {
  OpenSession s;
  void* p = &s;
  CHECK(cudaMalloc(&p, s.link.memory_total + 1) == cudaErrorMemoryAllocation);
  CHECK(p == nullptr);
  std::vector<void*> all;
  cudaError_t e;
  while ((e = cudaMalloc(&p, 64 << 20)) == cudaSuccess) all.push_back(p);
  CHECK(e == cudaErrorMemoryAllocation);
  CHECK(all.size() == s.link.memory_total / (64 << 20));
  CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);
  REQUIRE_FALSE(all.empty());
  CHECK(cudaFree(all.back()) == cudaSuccess);
  CHECK(cudaMalloc(&all.back(), 64 << 20) == cudaSuccess);
  size_t free_bytes = 1, total = 0;
  CHECK(cudaMemGetInfo(&free_bytes, &total) == cudaSuccess);
  CHECK(free_bytes == 0);
  CHECK(total == s.link.memory_total);
  for (void* each : all) CHECK(cudaFree(each) == cudaSuccess);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  CHECK(s.link.mapped() == 0);
}

TEST_CASE("pointers are told apart: device, pinned, registered, unknown") {
  OpenSession s;
  Device d(100);
  Pinned h(100);
  std::vector<std::byte> plain(10'000);
  auto type = [](const void* p) {
    cudaPointerAttributes a{};
    CHECK(cudaPointerGetAttributes(&a, p) == cudaSuccess);
    if (a.type == cudaMemoryTypeHost) CHECK(a.hostPointer == p);
    if (a.type != cudaMemoryTypeUnregistered) CHECK(a.device == 0);
    return a.type;
  };
  CHECK(type(d.at(50)) == cudaMemoryTypeDevice);
  CHECK(type(h.at(50)) == cudaMemoryTypeHost);
  CHECK(type(plain.data()) == cudaMemoryTypeUnregistered);
  CHECK(cudaHostRegister(plain.data(), plain.size(), 0) == cudaSuccess);
  CHECK(cudaHostRegister(plain.data(), plain.size(), 0) == cudaErrorHostMemoryAlreadyRegistered);
  CHECK(type(plain.data() + 9'999) == cudaMemoryTypeHost);
  CHECK(cudaHostUnregister(plain.data()) == cudaSuccess);
  CHECK(type(plain.data()) == cudaMemoryTypeUnregistered);
  CHECK(cudaHostUnregister(plain.data()) == cudaErrorHostMemoryNotRegistered);
  CHECK(cudaFreeHost(plain.data()) == cudaErrorInvalidValue);
  CUdeviceptr start = 0;
  CHECK(cuPointerGetAttribute(&start, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, reinterpret_cast<CUdeviceptr>(d.at(50))) == CUDA_SUCCESS);
  CHECK(start == reinterpret_cast<CUdeviceptr>(d.p));
}

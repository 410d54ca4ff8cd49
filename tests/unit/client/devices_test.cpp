// Several devices in one session: addresses that say whose they are, a current device per thread, peers, and CUDA_VISIBLE_DEVICES. What belongs to
// the process runs in processes of its own, on a fake link with more devices.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <thread>

#include "interpose/batch/session.hpp"
#include "interpose/shadow/arenas.hpp"
#include "tests/unit/client/fixture.hpp"

using namespace djinn;
using namespace djinn::test;

namespace {

constexpr uint64_t kBase = 0x200000000000;

cudaPointerAttributes attributes(const void* p) {
  cudaPointerAttributes a;
  REQUIRE(cudaPointerGetAttributes(&a, p) == cudaSuccess);
  return a;
}

void* allocate_on(int device, size_t bytes = 1 << 20) {
  void* p = nullptr;
  REQUIRE(cudaSetDevice(device) == cudaSuccess);
  REQUIRE(cudaMalloc(&p, bytes) == cudaSuccess);
  return p;
}

Finished with_devices(const std::string& tag, const std::string& visible = {}) {
  std::vector<std::string> environment{"DJINN_SERVER=tcp://127.0.0.1:1", "DJINN_SUMMARY=off"};
  if (!visible.empty()) environment.push_back("CUDA_VISIBLE_DEVICES=" + visible);
  return run_case(tag, environment);
}
void passes(const Finished& done) {
  INFO(done.output);
  CHECK(done.status == 0);
}

}  // namespace

TEST_CASE("each address of a range belongs to one device, whatever the size and the number") {
  for (uint64_t size : {uint64_t{256} << 30, uint64_t{3} << 30, 11 * wire::kGranule})
    for (size_t n = 1; n <= wire::kDevicesMax; n++) {
      wire::DeviceRanges r(kBase, size, n);
      INFO(size << " for " << n);
      CHECK(r.size() <= size);
      CHECK(r.size() > size / 2);
      CHECK(r.bytes_each() % wire::kGranule == 0);
      for (size_t d = 0; d < n; d++) {
        CHECK(r.device_of(r.begin(d)) == d);
        CHECK(r.device_of(r.begin(d) + r.bytes_each() - 1) == d);
      }
      CHECK(r.contains(kBase));
      CHECK_FALSE(r.contains(kBase - 1));
      CHECK_FALSE(r.contains(kBase + r.size()));
    }
}

TEST_CASE("heaps are apart, in the program's order, and ask for their own device's lease") {
  std::vector<size_t> asked;
  DeviceArenas::Server server{[](uint64_t, uint64_t) {}, [](uint64_t, uint64_t) {},
                              [&](size_t device, uint64_t bytes) {
                                asked.push_back(device);
                                return bytes;
                              }};
  wire::DeviceRanges ranges(kBase, 64 * wire::kGranule, 4);
  DeviceArenas arenas(ranges, {{2, 0}, {0, wire::kGranule}}, server);
  uint64_t first = arenas.of(0).allocate(100).value(), second = arenas.of(1).allocate(100).value();
  CHECK(asked == std::vector<size_t>{2});
  CHECK(first == ranges.begin(2));
  CHECK(second == ranges.begin(0));
  CHECK(arenas.device_of(first) == 0);
  CHECK(arenas.device_of(second) == 1);
  CHECK(arenas.device_of(ranges.begin(1)) == -1);  // the program does not see it
  CHECK(arenas.device_of(kBase - 1) == -1);
  CHECK(arenas.find(first + 99)->address == first);
  CHECK_FALSE(arenas.find(ranges.begin(1)));
  CHECK_FALSE(arenas.release(ranges.begin(1)));
  CHECK_FALSE(arenas.of(0).allocate(17 * wire::kGranule));  // no room, although the range has it
  CHECK(arenas.release(second));
  CHECK(arenas.release(first));
}

TEST_CASE("child: two devices", "[.][two-devices]") {
  fake().devices = 2;
  int n = 0, device = -1;
  REQUIRE(cudaGetDeviceCount(&n) == cudaSuccess);
  CHECK(n == 2);
  unsigned flags;
  int active = 1;
  REQUIRE(cuDevicePrimaryCtxGetState(1, &flags, &active) == CUDA_SUCCESS);
  CHECK(active == 0);
  void *a = allocate_on(0), *b = allocate_on(1);
  REQUIRE(cuDevicePrimaryCtxGetState(1, &flags, &active) == CUDA_SUCCESS);
  CHECK(active == 1);
  CHECK(attributes(a).device == 0);
  CHECK(attributes(b).device == 1);
  void* pinned = nullptr;
  REQUIRE(cudaMallocHost(&pinned, 4096) == cudaSuccess);
  CHECK(attributes(pinned).device == 1);
  CHECK(cudaSetDevice(2) == cudaErrorInvalidDevice);
  std::thread([&] { CHECK((cudaGetDevice(&device) == cudaSuccess && device == 0)); }).join();  // each thread begins with the first
  REQUIRE((cudaGetDevice(&device) == cudaSuccess && device == 1));

  cudaDeviceProp one, two;
  REQUIRE(cudaGetDeviceProperties(&one, 0) == cudaSuccess);
  REQUIRE(cudaGetDeviceProperties(&two, 1) == cudaSuccess);
  CHECK(memcmp(&one.uuid, &two.uuid, sizeof one.uuid) != 0);
  CHECK(one.pciBusID != two.pciBusID);

  size_t free_bytes[2], total;
  cudaFree(a);
  for (int d : {0, 1}) {
    REQUIRE(cudaSetDevice(d) == cudaSuccess);
    REQUIRE(cudaMemGetInfo(&free_bytes[d], &total) == cudaSuccess);
  }
  CHECK(free_bytes[0] == total);
  CHECK(free_bytes[1] == total - wire::kGranule);
  CHECK(cudaFree(b) == cudaSuccess);  // whatever device is current
  cudaFreeHost(pinned);
  cudaGetLastError();
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  CHECK(fake().mapped() == 0);
  CHECK(fake().complaints() == std::vector<std::string>{});
}
TEST_CASE("two devices have memory, contexts and properties of their own") { passes(with_devices("two-devices")); }

TEST_CASE("child: peers", "[.][peers]") {
  fake().devices = 2;
  auto *a = static_cast<char*>(allocate_on(0)), *b = static_cast<char*>(allocate_on(1));
  std::vector<std::byte> out = pattern(100000, 3), back(out.size());
  REQUIRE(cudaMemcpy(a, out.data(), out.size(), cudaMemcpyHostToDevice) == cudaSuccess);
  CHECK(cudaMemcpyPeer(b, 1, a, 0, out.size()) == cudaSuccess);
  REQUIRE(cudaMemcpy(back.data(), b, out.size(), cudaMemcpyDeviceToHost) == cudaSuccess);
  CHECK(back == out);
  CHECK(cudaMemcpyPeerAsync(b, 0, a, 0, 10, nullptr) == cudaErrorInvalidValue);
  CHECK(cudaMemcpyPeerAsync(b, 2, a, 0, 10, nullptr) == cudaErrorInvalidDevice);
  CUcontext contexts[2];
  for (int d : {0, 1}) REQUIRE(cuDevicePrimaryCtxRetain(&contexts[d], d) == CUDA_SUCCESS);
  CHECK(contexts[0] != contexts[1]);
  auto address = [](void* p) { return reinterpret_cast<CUdeviceptr>(p); };
  CHECK(cuMemcpyPeer(address(a + 500000), contexts[0], address(b), contexts[1], out.size()) == CUDA_SUCCESS);
  CHECK(cuMemcpyPeerAsync(address(a), contexts[1], address(b), contexts[1], 10, nullptr) == CUDA_ERROR_INVALID_VALUE);
  CHECK(cuMemcpyPeer(address(a), nullptr, address(b), contexts[1], 10) == CUDA_ERROR_INVALID_CONTEXT);
  REQUIRE(cudaMemcpy(back.data(), a + 500000, out.size(), cudaMemcpyDeviceToHost) == cudaSuccess);
  CHECK(back == out);

  int can = -1;
  CHECK((cudaDeviceCanAccessPeer(&can, 0, 1) == cudaSuccess && can == 1));
  CHECK((cudaDeviceCanAccessPeer(&can, 1, 1) == cudaSuccess && can == 0));
  CHECK(cudaDeviceCanAccessPeer(&can, 0, 2) == cudaErrorInvalidDevice);
  REQUIRE(cudaSetDevice(0) == cudaSuccess);
  CHECK(cudaDeviceEnablePeerAccess(0, 0) == cudaErrorInvalidDevice);
  CHECK(cudaDeviceEnablePeerAccess(1, 1) == cudaErrorInvalidValue);
  CHECK(cudaDeviceDisablePeerAccess(1) == cudaErrorPeerAccessNotEnabled);
  CHECK(cudaDeviceEnablePeerAccess(1, 0) == cudaSuccess);
  CHECK(cudaDeviceEnablePeerAccess(1, 0) == cudaErrorPeerAccessAlreadyEnabled);
  CHECK(cuCtxEnablePeerAccess(contexts[1], 0) == CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED);
  CHECK(cuCtxDisablePeerAccess(contexts[1]) == CUDA_SUCCESS);
  CHECK(cudaDeviceDisablePeerAccess(1) == cudaErrorPeerAccessNotEnabled);
  int value = -1;
  CHECK((cudaDeviceGetP2PAttribute(&value, cudaDevP2PAttrAccessSupported, 0, 1) == cudaSuccess && value == 1));
  CHECK((cudaDeviceGetP2PAttribute(&value, cudaDevP2PAttrNativeAtomicSupported, 0, 1) == cudaSuccess && value == 0));
  CHECK(cudaDeviceGetP2PAttribute(&value, cudaDevP2PAttrAccessSupported, 1, 1) == cudaErrorInvalidDevice);
  cudaGetLastError();
}
TEST_CASE("peers: copies between devices, and access as CUDA keeps it") { passes(with_devices("peers")); }

TEST_CASE("child: streams of devices", "[.][device-streams]") {
  fake().devices = 2;
  cudaStream_t on[2];
  cudaEvent_t events[2];
  for (int d : {0, 1}) {
    REQUIRE(cudaSetDevice(d) == cudaSuccess);
    REQUIRE(cudaStreamCreate(&on[d]) == cudaSuccess);
    REQUIRE(cudaEventCreate(&events[d]) == cudaSuccess);
    int device = -1;
    CHECK((cudaStreamGetDevice(on[d], &device) == cudaSuccess && device == d));
  }
  CHECK(cudaEventRecord(events[0], on[1]) == cudaErrorInvalidResourceHandle);
  CHECK(cudaEventRecord(events[0], nullptr) == cudaErrorInvalidResourceHandle);  // the current device's default stream
  for (int d : {0, 1}) CHECK(cudaEventRecord(events[d], on[d]) == cudaSuccess);
  CHECK(cudaStreamWaitEvent(on[0], events[1], 0) == cudaSuccess);
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  float ms;
  CHECK(cudaEventElapsedTime(&ms, events[0], events[1]) == cudaErrorInvalidResourceHandle);
  CHECK(cudaEventElapsedTime(&ms, events[1], events[1]) == cudaSuccess);
  CUcontext context;
  REQUIRE(cuDevicePrimaryCtxRetain(&context, 0) == CUDA_SUCCESS);
  REQUIRE(cuCtxSetCurrent(context) == CUDA_SUCCESS);  // which makes its device the runtime's, too
  int device = -1;
  CHECK((cudaGetDevice(&device) == cudaSuccess && device == 0));
  CHECK((cuCtxGetDevice(&device) == CUDA_SUCCESS && device == 0));
  cudaGetLastError();
}
TEST_CASE("streams and events belong to a device") { passes(with_devices("device-streams")); }

// CUDA_VISIBLE_DEVICES decides which of the server's three devices these are; the server's are told apart by their addresses.
TEST_CASE("child: visible devices", "[.][visible]") {
  fake().devices = 3;
  int n = 0;
  cudaGetDeviceCount(&n);
  std::string order;
  for (int d = 0; d < n; d++) {
    auto p = reinterpret_cast<uint64_t>(allocate_on(d));
    const auto& o = session()->opened;
    order += std::to_string(wire::DeviceRanges(o.range_address, o.range_size, 3).device_of(p));
    CHECK(attributes(reinterpret_cast<void*>(p)).device == d);
    size_t free_bytes, total;
    CHECK((cudaMemGetInfo(&free_bytes, &total) == cudaSuccess && free_bytes == total - wire::kGranule));
  }
  printf("devices <%s>\n", order.c_str());
}
TEST_CASE("CUDA_VISIBLE_DEVICES chooses and orders devices as CUDA does") {
  for (auto [visible, order] : std::vector<std::pair<std::string, std::string>>{{"1", "1"},
                                                                                {"2,0", "20"},
                                                                                {"1,0,2", "102"},
                                                                                {"1,7,0", "1"},
                                                                                {"1,-1,0", "1"},
                                                                                {"1,1", ""},
                                                                                {"7", ""},
                                                                                {" 2, 1", "21"},
                                                                                {"2gpu,1", "21"},
                                                                                {"GPU-1", ""}}) {
    auto done = with_devices("visible", visible);
    INFO(visible << ": " << done.output);
    CHECK(done.status == 0);
    CHECK(done.output.find("devices <" + order + ">") != std::string::npos);
  }
}

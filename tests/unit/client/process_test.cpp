// What happens to a process as a whole: how the session opens or does not, its loss, fork, the last line. Each case runs a hidden case of this
// program in a process of its own and judges it by its exit status and its words.
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <thread>

#include "interpose/batch/session.hpp"
#include "interpose/shadow/fault.hpp"
#include "tests/unit/client/fixture.hpp"

using namespace djinn;
using namespace djinn::test;
using wire::ErrorClass;
using wire::Opcode;

namespace {
const std::string kServer = "DJINN_SERVER=tcp://127.0.0.1:1", kQuiet = "DJINN_SUMMARY=off", kSummary = "DJINN_SUMMARY=on";
size_t lines_of_djinn(const std::string& output) {
  size_t n = 0;
  for (size_t at = 0; (at = output.find("djinn: ", at)) != std::string::npos; at++) ++n;
  return n;
}
bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }
}  // namespace

// ---- no device ----

TEST_CASE("child: no device", "[.][no-device]") {
  int n = 7;
  CHECK(cudaGetDeviceCount(&n) == cudaErrorNoDevice);
  CHECK(n == 0);
  CHECK(cudaGetLastError() == cudaErrorNoDevice);
  void* p = nullptr;
  CHECK(cudaMalloc(&p, 100) == cudaErrorNoDevice);
  CHECK(cuInit(0) == CUDA_ERROR_NO_DEVICE);
  CHECK(cudaSetDevice(0) == cudaErrorNoDevice);
  CHECK(session() == nullptr);
}
TEST_CASE("child: one device", "[.][one-device]") {
  int n = 0;
  CHECK(cudaGetDeviceCount(&n) == cudaSuccess);
  CHECK(n == 1);
}
TEST_CASE("child: refused", "[.][refused]") {
  fake().refuse_open = "djinn-gpu-server at x: refused: full";
  int n = 7;
  CHECK(cudaGetDeviceCount(&n) == cudaErrorNoDevice);
  CHECK(cudaGetDeviceCount(&n) == cudaErrorNoDevice);
}

TEST_CASE("a value that cannot be understood is refused by its name in one line, and there is no device") {
  for (std::string bad : {"DJINN_LEVEL=high", "DJINN_PERF=no_shape_cache,no_gravity", "DJINN_SUMMARY=maybe", "DJINN_LOCAL=2", "DJINN_LOG=loud",
                          "DJINN_DEBUG=everything"}) {
    auto done = run_case("no-device", {kServer, bad});
    INFO(done.output);
    CHECK(done.status == 0);
    CHECK(lines_of_djinn(done.output) == 1);
    CHECK(contains(done.output, bad.substr(0, bad.find('='))));
    CHECK(contains(done.output, bad.substr(bad.find_last_of("=,") + 1)));
  }
}

TEST_CASE("a refusal is said once, in its own words") {
  auto done = run_case("refused", {kServer, kQuiet});
  INFO(done.output);
  CHECK(done.status == 0);
  CHECK(lines_of_djinn(done.output) == 1);
  CHECK(contains(done.output, "refused: full"));
}

TEST_CASE("CUDA_VISIBLE_DEVICES hides and shows the device as CUDA does") {
  for (std::string hides : {"", "-1", "1", "abc", "-1,0", "1,0"}) {
    auto done = run_case("no-device", {kServer, kQuiet, "CUDA_VISIBLE_DEVICES=" + hides});
    INFO(hides + done.output);
    CHECK(done.status == 0);
    CHECK(lines_of_djinn(done.output) == 0);
  }
  for (std::string shows : {"0", "0,1", "0,-1"}) {
    auto done = run_case("one-device", {kServer, kQuiet, "CUDA_VISIBLE_DEVICES=" + shows});
    INFO(shows + done.output);
    CHECK(done.status == 0);
  }
}

// ---- the loss of the session ----

TEST_CASE("child: lost", "[.][lost]") {
  REQUIRE(cudaSetDevice(0) == cudaSuccess);
  void *p = nullptr, *pinned = nullptr;
  REQUIRE(cudaMalloc(&p, 1 << 20) == cudaSuccess);
  REQUIRE(cudaMallocHost(&pinned, 1 << 20) == cudaSuccess);
  FakeLink& link = fake();
  link.automatic = false;
  REQUIRE(cudaMemcpyAsync(p, pinned, 1 << 20, cudaMemcpyHostToDevice, nullptr) == cudaSuccess);
  cudaError_t waited = cudaSuccess;
  std::string words;
  std::thread waiter([&] {
    waited = cudaDeviceSynchronize();
    words = cudaGetErrorString(waited);
  });
  while (!link.waiting()) std::this_thread::yield();
  link.lose("djinn-gpu-server at x: the connection was closed");
  waiter.join();
  CHECK(waited != cudaSuccess);
  CHECK(contains(words, "djinn-gpu-server at x"));
  CHECK(cudaMalloc(&p, 100) == waited);
  CHECK(contains(cudaGetErrorString(waited), "djinn-gpu-server at x"));
  CHECK(cudaMemset(p, 0, 1) == waited);
  char byte;
  CHECK(cudaMemcpy(&byte, p, 1, cudaMemcpyDeviceToHost) == waited);
  CHECK(cudaGetLastError() == waited);
  CHECK(cudaGetLastError() == waited);
  // the link may still be reading it
  CHECK(cudaFreeHost(pinned) == cudaSuccess);
  for (int i = 0; i < 1 << 20; i += 4096) REQUIRE(static_cast<volatile char*>(pinned)[i] == 0);
}

TEST_CASE("a lost session ends waits, names the server in every error, and takes no memory away that is under way") {
  auto done = run_case("lost", {kServer, kQuiet});
  INFO(done.output);
  CHECK(done.status == 0);
  CHECK(lines_of_djinn(done.output) == 1);
}

static void is_sticky(void* p) {
  for (int i = 0; i < 2; i++) {
    CHECK(cudaGetLastError() == cudaErrorIllegalAddress);
    CHECK(cudaDeviceSynchronize() == cudaErrorIllegalAddress);
    CHECK(cudaMalloc(&p, 10) == cudaErrorIllegalAddress);
    CHECK(cudaMemset(p, 0, 10) == cudaErrorIllegalAddress);
    CHECK(contains(cudaGetErrorString(cudaErrorIllegalAddress), "fill: outside"));
  }
}
TEST_CASE("child: sticky post", "[.][sticky-post]") {
  void* p = nullptr;
  REQUIRE(cudaMalloc(&p, 1000) == cudaSuccess);
  fake().fail_next(Opcode::fill, {cudaErrorIllegalAddress, ErrorClass::sticky, "fill", "outside"});
  CHECK(cudaMemset(p, 0, 1000) == cudaSuccess);
  CHECK(cudaDeviceSynchronize() == cudaErrorIllegalAddress);
  is_sticky(p);
}
TEST_CASE("child: sticky call", "[.][sticky-call]") {
  void* p = nullptr;
  REQUIRE(cudaMalloc(&p, 1000) == cudaSuccess);
  fake().fail_next(Opcode::download, {cudaErrorIllegalAddress, ErrorClass::sticky, "fill", "outside"});
  char byte;
  CHECK(cudaMemcpy(&byte, p, 1, cudaMemcpyDeviceToHost) == cudaErrorIllegalAddress);
  is_sticky(p);
}

TEST_CASE("a sticky error stays, whether it came with a post or with a call") {
  for (auto tag : {"sticky-post", "sticky-call"}) {
    auto done = run_case(tag, {kServer, kQuiet});
    INFO(done.output);
    CHECK(done.status == 0);
  }
}

// ---- touching device memory ----

TEST_CASE("child: touch", "[.][touch]") {
  void* p = nullptr;
  REQUIRE(cudaMalloc(&p, 1000) == cudaSuccess);
  signal(SIGSEGV, SIG_DFL);  // not Catch's
  watch_faults();
  static_cast<volatile char*>(p)[77] = 1;
}

TEST_CASE("a touch of device memory by the client names the allocation and ends as a touch does") {
  auto done = run_case("touch", {kServer, kQuiet});
  INFO(done.output);
  CHECK(done.status == 128 + SIGSEGV);
  CHECK(contains(done.output, "byte 77 of an allocation of 1024 bytes"));
}

// ---- fork ----

TEST_CASE("child: fork", "[.][fork]") {
  REQUIRE(cudaSetDevice(0) == cudaSuccess);
  void* p = nullptr;
  REQUIRE(cudaMalloc(&p, 1000) == cudaSuccess);
  pid_t child = fork();
  if (child == 0) {
    void* q = nullptr;
    int n = 0;
    bool right = cudaMalloc(&q, 100) == cudaErrorInitializationError && cudaGetDeviceCount(&n) == cudaErrorInitializationError &&
                 cuInit(0) == CUDA_ERROR_NOT_INITIALIZED && cudaMemset(p, 0, 1) == cudaErrorInitializationError &&
                 cudaDeviceSynchronize() == cudaErrorInitializationError && fake().abandoned;
    exit(right ? 0 : 1);  // exit handlers run in the child too
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  CHECK_FALSE(fake().abandoned);
  CHECK(cudaMemset(p, 0, 1000) == cudaSuccess);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
}

TEST_CASE("child: fork first", "[.][fork-first]") {
  pid_t child = fork();
  int n = 0;
  bool right = cudaGetDeviceCount(&n) == cudaSuccess && n == 1;
  if (child == 0) _exit(right ? 0 : 1);
  int status = -1;
  waitpid(child, &status, 0);
  CHECK(status == 0);
  CHECK(right);
}

TEST_CASE("after a fork the child gets CUDA's own error and the parent goes on; before the first call a fork is free") {
  for (auto tag : {"fork", "fork-first"}) {
    auto done = run_case(tag, {kServer, kSummary});
    INFO(done.output);
    CHECK(done.status == 0);
    CHECK(lines_of_djinn(done.output) <= 1);  // the child says nothing at its end
  }
}

// ---- the last line ----

TEST_CASE("child: some work", "[.][some-work]") {
  void* p = nullptr;
  REQUIRE(cudaMalloc(&p, 1000) == cudaSuccess);
  REQUIRE(cudaMemset(p, 0, 1000) == cudaSuccess);
}
TEST_CASE("child: no work", "[.][no-work]") { CHECK(cudaGetLastError() == cudaSuccess); }

TEST_CASE("the last line names who computed; it can be switched off, and programs without CUDA do not have it") {
  auto done = run_case("some-work", {kServer, kSummary});
  INFO(done.output);
  CHECK(lines_of_djinn(done.output) == 1);
  CHECK(contains(done.output, "djinn: 0 ops, "));
  CHECK(contains(done.output, "computed by djinn-gpu-server (pid 123, worker 124) on host nowhere, "));
  CHECK(contains(done.output, "Fake device"));
  CHECK(lines_of_djinn(run_case("some-work", {kServer, kQuiet}).output) == 0);
  CHECK(lines_of_djinn(run_case("no-work", {kServer, kSummary}).output) == 0);
}

// See fixture.hpp.
#include "tests/unit/client/fixture.hpp"

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <random>

#include "interpose/batch/session.hpp"

extern char** environ;

namespace djinn::test {

namespace {
// Before anything of the client reads its configuration: a server that nothing connects to, and no last line.
[[maybe_unused]] const int environment_is_ours = [] {
  setenv("DJINN_SERVER", "tcp://127.0.0.1:1", 0);
  setenv("DJINN_SUMMARY", "off", 0);
  return 0;
}();
}  // namespace

FakeLink& fake() {
  static FakeLink* link = [] {
    void* library = dlopen((own_folder() + "/libdjinn_link.so").c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) throw std::runtime_error(dlerror());
    return reinterpret_cast<FakeLink* (*)()>(dlsym(library, "fake_link_instance"))();
  }();
  return *link;
}

OpenSession::OpenSession() {
  REQUIRE(cudaSetDevice(0) == cudaSuccess);
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  cudaGetLastError();
  link.clear();
}

OpenSession::~OpenSession() {
  link.automatic = true;
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  cudaGetLastError();
  CHECK(link.complaints() == std::vector<std::string>{});
}

std::vector<Sent> OpenSession::sent(wire::Opcode opcode) {
  session()->log.flush();
  std::vector<Sent> out;
  for (auto& s : link.sent())
    if (s.opcode() == opcode) out.push_back(s);
  return out;
}

Finished run_case(const std::string& tag, const std::vector<std::string>& extra) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  char self[4096] = {};
  REQUIRE(readlink("/proc/self/exe", self, sizeof self - 1) > 0);
  std::vector<std::string> words{self, "[" + tag + "]"}, variables;
  for (char** e = environ; *e; e++) {
    std::string name(*e, std::string_view(*e).find('=') + 1);
    bool replaced = name.rfind("DJINN_", 0) == 0 && name != "DJINN_BUILD=";
    for (auto& x : extra) replaced |= x.rfind(name, 0) == 0;
    if (!replaced) variables.push_back(*e);
  }
  variables.insert(variables.end(), extra.begin(), extra.end());
  std::vector<char*> arguments, environment;
  for (auto& w : words) arguments.push_back(w.data());
  for (auto& v : variables) environment.push_back(v.data());
  arguments.push_back(nullptr);
  environment.push_back(nullptr);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_adddup2(&files, ends[1], 1);
  posix_spawn_file_actions_adddup2(&files, ends[1], 2);
  posix_spawn_file_actions_addclose(&files, ends[0]);
  pid_t pid = 0;
  int failed = posix_spawn(&pid, self, &files, nullptr, arguments.data(), environment.data());
  posix_spawn_file_actions_destroy(&files);
  close(ends[1]);
  REQUIRE(failed == 0);
  Finished done;
  char piece[4096];
  for (ssize_t n; (n = read(ends[0], piece, sizeof piece)) > 0;) done.output.append(piece, static_cast<size_t>(n));
  close(ends[0]);
  int status = 0;
  waitpid(pid, &status, 0);
  done.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return done;
}

std::vector<std::byte> pattern(size_t n, unsigned seed) {
  std::mt19937 dice(seed);
  std::vector<std::byte> v(n);
  for (auto& b : v) b = static_cast<std::byte>(dice());
  return v;
}

}  // namespace djinn::test

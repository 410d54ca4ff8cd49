// See executor.hpp.
#include "server/execute/executor.hpp"

#include <dlfcn.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <array>
#include <cctype>
#include <filesystem>
#include <fstream>

namespace djinn::server {

constexpr std::string_view kPrefix = "libdjinn_aten-", kSuffix = ".so";

std::string minor_version(const std::string& version) {
  size_t first = version.find('.');
  if (first == std::string::npos || first == 0) return {};
  size_t end = first + 1;
  while (end < version.size() && std::isdigit(static_cast<unsigned char>(version[end]))) ++end;
  for (size_t i = 0; i < first; i++)
    if (!std::isdigit(static_cast<unsigned char>(version[i]))) return {};
  return end > first + 1 ? version.substr(0, end) : std::string{};
}

std::string torch_version_of(const std::string& directory) {
  std::ifstream file(directory + "/version.py");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("__version__", 0) != 0) continue;
    size_t open = line.find_first_of("'\""), close = line.find_last_of("'\"");
    if (open != std::string::npos && close > open) return line.substr(open + 1, close - open - 1);
  }
  return {};
}

std::string find_executor(const std::string& minor) {
  auto all = executors();
  auto it = all.find(minor);
  return it == all.end() ? std::string{} : it->second;
}

// Where this build's libraries lie: beside this binary (a build folder) or in ../lib/djinn of it (installed).
static std::array<std::filesystem::path, 2> own_folders() {
  std::error_code ignored;
  auto folder = std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path();
  return {folder, folder / "../lib/djinn"};
}

std::map<std::string, std::string> executors() {
  std::map<std::string, std::string> found;
  std::error_code ignored;
  for (const auto& where : own_folders())
    for (const auto& file : std::filesystem::directory_iterator(where, ignored)) {
      std::string name = file.path().filename();
      if (name.starts_with(kPrefix) && name.ends_with(kSuffix))
        found.emplace(name.substr(kPrefix.size(), name.size() - kPrefix.size() - kSuffix.size()), file.path());
    }
  return found;
}

static std::string open_library(const std::string& path, int binding = RTLD_NOW) {
  return dlopen(path.c_str(), binding | RTLD_LOCAL) ? std::string{} : std::string(dlerror());
}

// Op libraries may name libraries of a CUDA build: what stands in for them comes first (standin/standin.c).
static std::string open_standins(const std::string& torch_directory) {
  std::error_code ignored;
  for (const auto& where : own_folders())
    for (const auto& file : std::filesystem::directory_iterator(where / "standin", ignored))
      if (auto e = open_library(file.path()); !e.empty()) return e;
  return open_library(torch_directory + "/lib/libtorch.so");
}

// torchvision is part of what a torch package's owner calls PyTorch: where it lies beside torch, its ops are executed too.
static void open_torchvision(const std::string& torch_directory) {
  for (const char* name : {"_C_stable.so", "_C.so"}) {
    std::string path = torch_directory + "/../torchvision/" + name;
    if (access(path.c_str(), R_OK) != 0) continue;
    if (auto e = open_library(path, RTLD_LAZY); !e.empty()) spdlog::warn("torchvision's ops are not executed: {}", e);
    return;
  }
}

std::string load_executor(const std::string& torch_directory, const std::string& executor, const std::string& op_library, LoadedExecutor& out) {
  std::string wanted = minor_version(torch_version_of(torch_directory));
  if (wanted.empty()) return torch_directory + "/version.py names no version";
  if (executor.empty())
    return "this build has no executor for torch " + wanted + ": no libdjinn_aten-" + wanted + ".so beside djinn-gpu-server or in ../lib/djinn";
  for (const char* library : {"libgomp.so.1", "libc10.so", "libtorch_cpu.so"}) {
    std::string path = torch_directory + "/lib/" + library;
    // an OpenMP runtime lies there or elsewhere, depending on the wheel; the loader knows
    if (access(path.c_str(), R_OK) != 0 && library == std::string("libgomp.so.1")) continue;
    if (auto e = open_library(path); !e.empty()) return e;
  }
  void* handle = dlopen(executor.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) return dlerror();
  auto load = reinterpret_cast<djinn_executor_load_fn>(dlsym(handle, "djinn_executor_load"));
  if (!load) return executor + " is not an executor";
  if (auto e = open_standins(torch_directory); !e.empty()) return e;
  open_torchvision(torch_directory);
  char error[1024] = "";
  const djinn_executor* table = load(op_library.empty() ? nullptr : op_library.c_str(), error, sizeof error);
  if (!table) return executor + ": " + error;
  if (table->version != DJINN_EXECUTOR_VERSION) return executor + " has another interface version; build it together with the server";
  if (minor_version(table->torch) != wanted) return executor + " is built for torch " + table->torch + ", not for " + wanted;
  size_t count = 0;
  const char* const* names = table->ops(&count);
  out.ops.assign(names, names + count);
  out.torch = table->torch;
  out.table = table;
  return {};
}

}  // namespace djinn::server

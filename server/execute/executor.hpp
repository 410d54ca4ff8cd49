// libdjinn_aten-MINOR.so (semantic/abi/executor.h), loaded with the libtorch of one torch package. libtorch's libraries are opened by absolute path
// and in order of dependence, RTLD_LOCAL, so that the executor binds to exactly these and nothing of theirs enters the process's global scope.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "semantic/abi/executor.h"

namespace djinn::server {

// "2.14.1+cu130" → "2.14"; empty for what is not a version.
std::string minor_version(const std::string& version);
// The __version__ in DIR/version.py, or empty.
std::string torch_version_of(const std::string& directory);
// The executors of this build, minor version → path: libdjinn_aten-MINOR.so beside this binary or in ../lib/djinn of it.
std::map<std::string, std::string> executors();
// The one for `minor`, or empty.
std::string find_executor(const std::string& minor);

struct LoadedExecutor {
  const djinn_executor* table = nullptr;  // lives as long as the process
  std::string torch;
  std::vector<std::string> ops;
};
// Empty on success, else one sentence.
std::string load_executor(const std::string& torch_directory, const std::string& executor, const std::string& op_library, LoadedExecutor& out);

}  // namespace djinn::server

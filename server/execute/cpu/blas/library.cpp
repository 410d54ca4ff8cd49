// See library.hpp.
#include "server/execute/cpu/blas/library.hpp"

#include <dlfcn.h>

namespace djinn::server {

// In order of speed; libblas.so.3 is whatever the distribution's alternatives point to.
static constexpr const char* kNames[] = {"libopenblas.so.0", "libopenblas.so", "libblas.so.3"};

static BlasLibrary load() {
  BlasLibrary library;
  for (const char* name : kNames) {
    void* handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!handle) continue;
    auto find = [&](const char* symbol, auto& function) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(handle, symbol));
    };
    find("sgemm_", library.sgemm);
    find("dgemm_", library.dgemm);
    find("cgemm_", library.cgemm);
    find("zgemm_", library.zgemm);
    find("openblas_set_num_threads", library.set_threads);
    if (library.sgemm && library.dgemm && library.cgemm && library.zgemm) {
      library.name = name;
      return library;
    }
    dlclose(handle);
    library = {};
  }
  library.error = "this server's machine has no BLAS library (Debian: libopenblas0)";
  return library;
}

const BlasLibrary& blas_library() {
  static const BlasLibrary library = load();
  return library;
}

}  // namespace djinn::server

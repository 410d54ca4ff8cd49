// Exported: what of cuDNN is neither absent nor a shape of the generator.
#if __has_include(<cudnn.h>)
#include <cudnn.h>
#include <dlfcn.h>

#include "interpose/client.hpp"

#define DJINN_TEXT_OF(x) #x
#define DJINN_TEXT(x) DJINN_TEXT_OF(x)

// Programs compare it with the headers that they were built with. One build of ours serves several of them, so the library that the program brought
// along says it (nothing else of that library is ever called), else our own headers.
DJINN_EXPORT size_t cudnnGetVersion(void) {
  static const size_t version = [] {
    void* brought = dlopen("libcudnn.so." DJINN_TEXT(CUDNN_MAJOR), RTLD_LAZY | RTLD_NOLOAD);
    auto theirs = brought ? reinterpret_cast<size_t (*)()>(dlsym(brought, "cudnnGetVersion")) : nullptr;
    return theirs && theirs != &cudnnGetVersion ? theirs() : CUDNN_VERSION;
  }();
  return version;
}

DJINN_EXPORT void cudnnGetLastErrorString(char* message, size_t bytes) {
  if (message && bytes) *message = 0;
}
#endif

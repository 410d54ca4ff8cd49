// Exported: what of cuDNN is neither absent nor a shape of the generator.
#if __has_include(<cudnn.h>)
#include <cudnn.h>

#include "interpose/client.hpp"

DJINN_EXPORT void cudnnGetLastErrorString(char* message, size_t bytes) {
  if (message && bytes) *message = 0;
}
#endif

/* Between libdjinn.so and its libnvidia-ml.so.1: the facts that NVML's queries are answered from. Both are of one build. NVML knows all devices of
 * the machine, so these are the server's, whatever CUDA_VISIBLE_DEVICES says. */
#pragma once
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

typedef struct djinn_nvml_device {
  char name[96];
  unsigned char uuid[16];
  uint32_t pci_bus, major, minor, clock_khz;
} djinn_nvml_device;

typedef struct djinn_nvml_use {
  uint64_t free_bytes, total_bytes;
  uint64_t busy_nanoseconds,
      open_nanoseconds; /* the server has executed commands of this session for so long, since the session was opened so long ago */
} djinn_nvml_use;

/* How many there are; opens the session. 0: none. */
__attribute__((visibility("default"))) int djinn_nvml_devices(void);
__attribute__((visibility("default"))) void djinn_nvml_describe(int device, djinn_nvml_device* facts);
/* A round trip, behind everything that the program has posted. Returns a cudaError_t. */
__attribute__((visibility("default"))) int djinn_nvml_use_of(int device, djinn_nvml_use* use);

#ifdef __cplusplus
}
#endif

// Exported: functions of the driver by name. Only what is built is found, so that a program that asks takes its other way; what is absent says so
// only to programs that link it.
#include <algorithm>
#include <string_view>

#include "interpose/client.hpp"

// `#f` is the name that programs ask for, `f` the version of it that our headers declare.
#define ENTRY(f) \
  { #f, reinterpret_cast < void*>(&f) }

DJINN_EXPORT cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned version, unsigned long long flags,
                                                          cudaDriverEntryPointQueryResult* result) {
  static constexpr unsigned kFlagsMax = cudaEnablePerThreadDefaultStream;
  if (!name || !function || flags > kFlagsMax) return djinn::fail(cudaErrorInvalidValue);
  static const struct {
    std::string_view name;
    void* function;
  } entries[] = {
      ENTRY(cuDeviceGet),
      ENTRY(cuDeviceGetAttribute),
      ENTRY(cuGetErrorString),
      ENTRY(cuMemAddressFree),
      ENTRY(cuMemAddressReserve),
      ENTRY(cuMemCreate),
      ENTRY(cuMemExportToShareableHandle),
      ENTRY(cuMemGetAccess),
      ENTRY(cuMemGetAddressRange),
      ENTRY(cuMemGetAllocationGranularity),
      ENTRY(cuMemGetAllocationPropertiesFromHandle),
      ENTRY(cuMemImportFromShareableHandle),
      ENTRY(cuMemMap),
      ENTRY(cuMemRelease),
      ENTRY(cuMemRetainAllocationHandle),
      ENTRY(cuMemSetAccess),
      ENTRY(cuMemUnmap),
      ENTRY(cuMemsetD32Async),
      ENTRY(cuStreamWriteValue32),
  };
  auto e = std::find_if(std::begin(entries), std::end(entries), [&](const auto& each) { return each.name == name; });
  bool found = e != std::end(entries) && version >= 12000;
  *function = found ? e->function : nullptr;
  if (result)
    *result = found                    ? cudaDriverEntryPointSuccess
              : e == std::end(entries) ? cudaDriverEntryPointSymbolNotFound
                                       : cudaDriverEntryPointVersionNotSufficent;
  return cudaSuccess;
}

// What our libnvidia-ml.so.1 (interpose/nvml) is told, and how a program gets at it: NVML is always opened by name, which a preload does not answer,
// but the dynamic linker gives a library that is loaded already to whoever asks for its name. So it is loaded with libdjinn.so, RTLD_LOCAL: its
// symbols are nobody's who does not ask.
#include "semantic/abi/nvml.h"

#include <dlfcn.h>

#include <chrono>
#include <cstdio>
#include <cstring>

#include "interpose/batch/session.hpp"
#include "interpose/shadow/device.hpp"

using namespace djinn;

namespace {
// An installation without it has no NVML, as machines without a driver.
__attribute__((constructor)) void load_nvml() { dlopen((own_folder() + "/libnvidia-ml.so.1").c_str(), RTLD_LAZY | RTLD_LOCAL); }
}  // namespace

int djinn_nvml_devices(void) { return open_session() ? static_cast<int>(session()->opened.device_count) : 0; }

void djinn_nvml_describe(int device, djinn_nvml_device* facts) {
  const djinn_link_device& o = session()->opened.devices[device];
  std::memset(facts, 0, sizeof *facts);
  std::snprintf(facts->name, sizeof facts->name, "%s", o.name);
  device_uuid(facts->uuid, static_cast<unsigned>(device));
  facts->pci_bus = static_cast<uint32_t>(device);
  facts->major = o.major;
  facts->minor = o.minor;
  facts->clock_khz = o.clock_khz;
}

int djinn_nvml_use_of(int device, djinn_nvml_use* use) {
  if (!session()) return session_error();
  Reply r = call(wire::Opcode::memory_info, wire::DeviceIndex{static_cast<uint64_t>(device)});
  if (r.status) return r.status;
  auto info = wire::Reader(r.payload).get<wire::MemoryInfo>();
  *use = {info.free, info.total, info.busy_nanoseconds, info.open_nanoseconds};
  return cudaSuccess;
}

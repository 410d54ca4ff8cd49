// libnvidia-ml.so.1 for programs under Djinn: the queries of NVML that have a true answer, from the session's facts (semantic/abi/nvml.h). What a CPU
// has not (temperature, power, NVLink) is NVML_ERROR_NOT_SUPPORTED; a function that is not here is not found, which bindings report by its name.
// NVML's header is not part of PyTorch's wheels, so the types that we use are declared below, with the layout of NVML's ABI.
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <mutex>

#include "semantic/abi/nvml.h"

namespace {

enum Status {
  kSuccess = 0,
  kUninitialized = 1,
  kInvalidArgument = 2,
  kNotSupported = 3,
  kNotFound = 6,
  kInsufficientSize = 7,
  kDriverNotLoaded = 9,
  kUnknown = 999
};
constexpr int kCudaVersion = 13000, kDevicesMax = 8;
constexpr char kVersion[] = "13.580.00";

struct PciInfo {
  char bus_id_legacy[16];
  unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
  char bus_id[32];
};
struct Memory {
  unsigned long long total, free, used;
};
struct MemoryV2 {
  unsigned version;
  unsigned long long total, reserved, free, used;
};
struct Utilization {
  unsigned gpu, memory;  // percent
};
struct Process {
  unsigned pid;
  unsigned long long bytes;
};
struct ProcessV2 {
  unsigned pid;
  unsigned long long bytes;
  unsigned gpu_instance, compute_instance;
};
struct Opaque;
using Device = Opaque*;

std::atomic<int> users{0};

// A handle is the device's number and one.
int index_of(Device device) { return static_cast<int>(reinterpret_cast<uintptr_t>(device)) - 1; }
Status check(Device device) {
  if (!users) return kUninitialized;
  return index_of(device) >= 0 && index_of(device) < djinn_nvml_devices() ? kSuccess : kInvalidArgument;
}
template <class Query>
int of(Device device, const void* result, Query query) {
  if (Status s = check(device)) return s;
  if (!result) return kInvalidArgument;
  djinn_nvml_device facts;
  djinn_nvml_describe(index_of(device), &facts);
  return query(facts);
}

int text(char* to, unsigned size, const char* from) {
  if (!to) return kInvalidArgument;
  return std::snprintf(to, size, "%s", from) < static_cast<int>(size) ? kSuccess : kInsufficientSize;
}
std::array<char, 48> uuid_text(const unsigned char* u) {
  std::array<char, 48> t;
  char* at = t.data() + std::sprintf(t.data(), "GPU-");
  for (int i = 0; i < 16; i++) at += std::sprintf(at, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", u[i]);
  return t;
}
std::array<char, 32> bus_text(unsigned bus) {
  std::array<char, 32> t{};
  std::snprintf(t.data(), t.size(), "00000000:%02X:00.0", bus);
  return t;
}

template <class Match>
int find(Device* device, Match match) {
  if (!users) return kUninitialized;
  if (!device) return kInvalidArgument;
  for (int i = 0; i < djinn_nvml_devices(); i++) {
    djinn_nvml_device facts;
    djinn_nvml_describe(i, &facts);
    if (match(facts)) return *device = reinterpret_cast<Device>(static_cast<uintptr_t>(i) + 1), kSuccess;
  }
  return kNotFound;
}

int use_of(Device device, djinn_nvml_use& use) {
  if (Status s = check(device)) return s;
  return djinn_nvml_use_of(index_of(device), &use) ? kUnknown : kSuccess;
}

// One client, this process: NVML would name others too, of which the server tells nobody.
template <class P>
int processes(Device device, unsigned* count, P* list) {
  djinn_nvml_use use;
  if (!count) return kInvalidArgument;
  if (int s = use_of(device, use)) return s;
  unsigned room = *count;
  *count = 1;
  if (room < 1) return kInsufficientSize;
  if (!list) return kInvalidArgument;
  list[0] = {};
  list[0].pid = static_cast<unsigned>(getpid());
  list[0].bytes = use.total_bytes - use.free_bytes;
  if constexpr (requires { list[0].gpu_instance; }) list[0].gpu_instance = list[0].compute_instance = 0xffffffff;  // no MIG
  return kSuccess;
}

}  // namespace

#define NVML extern "C" __attribute__((visibility("default")))

NVML int nvmlInitWithFlags(unsigned) {
  if (!djinn_nvml_devices()) return kDriverNotLoaded;
  users++;
  return kSuccess;
}
NVML int nvmlInit_v2() { return nvmlInitWithFlags(0); }
NVML int nvmlInit() { return nvmlInitWithFlags(0); }
NVML int nvmlShutdown() {
  int n = users;
  while (n > 0 && !users.compare_exchange_weak(n, n - 1)) {}
  return n > 0 ? kSuccess : kUninitialized;
}

NVML const char* nvmlErrorString(int status) {
  switch (status) {
    case kSuccess: return "Success";
    case kUninitialized: return "Uninitialized";
    case kInvalidArgument: return "Invalid Argument";
    case kNotSupported: return "Not Supported";
    case kNotFound: return "Not Found";
    case kInsufficientSize: return "Insufficient Size";
    case kDriverNotLoaded: return "Driver Not Loaded";
    default: return "Unknown Error";
  }
}

NVML int nvmlSystemGetDriverVersion(char* to, unsigned size) { return users ? text(to, size, "Djinn") : kUninitialized; }
NVML int nvmlSystemGetNVMLVersion(char* to, unsigned size) { return users ? text(to, size, kVersion) : kUninitialized; }
NVML int nvmlSystemGetCudaDriverVersion_v2(int* version) { return version ? *version = kCudaVersion, kSuccess : kInvalidArgument; }
NVML int nvmlSystemGetCudaDriverVersion(int* version) { return nvmlSystemGetCudaDriverVersion_v2(version); }

NVML int nvmlDeviceGetCount_v2(unsigned* n) {
  if (!users) return kUninitialized;
  return n ? *n = static_cast<unsigned>(djinn_nvml_devices()), kSuccess : kInvalidArgument;
}
NVML int nvmlDeviceGetCount(unsigned* n) { return nvmlDeviceGetCount_v2(n); }
NVML int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device* device) {
  if (!users) return kUninitialized;
  if (!device || index >= static_cast<unsigned>(djinn_nvml_devices())) return kInvalidArgument;
  *device = reinterpret_cast<Device>(uintptr_t{index} + 1);
  return kSuccess;
}
NVML int nvmlDeviceGetHandleByIndex(unsigned index, Device* device) { return nvmlDeviceGetHandleByIndex_v2(index, device); }
NVML int nvmlDeviceGetHandleByUUID(const char* uuid, Device* device) {
  return uuid ? find(device, [&](const djinn_nvml_device& d) { return !std::strcmp(uuid_text(d.uuid).data(), uuid); }) : kInvalidArgument;
}
NVML int nvmlDeviceGetHandleByPciBusId_v2(const char* id, Device* device) {
  unsigned domain, bus, slot, function;
  if (!id || std::sscanf(id, "%x:%x:%x.%x", &domain, &bus, &slot, &function) != 4) return kInvalidArgument;
  return find(device, [&](const djinn_nvml_device& d) { return !domain && bus == d.pci_bus && !slot && !function; });
}
NVML int nvmlDeviceGetHandleByPciBusId(const char* id, Device* device) { return nvmlDeviceGetHandleByPciBusId_v2(id, device); }

NVML int nvmlDeviceGetIndex(Device device, unsigned* index) {
  return of(device, index, [&](const djinn_nvml_device&) { return *index = static_cast<unsigned>(index_of(device)), kSuccess; });
}
NVML int nvmlDeviceGetName(Device device, char* to, unsigned size) {
  return of(device, to, [&](const djinn_nvml_device& d) { return text(to, size, d.name); });
}
NVML int nvmlDeviceGetUUID(Device device, char* to, unsigned size) {
  return of(device, to, [&](const djinn_nvml_device& d) { return text(to, size, uuid_text(d.uuid).data()); });
}
NVML int nvmlDeviceGetPciInfo_v3(Device device, PciInfo* info) {
  return of(device, info, [&](const djinn_nvml_device& d) {
    *info = {};
    info->bus = d.pci_bus;
    std::snprintf(info->bus_id, sizeof info->bus_id, "%s", bus_text(d.pci_bus).data());
    std::snprintf(info->bus_id_legacy, sizeof info->bus_id_legacy, "0000:%02x:00.0", d.pci_bus & 0xffu);  // a domain of four digits
    return kSuccess;
  });
}
NVML int nvmlDeviceGetCudaComputeCapability(Device device, int* major, int* minor) {
  return of(device, major && minor ? major : nullptr, [&](const djinn_nvml_device& d) {
    *major = static_cast<int>(d.major), *minor = static_cast<int>(d.minor);
    return kSuccess;
  });
}
// graphics, SM: the one clock there is
NVML int nvmlDeviceGetClockInfo(Device device, int type, unsigned* mhz) {
  return of(device, mhz, [&](const djinn_nvml_device& d) {
    if (type != 0 && type != 1) return kNotSupported;
    return *mhz = d.clock_khz / 1000, kSuccess;
  });
}

NVML int nvmlDeviceGetMemoryInfo(Device device, Memory* memory) {
  djinn_nvml_use use;
  if (!memory) return kInvalidArgument;
  if (int s = use_of(device, use)) return s;
  *memory = {use.total_bytes, use.free_bytes, use.total_bytes - use.free_bytes};
  return kSuccess;
}
NVML int nvmlDeviceGetMemoryInfo_v2(Device device, MemoryV2* memory) {
  djinn_nvml_use use;
  if (!memory) return kInvalidArgument;
  if (int s = use_of(device, use)) return s;
  *memory = {memory->version, use.total_bytes, 0, use.free_bytes, use.total_bytes - use.free_bytes};
  return kSuccess;
}

// The share of the time since the last question in which the server executed this session's commands.
NVML int nvmlDeviceGetUtilizationRates(Device device, Utilization* rates) {
  static std::mutex mutex;
  static std::array<djinn_nvml_use, kDevicesMax> asked{};
  djinn_nvml_use now;
  if (!rates) return kInvalidArgument;
  if (int s = use_of(device, now)) return s;
  std::lock_guard lock(mutex);
  djinn_nvml_use& before = asked[static_cast<size_t>(index_of(device)) % kDevicesMax];
  uint64_t passed = now.open_nanoseconds - before.open_nanoseconds, busy = now.busy_nanoseconds - before.busy_nanoseconds;
  unsigned percent = passed ? static_cast<unsigned>(busy * 100 / passed) : 0;
  before = now;
  *rates = {percent > 100 ? 100 : percent, static_cast<unsigned>((now.total_bytes - now.free_bytes) * 100 / now.total_bytes)};
  return kSuccess;
}

NVML int nvmlDeviceGetComputeRunningProcesses_v3(Device device, unsigned* count, ProcessV2* list) { return processes(device, count, list); }
NVML int nvmlDeviceGetComputeRunningProcesses_v2(Device device, unsigned* count, ProcessV2* list) { return processes(device, count, list); }
NVML int nvmlDeviceGetComputeRunningProcesses(Device device, unsigned* count, Process* list) { return processes(device, count, list); }

// What a CPU has not.
NVML int nvmlDeviceGetTemperature(Device device, int, unsigned*) { return check(device) ? check(device) : kNotSupported; }
NVML int nvmlDeviceGetTemperatureV(Device device, void*) { return check(device) ? check(device) : kNotSupported; }
NVML int nvmlDeviceGetPowerUsage(Device device, unsigned*) { return check(device) ? check(device) : kNotSupported; }
NVML int nvmlDeviceGetNvLinkRemoteDeviceType(Device device, unsigned, int*) { return check(device) ? check(device) : kNotSupported; }
NVML int nvmlDeviceGetNvLinkRemotePciInfo_v2(Device device, unsigned, PciInfo*) { return check(device) ? check(device) : kNotSupported; }
NVML int nvmlDeviceGetGpuFabricInfoV(Device device, void*) { return check(device) ? check(device) : kNotSupported; }

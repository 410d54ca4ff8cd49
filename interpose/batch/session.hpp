// The process's one session: opened by the first CUDA call that needs a device, over when the server or the connection is, unusable in a forked
// child. Everything that entry points need to know about it is here; client.hpp's verbs work on it.
#pragma once
#include "interpose/batch/log.hpp"
#include "interpose/client.hpp"
#include "interpose/shadow/arenas.hpp"
#include "interpose/shadow/virtual_memory.hpp"

namespace djinn {

struct SessionState {
  djinn_link_opened opened{};
  Log log;
  std::vector<size_t> devices;  // those that the program sees, in its order: their indices on the server
  DeviceArenas* arenas = nullptr;
  VirtualMemory* virtual_memory = nullptr;
  // The allocation or mapping that holds `address`.
  std::optional<DeviceArena::Block> find_block(uint64_t address) const {
    auto block = arenas->find(address);
    return block ? block : virtual_memory->find(address);
  }
  const djinn_link_api* api = nullptr;
  djinn_link* link = nullptr;
  const djinn_link_device& device(int number) const { return opened.devices[devices[static_cast<size_t>(number)]]; }
};
// Null unless open_session() has succeeded in this process.
SessionState* session();

bool op_level();
bool checking();

// Loads the hook for PyTorch when libtorch is there and it has not been loaded yet (interpose/entry/hook.cpp).
void load_hook();
// What the session is called: told at once, or when it opens. A name opens none: a program may fork after it, or never use a device.
void name_session(const char* name);
// "2.14.1+cu130" and the torch package's folder, of the libtorch in this process; empty without.
struct TorchInProcess {
  std::string version, directory;
};
TorchInProcess torch_in_process();

// The process's command line, as far as it is short.
std::string program_name();
// The folder that libdjinn.so lies in.
std::string own_folder();
// Finds or starts the server of the embedded default (local_server.cpp). The endpoint, or empty and why not.
std::string find_local_server(std::string& error);

}  // namespace djinn

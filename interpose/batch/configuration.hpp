// What the environment says about Djinn, read once. A value that cannot be understood is refused by name: the program then sees no device.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "semantic/wire/switches.hpp"

namespace djinn {

struct Configuration {
  std::string server;                          // DJINN_SERVER; empty = the local server
  bool local = true;                           // DJINN_LOCAL=off forbids starting one
  int level = 0;                               // DJINN_LEVEL: control::Level
  std::string link;                            // DJINN_LINK: emulated network
  std::string record;                          // DJINN_RECORD: the file that the process's doings are written to
  bool summary = true;                         // DJINN_SUMMARY=off
  int log_level = 1;                           // DJINN_LOG=error|warning|info|debug
  wire::Switches switches;                     // DJINN_PERF=no_x,no_y
  std::optional<std::vector<size_t>> visible;  // CUDA_VISIBLE_DEVICES; nothing: all devices
  bool blocking = false;                       // CUDA_LAUNCH_BLOCKING=1
  bool meaning = true;                         // DJINN_MEANING=off: the server is not told what ops are part of
  bool debug_fault = false;                    // DJINN_DEBUG=fault: a touch of device memory names the allocation
  std::string error;                           // not empty: one sentence, and no device
};
const Configuration& configuration();

}  // namespace djinn

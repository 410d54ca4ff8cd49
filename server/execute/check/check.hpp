// `--check`: a layer over whatever device computes. It validates each forwarded call: a launch resolves to a kernel of the uploaded module, its
// parameter bytes are as many as the cubin says, its handles are live and its shape is within the device's limits; and, with ops, each op scope that
// launched anything has a launch or a library call that carries an address of the op's tensors. What it finds is counted as a violation and reported
// as an error. It never computes: scoped calls are the op's work already, and without ops ("blind") nobody computes.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "semantic/wire/command.hpp"
#include "server/execute/device.hpp"

namespace djinn::server {
class Session;
struct Kernel;
struct Module;
}  // namespace djinn::server

namespace djinn::server::check {

// What the module's cubin says of a kernel, noted once so that a launch costs a comparison.
void describe_kernel(const Module& module, Kernel& kernel);
// Success, or what is wrong with the launch.
Failure validate_launch(Session& s, const Kernel& kernel, const wire::Launch& launch, std::span<const std::byte> parameters);

// What is known of the scope that is open now: the words that its launches and library calls carried.
class ScopeCheck {
 public:
  void begin(uint32_t id);
  void saw_words(std::span<const std::byte> parameters);
  // tensor_define: where a tensor id lies. tensor_forget: it lies nowhere.
  void define(std::span<const std::byte> payload);
  void forget(std::span<const std::byte> payload);
  // op_run or op_query of a scope: success, or the op whose work carried none of its tensors.
  Failure end(std::span<const std::byte> op_payload);

 private:
  struct Extent {
    uint64_t begin = 0, end = 0;
  };
  bool carried(uint32_t tensor) const;
  uint32_t scope_ = 0;
  bool any_ = false;
  std::vector<uint64_t> words_;
  std::unordered_map<uint32_t, Extent> tensors_;
};

}  // namespace djinn::server::check

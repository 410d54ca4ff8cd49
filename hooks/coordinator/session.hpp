// One session with one target: the link, the log, the arena that decides where tensors lie on the server, and the inputs that are there already. Its
// handles keep it in memory; what ends it is close(), or the loss of the connection.
#pragma once
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <tuple>
#include <vector>

#include "hooks/coordinator/coordinator.hpp"
#include "hooks/coordinator/host.hpp"
#include "hooks/coordinator/log.hpp"
#include "interpose/shadow/arena.hpp"
#include "semantic/wire/op.hpp"

namespace djinn::coordinator {

class Session;

// What a handle stands for: memory on the server and its description there.
struct Remote {
  std::shared_ptr<Session> session;
  uint32_t id = kNone;  // of tensor_define
  static constexpr uint32_t kNone = ~0u;
  uint64_t address = 0, bytes = 0;
  DType dtype = DType::float32;
  uint16_t flags = 0;  // wire::op::TensorFlag
  std::vector<int64_t> sizes, strides;
  std::atomic<uint64_t> version{0};
  std::atomic<bool> held{false};  // by a caller: such a session is not idle
  ~Remote();
};
using RemotePointer = std::shared_ptr<Remote>;

class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(const djinn_link_api* api, const CoordinatorConfiguration& configuration, std::string target);
  ~Session();
  // Once. Empty on success.
  std::string open();
  // Everything of the session is dead afterwards, and its handles say `why`.
  void close(const std::string& why);

  Values call(const std::string& op, const Values& arguments, const Keywords& keywords);
  void fetch(const Remote& r, void* to);

  const std::string& target() const { return target_; }
  bool lost() const { return log_.lost(); }
  bool foreign() const;  // this process was forked from the one whose session it is
  void touch();
  bool idle() const;  // nobody holds a handle, and nothing was called for as long as the configuration says
  CoordinatorStatistics statistics() const;

  // for encode.cpp
  RemotePointer input(const HostTensor& host, bool may_be_shared);
  RemotePointer own(const RemoteTensor& tensor) const;
  RemotePointer result(uint64_t stash, uint32_t index, DType dtype, uint16_t flags, std::vector<int64_t> sizes, std::vector<int64_t> strides);
  // For a caller, who thereby holds it.
  RemoteTensor handle(const RemotePointer& r);
  std::string reason() const { return log_.reason(); }
  [[noreturn]] void fail(const std::string& op, const std::string& reason) const { throw OperationError(op, target_, reason); }

 private:
  friend struct Remote;
  using Clock = std::chrono::steady_clock;
  using InputKey = std::tuple<Fingerprint, DType, std::vector<int64_t>, std::vector<int64_t>>;
  struct Input {
    RemotePointer remote;
    uint64_t used;  // number of the call
  };
  void forget(const Remote& r);
  RemotePointer make(DType dtype, uint16_t flags, std::vector<int64_t> sizes, std::vector<int64_t> strides);
  std::optional<uint64_t> allocate(uint64_t bytes);
  bool forget_inputs();
  void define(const Remote& r);
  void upload(const Remote& r, std::span<const std::byte> bytes);
  void keep_input(InputKey key, const RemotePointer& r);
  template <class Payload>
  void post(wire::Opcode opcode, const Payload& payload) {
    log_.post(opcode, std::as_bytes(std::span(&payload, 1)));
  }

  const djinn_link_api* api_;
  const CoordinatorConfiguration configuration_;
  const std::string target_;
  const pid_t owner_;  // a forked child has the memory, but not the link's threads
  Log log_;
  djinn_link* link_ = nullptr;
  std::unique_ptr<DeviceArena> arena_;

  std::mutex ids_mutex_;
  uint32_t next_id_ = 0;
  std::vector<uint32_t> free_ids_;

  mutable std::mutex inputs_mutex_;
  std::map<InputKey, Input> inputs_;
  uint64_t input_bytes_ = 0, calls_ = 0;
  const Seed seed_;

  mutable std::mutex mutex_;  // of what follows
  bool closed_ = false;
  Clock::time_point used_ = Clock::now();
  std::atomic<uint64_t> held_{0}, busy_{0};
  std::atomic<uint64_t> operations_{0}, inputs_sent_{0}, input_bytes_sent_{0}, inputs_reused_{0}, fetched_{0}, bytes_fetched_{0};
};

}  // namespace djinn::coordinator

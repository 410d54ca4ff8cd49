// One client's session inside its worker: handles, memory, errors, counters, and the rule of tickets. Commands come in as parsed frames and are issued
// in total ticket order by one thread, the executor; what goes back is collected in a report. Decoders (server/decode) are its hands.
// The mirror on the other side is interpose/batch.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "semantic/abi/executor.h"
#include "semantic/transport/socket.hpp"
#include "semantic/wire/control.hpp"
#include "semantic/wire/frame.hpp"
#include "server/execute/device.hpp"

namespace djinn::server {

struct Kernel {
  std::string name;
  uint64_t module = 0;
};
struct Module {
  std::vector<std::byte> image;
};

// What goes back to the client: records and bulk parts of one report frame.
class Report {
 public:
  // Starts a record; `payload` is its whole payload.
  void add(wire::ReportOpcode op, std::span<const std::byte> payload, std::vector<std::vector<std::byte>> bulk = {});
  bool empty() const { return records_.empty(); }
  size_t size() const { return records_.size(); }
  // The frame, and its bulk parts with ownership; the report is empty afterwards.
  std::vector<std::byte> finish(wire::FrameHeader header, std::vector<djinn_part>& bulk);

 private:
  std::vector<std::byte> records_;
  std::vector<std::vector<std::byte>> bulk_;
  uint32_t count_ = 0;
};

class Session {
 public:
  struct Setup {
    wire::control::Opened opened;
    const djinn_executor* executor = nullptr;  // null: no libtorch, call level only
    std::unique_ptr<Device> device;
    bool check = false;
    // Asks the broker for a lease of so many bytes in total; returns what is granted.
    std::function<uint64_t(uint64_t)> ask_lease;
    // Sends one report frame to the client.
    std::function<void(std::span<const std::byte>, std::span<const djinn_part>)> send;
  };
  explicit Session(Setup setup);
  ~Session();

  // Executes the records of one batch. Tickets below the next one are skipped (a replay); a gap is refused: the text says so and the session is over.
  std::string run(const wire::FrameHeader& header, const std::vector<wire::Record>& records, const transport::Message& message);
  void set_threads(unsigned threads);
  wire::control::Counters counters() const;
  std::vector<std::byte> packed_counters() const;

  // ---- for the decoders ----
  struct Current {  // the command being executed
    uint64_t ticket = 0;
    const wire::Record* record = nullptr;
    const transport::Message* message = nullptr;
    std::span<const std::byte> bulk(size_t i) const { return message->part(1 + record->bulk_first + i); }
    bool call() const { return (record->head.flags & wire::kFlagCall) != 0; }
  };
  Current now;
  void reply(int32_t status, std::span<const std::byte> payload = {}, std::vector<std::vector<std::byte>> bulk = {});
  // Latches an error of the current command: reported now, delivered by the client at its next synchronisation. A call is also answered.
  void fail(const Failure& f);
  void malformed(const char* command);
  Report& report() { return report_; }
  Device& device() { return *setup_.device; }
  const djinn_executor* executor() const { return setup_.executor; }
  void* executor_state() const { return executor_state_; }
  uint64_t lease = 0;
  uint64_t ask_lease(uint64_t bytes) { return setup_.ask_lease(bytes); }
  uint64_t device_total = 0;
  bool check() const { return setup_.check; }

  std::unordered_set<uint64_t> streams{0, 1, 2};  // the default streams exist
  std::unordered_map<uint64_t, uint64_t> events;  // id → time of the last record, 0 = never
  std::unordered_map<uint64_t, Module> modules;
  std::unordered_map<uint64_t, Kernel> kernels;

  struct Count {  // written by the executor, read by the channel's thread
    std::atomic<uint64_t> frames{0}, bytes{0}, commands{0}, ops{0}, calls{0}, launches_validated{0}, violations{0}, launches_refused{0}, errors{0}, execute_nanoseconds{0},
        memory{0}, peak{0};
  } count;

 private:
  void execute(const wire::Record& r);
  void send_report();

  Setup setup_;
  void* executor_state_ = nullptr;
  djinn_executor_host host_{};
  uint64_t next_ticket_ = 1, reports_ = 0;
  Report report_;
};

// Handles outside the named sets would let a stranger grow the tables without end.
constexpr size_t kHandlesMax = 1 << 20;

}  // namespace djinn::server

// A link without a network (semantic/abi/link.h) with a small worker at its end: it executes memory, copy, stream and event records on bytes of its
// own, in ticket order, and reports as a worker does. Either whoever drives the link makes it work (`automatic`), or a test steps it record by
// record, so that "not executed yet" is a state and not a race. Built twice: into the test program, for tests of the log alone, and as
// libdjinn_link.so beside it, which the client's session loads as it loads the real one.
#pragma once
#include <atomic>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "semantic/abi/link.h"
#include "semantic/wire/command.hpp"
#include "semantic/wire/devices.hpp"
#include "semantic/wire/frame.hpp"

namespace djinn::test {

struct Sent {  // one record as it arrived
  wire::RecordHeader head;
  uint64_t ticket = 0;
  std::vector<std::byte> payload;
  std::vector<djinn_part> parts;  // released when the record is executed, not before: what is sent by reference is read late

  wire::Opcode opcode() const { return static_cast<wire::Opcode>(head.opcode); }
  template <class Fixed>
  Fixed as() const {
    return wire::Reader(payload).get<Fixed>();
  }
};

struct Failure {
  int32_t code = 0;
  wire::ErrorClass error_class = wire::ErrorClass::exception;
  std::string operation, text;
};

class FakeLink {
 public:
  ~FakeLink();
  static const djinn_link_api* api();
  djinn_link* handle() { return reinterpret_cast<djinn_link*>(this); }
  void attach(const djinn_link_events& events) { events_ = events; }

  // ---- what the worker does ----
  std::atomic<bool> automatic{true};
  uint64_t memory_total = 512ull << 20;
  uint64_t lease_at_open = 64ull << 20;
  size_t devices = 1;       // each with that memory and that lease
  std::string refuse_open;  // not empty: open() fails with it
  int level = 2;            // control::Level::op

  // Executes at most `records` of what was sent and delivers one report about them. False when there was nothing.
  bool step(size_t records = SIZE_MAX);
  void fail_next(wire::Opcode opcode, Failure f);
  void answer_next(wire::Opcode opcode, std::vector<std::byte> answer);  // of an op_call, which nothing here computes
  void lose(const char* reason);
  void tick() { events_.on_tick(events_.self); }
  void deliver_raw(std::span<const std::byte> frame) { events_.on_frame(events_.self, frame.data(), frame.size(), nullptr, 0); }

  // ---- what it saw ----
  std::vector<Sent> sent();  // copies without their parts' ownership, since the last clear()
  std::vector<wire::FrameHeader> frames();
  size_t waiting();  // records sent and not executed
  uint64_t executed() const { return executed_; }
  uint64_t most_tickets_under_way() const { return most_tickets_; }
  uint64_t most_bytes_under_way() const { return most_bytes_; }
  size_t mapped();
  uint64_t mapped_of(size_t device);
  std::vector<std::string> complaints();  // violations of the protocol by the client
  void clear();
  bool abandoned = false, closed = false;

 private:
  friend int fake_send(djinn_link*, const void*, size_t, const djinn_part*, size_t);
  friend djinn_link* fake_open(const djinn_link_config*, const djinn_link_events*, djinn_link_opened*, char*, size_t);
  bool take_frame(std::span<const std::byte> frame, std::span<const djinn_part> bulk);
  void execute(Sent& s);
  Failure dispatch(Sent& s, std::vector<std::byte>& answer, std::vector<std::vector<std::byte>>& rows);
  Failure move_bytes(Sent& s, std::vector<std::vector<std::byte>>& rows);
  bool live(uint64_t address, uint64_t pitch, uint64_t width, uint64_t height);
  void write(uint64_t address, const std::byte* from, size_t n);
  void read(uint64_t address, std::byte* to, size_t n);
  void complain(std::string what);
  void begin_session();
  template <class Fixed>
  void report(wire::ReportOpcode opcode, const Fixed& fixed, std::span<const std::byte> rest, std::vector<std::vector<std::byte>> rows = {});

  djinn_link_events events_{};
  std::mutex deliver_;  // executing and reporting is one step
  std::mutex mutex_;    // what follows
  std::deque<Sent> waiting_;
  std::vector<Sent> seen_;
  std::vector<wire::FrameHeader> frames_;
  std::vector<std::string> complaints_;
  std::map<wire::Opcode, std::deque<Failure>> failures_;
  std::map<wire::Opcode, std::deque<std::vector<std::byte>>> answers_;
  bool lost_ = false;
  uint64_t next_ticket_ = 1, bytes_under_way_ = 0;
  std::atomic<uint64_t> executed_{0}, most_tickets_{0}, most_bytes_{0};

  // the worker's state, under deliver_
  bool timing_ = false;
  std::map<wire::Secret, uint64_t> shared_;              // → size
  std::map<uint64_t, std::vector<std::byte>> granules_;  // empty vector: mapped, never written
  std::set<uint64_t> streams_{0, 1, 2};
  wire::DeviceRanges ranges_{0, uint64_t{1} << 47, 1};  // until it is opened: everywhere
  std::vector<uint64_t> leases_{0};                     // per device
  uint64_t clock_ = 1000, reports_ = 0;
  std::map<uint64_t, std::vector<Sent>> graphs_;
  std::vector<std::byte> report_records_;
  std::vector<std::vector<std::byte>> report_bulk_;
  uint32_t report_count_ = 0;
};

// The one that libdjinn_link.so beside the test program opens.
FakeLink& fake();

}  // namespace djinn::test

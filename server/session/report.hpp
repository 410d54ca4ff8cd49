// What the worker says to the client: records collected into report frames, each with the ticket through which everything has been executed. Bulk
// data leaves without a copy and is counted until the network has taken it, so that a client that does not read cannot make its worker hoard memory.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "semantic/abi/parts.hpp"
#include "semantic/wire/codec.hpp"
#include "semantic/wire/command.hpp"
#include "semantic/wire/frame.hpp"
#include "server/execute/device.hpp"

namespace djinn::server {

// Data that waits to leave; beyond it the executor waits. As much as a client may have under way in the other direction.
constexpr uint64_t kReportBulkMax = wire::kCreditBytes;
// A report frame leaves when it has grown to this, whatever the batch is doing.
constexpr size_t kReportFlushBytes = 32 << 10;

class Report {
 public:
  using Send = std::function<bool(std::span<const std::byte> frame, std::span<const djinn_part> bulk)>;
  Report(uint64_t session, uint32_t incarnation, Send send);
  ~Report();
  Report(const Report&) = delete;
  Report& operator=(const Report&) = delete;

  // `rest` follows the fixed part and is a multiple of 8 bytes. Bulk parts are taken over.
  void reply(uint64_t ticket, int32_t status, std::span<const std::byte> rest, std::span<const djinn_part> bulk);
  void failed_reply(uint64_t ticket, const Failure& f);
  void event_done(const wire::EventDone& e);
  void error(uint64_t ticket, const Failure& f);
  void pushed(uint64_t ticket, std::span<const djinn_part> bulk);
  void timings(std::span<const wire::Timing> all);

  // Sends what there is, and the acknowledgement of every ticket up to `executed` if that is news. False: the client is gone.
  bool flush(uint64_t executed);
  bool full() const { return frame_.size() > kReportFlushBytes || bulk_.size() > wire::kBulkPartsMax / 2; }

  // Parts count as outstanding until they have left. One that owns its bytes, and one that borrows device memory, which nobody may change before
  // await_borrowed().
  djinn_part own(std::unique_ptr<std::byte[]> bytes, size_t size);
  djinn_part borrow(const std::byte* bytes, size_t size);
  uint64_t outstanding() const { return outstanding_; }
  // Everything must have been flushed before, or it will never leave.
  void await_outstanding(uint64_t at_most) const;
  void await_borrowed() const;

 private:
  template <class Fixed>
  void add(wire::ReportOpcode opcode, const Fixed& fixed, std::span<const std::byte> rest = {}, std::span<const djinn_part> bulk = {});

  Send send_;
  wire::FrameHeader header_;
  std::vector<std::byte> frame_;
  std::vector<djinn_part> bulk_;
  uint64_t acknowledged_ = 0;
  std::atomic<uint64_t> outstanding_{0}, borrowed_{0};
};

// The one frame that ends a session from this side (also to a connection that is turned away).
std::vector<std::byte> refused_frame(uint64_t session, uint32_t incarnation, const std::string& text);

}  // namespace djinn::server

// An open session's link: who sends, who receives, and who notices the end. A program thread sends through it directly and may drive the socket while
// it waits for an answer; the pump thread does everything that nobody waits for: it receives, keeps the connection alive, ticks, and declares it
// lost. Mirror: server/session/worker.
#pragma once
#include <atomic>
#include <memory>
#include <mutex>
#include <thread>

#include "interpose/link/opening.hpp"
#include "semantic/transport/emulation.hpp"

namespace djinn::link {

class Link {
 public:
  Link(const djinn_link_config& config, const djinn_link_events& events) : config_(config), events_(events) {}

  // Once. Empty on success; then the pump runs until close().
  std::string open();
  void describe(djinn_link_opened& out) const;

  bool send(std::span<const std::byte> frame, std::span<const djinn_part> bulk);
  int drive(std::chrono::microseconds time);
  djinn_link_stats stats() const;
  // From here on send and drive do nothing: a program thread may still be inside them, so a closed link is kept, not destroyed.
  void close(std::chrono::milliseconds patience);
  void abandon_in_child() const { session_.connection->abandon(); }

 private:
  // A frame under way in the emulated network; the bytes are its own, because the caller's may go.
  using Owned = std::vector<std::vector<std::byte>>;
  struct Emulated {
    explicit Emulated(const transport::Emulation& e) : dice(e), outgoing(e), incoming(e) {}
    std::mutex mutex;  // of the dice and of outgoing; incoming belongs to `deliver_`
    transport::Dice dice;
    transport::Pipe<Owned> outgoing;
    transport::Pipe<transport::Message> incoming;
  };

  bool send_now(std::span<const std::byte> frame, std::span<const djinn_part> bulk) { return session_.connection->socket.send({}, frame, bulk); }
  bool send_emulated(std::span<const std::byte> frame, std::span<const djinn_part> bulk, bool faults);
  bool send_bare(wire::FrameKind kind);
  bool send_due();
  int drain();
  bool hand_over(const transport::Message& m);
  void run();
  std::chrono::nanoseconds until_next();
  void watch();
  void declare_lost(const std::string& why);

  djinn_link_config config_;  // its pointers only until open() returns
  djinn_link_events events_;
  std::string endpoint_;
  zmq::context_t context_{1};
  Opening session_;
  std::vector<const char*> op_names_;
  std::vector<djinn_link_device> devices_;
  std::unique_ptr<Emulated> emulated_;

  std::thread pump_;
  std::mutex deliver_;  // receiving and handing over are one step, so that frames are delivered in order whoever drives
  std::atomic<bool> closing_{false}, leaving_{false}, lost_{false};
  std::atomic<uint64_t> arrivals_{0};  // messages of any kind: signs of life
  std::atomic<uint64_t> messages_received_{0}, bytes_received_{0}, heartbeats_{0}, ignored_{0};

  // of the pump
  Clock::time_point looked_{}, ticked_{}, pinged_{};
  uint64_t arrivals_seen_ = 0;
  std::chrono::nanoseconds silence_{0};
};

}  // namespace djinn::link

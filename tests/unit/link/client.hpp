// The program's side of libdjinn_link.so in tests: loads it as libdjinn.so does, opens a session and collects what comes.
#pragma once
#include <dlfcn.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <vector>

#include "semantic/abi/link.h"
#include "tests/unit/link/peer.hpp"

namespace djinn::test {

inline const djinn_link_api* link_api() {
  static const djinn_link_api* api = [] {
    void* library = dlopen(DJINN_LINK_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!library) throw std::runtime_error(dlerror());
    auto get = reinterpret_cast<djinn_link_get_fn>(dlsym(library, "djinn_link_get"));
    if (get(DJINN_LINK_VERSION + 1)) throw std::runtime_error("another version was given");
    return get(DJINN_LINK_VERSION);
  }();
  return api;
}

class Client {
 public:
  djinn_link_config config{};
  djinn_link_opened opened{};
  std::string error;
  djinn_link* link = nullptr;
  struct Frame {
    Bytes frame;
    std::vector<Bytes> bulk;
  };

  Client() {
    config.program = "link_test";
    config.torch = "2.14.1";
    static const uint64_t ranges[] = {0x200000000000, 1ull << 36};
    config.ranges = ranges;
    config.range_count = 1;
    config.open_timeout_ms = 5000;
    config.heartbeat_ms = 1000;
    config.lost_ms = 5000;
  }
  ~Client() { close(); }
  void close(unsigned milliseconds = 1000) {
    if (link) link_api()->close(link, milliseconds);
    link = nullptr;
  }

  bool open(Peer& peer) {
    peer.start();
    return open(peer.endpoint);
  }
  bool open(const std::string& endpoint) {
    config.endpoint = endpoint.c_str();
    djinn_link_events events{};
    events.self = this;
    events.on_frame = [](void* self, const void* frame, size_t size, const djinn_part* bulk, size_t n) {
      Frame f;
      auto copy = [](const void* p, size_t s) { return Bytes(static_cast<const std::byte*>(p), static_cast<const std::byte*>(p) + s); };
      f.frame = copy(frame, size);
      for (size_t i = 0; i < n; i++) f.bulk.push_back(copy(bulk[i].data, bulk[i].size));
      static_cast<Client*>(self)->add(std::move(f));
    };
    events.on_lost = [](void* self, const char* reason) { static_cast<Client*>(self)->lose(reason); };
    events.on_tick = [](void* self) { ++static_cast<Client*>(self)->ticks; };
    char why[2000] = "";
    link = link_api()->open(&config, &events, &opened, why, sizeof why);
    error = why;
    return link != nullptr;
  }

  Bytes batch(uint64_t ticket, uint32_t bulk = 0) const {
    wire::FrameHeader h;
    h.session = opened.session;
    h.incarnation = opened.incarnation;
    h.first_ticket = ticket;
    h.count = 1;
    h.bulk = bulk;
    wire::RecordHeader r;
    r.opcode = 1;
    r.bulk = static_cast<uint16_t>(bulk);
    h.length = sizeof r;
    Bytes frame = bytes_of(h), record = bytes_of(r);
    frame.insert(frame.end(), record.begin(), record.end());
    return frame;
  }
  bool send(uint64_t ticket, const std::vector<djinn_part>& bulk = {}) {
    Bytes frame = batch(ticket, static_cast<uint32_t>(bulk.size()));
    return link_api()->send(link, frame.data(), frame.size(), bulk.data(), bulk.size());
  }
  djinn_link_stats stats() const {
    djinn_link_stats s{};
    link_api()->stats(link, &s);
    return s;
  }

  size_t frames() {
    std::lock_guard lock(mutex_);
    return frames_.size();
  }
  Frame frame(size_t i) {
    std::lock_guard lock(mutex_);
    return frames_.at(i);
  }
  // Left to the pump …
  bool wait_frames(size_t n, std::chrono::milliseconds patience = std::chrono::seconds(5)) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, patience, [&] { return frames_.size() >= n; });
  }
  // … or driven by this thread.
  bool drive_frames(size_t n, std::chrono::milliseconds patience = std::chrono::seconds(5)) {
    for (auto end = std::chrono::steady_clock::now() + patience; frames() < n && std::chrono::steady_clock::now() < end;)
      link_api()->drive(link, 100);
    return frames() >= n;
  }
  bool wait_lost(std::chrono::milliseconds patience = std::chrono::seconds(5)) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, patience, [&] { return losses_ > 0; });
  }
  std::string lost_reason() {
    std::lock_guard lock(mutex_);
    return reason_;
  }
  int losses() {
    std::lock_guard lock(mutex_);
    return losses_;
  }
  std::atomic<int> ticks{0};

 private:
  void add(Frame f) {
    std::lock_guard lock(mutex_);
    frames_.push_back(std::move(f));
    changed_.notify_all();
  }
  void lose(const char* reason) {
    std::lock_guard lock(mutex_);
    reason_ = reason;
    ++losses_;
    changed_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Frame> frames_;
  std::string reason_;
  int losses_ = 0;
};

// A buffer that counts its releases.
struct Buffer {
  explicit Buffer(size_t n, char c = 'x') : bytes(n, c) {}
  djinn_part part() {
    return {bytes.data(), bytes.size(), [](void*, void* hint) { ++static_cast<Buffer*>(hint)->released; }, this};
  }
  bool wait_released() {
    auto end = std::chrono::steady_clock::now() + std::chrono::seconds(5);
    while (released == 0 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
    return released == 1;
  }
  std::string bytes;
  std::atomic<int> released{0};
};

}  // namespace djinn::test

// Between the broker and one worker process: a SOCK_SEQPACKET pair and a few kinds of message, through the same bounded archives as the control
// plane. The end of either process closes the pair, which the other sees at once: there is no other heartbeat between them.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "semantic/wire/command.hpp"
#include "semantic/wire/control.hpp"
#include "server/descriptor.hpp"

namespace djinn::server {

namespace control = wire::control;

enum class ChannelKind : uint64_t {
  start = 1,        // broker → worker, first: what to load and where to listen
  ready,            // worker → broker: listening, warm
  assign,           // broker → worker: serve this session
  assigned,         // worker → broker: the session's range is reserved
  failed,           // worker → broker: it cannot serve, and ends
  threads,          // broker → worker: a new share of the device's threads
  lease_wanted,     // worker → broker: so many bytes of a device in total; answered by
  lease_granted,    // broker → worker
  counters_wanted,  // broker → worker; answered by
  counters,         // worker → broker, also unasked, each kTick of worker.cpp, while something changes
  ended,            // worker → broker: the session is over, with its last counters
  shut,             // broker → worker: end, and tell the client why
  share,            // worker → broker: this part of the session's memory file may be imported; answered by `shared`
  unshare,          // worker → broker: no longer; answered by
  shared,           // broker → worker: done, or why not
  import_wanted,    // worker → broker: what is shared under this secret? Answered by
  import_granted,   // broker → worker: with the file, or why not
  graph_wanted,     // broker → worker; answered by
  graph,            // worker → broker, also unasked before `ended`: what the session did (semantic/graph)
};

struct Bind {        // one of the broker's listeners, where the worker listens beside it
  std::string host;  // tcp; empty = ipc
  uint32_t port_first = 0, port_last = 0;
  std::string path;  // ipc
  template <class A>
  void serialize(A& a) {
    a(host, port_first, port_last, path);
  }
};

// One struct for all messages: rare, small, and a reader sees every field there is. A file travels beside the bytes.
struct ChannelMessage {
  ChannelKind kind = ChannelKind::start;
  std::vector<Bind> binds;                            // start
  std::string torch_directory, executor, op_library;  // start: empty = no op level
  std::string log_level, log_format;                  // start
  uint64_t grace_milliseconds = 0, total_memory = 0;  // start
  std::vector<std::string> endpoints;                 // ready: one per bind
  std::string torch;                                  // ready: the executor's version, empty without one
  std::string text;                                   // ready: why there is no executor; failed, ended, shut, shared, import_granted: why
  std::vector<std::string> names;                     // ready: ops; counters, ended: "reason: count" of rejected frames
  control::Opened opened;                             // assign: session, token, lease, level, threads …; assigned: range, device
  std::vector<control::Range> ranges;                 // assign: what the client offers
  control::Counters counters;                         // assign: whose session; counters, ended: the counts
  control::Graph graph;                               // graph
  uint64_t number = 0;                                // threads; bytes of a lease; graph: 1 when it is the session's last
  uint64_t device = 0;                                // lease_wanted, share, import_granted: whose memory
  wire::Secret secret{};                              // share, unshare, import_wanted
  uint64_t offset = 0, size = 0;                      // share, import_granted: the part of the file
  Descriptor file;                                    // assigned: the session's memory; import_granted: somebody else's
  template <class A>
  void serialize(A& a) {
    a(kind, binds, torch_directory, executor, op_library, log_level, log_format, grace_milliseconds, total_memory, endpoints, torch, text, names,
      opened, ranges, counters, graph, number, device, secret.word[0], secret.word[1], offset, size);
  }
};

// One end. Sending and receiving may happen in different threads; each direction by one thread at a time.
class Channel {
 public:
  // `patient`: a full pipe is waited for. The broker is not: a worker that does not read is as good as gone.
  explicit Channel(int fd = -1, bool patient = true) : fd_(fd), patient_(patient) {}
  Channel(Channel&& other) noexcept : fd_(other.fd_), patient_(other.patient_), partial_(std::move(other.partial_)), file_(std::move(other.file_)) {
    other.fd_ = -1;
  }
  Channel& operator=(Channel&& other) noexcept;
  ~Channel();
  int descriptor() const { return fd_; }

  // False when the other end is gone (or does not read).
  bool send(const ChannelMessage& m);

  enum class Got { message, nothing, end };
  // Blocks for a message unless `wait` is false. `nothing`: no whole message is here.
  Got receive(ChannelMessage& m, bool wait);

 private:
  int fd_;
  bool patient_;
  std::vector<std::byte> partial_;
  Descriptor file_;  // came with a piece of it
};

}  // namespace djinn::server

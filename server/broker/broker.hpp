// The broker: listens, admits, accounts, starts workers and outlives them. One thread and one loop own all of its state; data never passes through it
// (the front door, a thread beside it, is the exception that says so). What it waits for: control messages, workers, signals, and time.
#pragma once
#include <chrono>
#include <list>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "semantic/wire/control.hpp"
#include "server/broker/account.hpp"
#include "server/broker/ended_graphs.hpp"
#include "server/broker/front_door.hpp"
#include "server/broker/listener.hpp"
#include "server/broker/metrics.hpp"
#include "server/broker/spawner.hpp"
#include "server/options.hpp"

namespace djinn::server {

class Broker {
 public:
  explicit Broker(Options options);
  ~Broker();
  // Until a signal ends it; the exit status.
  int run();

 private:
  using Clock = std::chrono::steady_clock;

  // What a worker has loaded: one kind per torch package, and kind 0 without any.
  struct Kind {
    std::string directory, minor, executor;
    std::string broken;     // why it cannot execute ops; it then serves call level only
    unsigned failures = 0;  // starts in a row that came to nothing
    Clock::time_point retry{};
  };
  struct Worker {
    uint64_t number = 0;
    pid_t pid = -1;
    Channel channel;
    size_t kind = 0;
    enum class State { starting, warm, assigned, serving, ending } state = State::starting;
    std::vector<std::string> endpoints, ops;
    std::string torch;
    uint64_t session = 0;
  };
  struct Pending {  // an open that waits for a worker
    Caller caller;
    control::Open open;
    size_t kind = 0;
    control::Level level = control::Level::call;
    Clock::time_point deadline;
  };
  struct Session {
    Worker* worker = nullptr;
    Pending request;
    control::Opened opened;
    control::Counters counters;
    Clock::time_point counted = Clock::now();
    Descriptor memory;  // the file that its device memory lies in
    bool answered = false;
  };
  struct Share {  // a part of a session's memory that others may map (cudaIpcGetMemHandle)
    uint64_t session = 0, device = 0, offset = 0, size = 0;
  };
  struct StatsWait {
    Caller caller;
    std::set<uint64_t> missing;
    Clock::time_point deadline;
  };
  struct GraphWait {
    Caller caller;
    uint64_t session = 0;
    Clock::time_point deadline;
  };
  struct Inbox {  // from the front door's thread
    std::mutex mutex;
    std::vector<std::pair<Caller, zmq::message_t>> messages;
    int descriptor = -1;
  };

  // broker.cpp: life
  std::string start();
  void loop();
  void sleep();
  void signals();
  void tick();
  void announce();
  void shut_down();
  // admit.cpp: control messages and sessions
  void on_control(Caller caller, std::span<const std::byte> message);
  void on_open(Caller caller, control::Open open);
  std::string choose(Pending& p);
  void serve_pending();
  void assign(Worker& w, Pending p);
  void opened(Worker& w, ChannelMessage& m);
  void refuse(const Caller& caller, const std::string& reason);
  void end_session(uint64_t id, const std::string& reason, const std::string& for_client);
  void share_threads();
  void share(Worker& w, const ChannelMessage& m);
  void unshare(Worker& w, const ChannelMessage& m);
  void import(Worker& w, const ChannelMessage& m);
  void on_stats(Caller caller);
  control::StatsReply stats() const;
  void count(uint64_t session, const control::Counters& counters);
  static control::Counters up_to_now(const Session& s);
  // meaning.cpp: the graphs of sessions
  void on_graph(Caller caller, uint64_t session);
  void take_graph(Worker& w, ChannelMessage& m);
  void give_up_graphs(Clock::time_point now, uint64_t ended = 0);
  // workers.cpp: the pool
  size_t add_kind(const std::string& directory);
  void refill();
  void spawn(size_t kind);
  void on_worker(Worker& w);
  void on_message(Worker& w, ChannelMessage& m);
  void on_ready(Worker& w, const ChannelMessage& m);
  void worker_gone(Worker& w);
  void reap();
  size_t default_kind() const;

  Options options_;
  zmq::context_t context_{1};
  Rejections rejections_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::unique_ptr<FrontDoor> front_door_;
  std::unique_ptr<Metrics> metrics_;
  Inbox inbox_;
  Spawner spawner_;
  Account account_;
  std::vector<Kind> kinds_;
  std::list<Worker> workers_;
  std::list<Pending> pending_;
  std::map<uint64_t, Session> sessions_;
  std::map<wire::Secret, Share> shares_;
  std::list<StatsWait> stats_waits_;
  std::list<GraphWait> graph_waits_;
  EndedGraphs ended_graphs_;
  control::StatsReply totals_;
  std::map<std::string, uint64_t> rejected_by_workers_;
  std::map<uint64_t, std::vector<std::string>> rejected_live_;
  uint64_t next_worker_ = 1, next_session_ = 1;
  int signal_fd_ = -1;
  Clock::time_point published_{};
  bool over_ = false, announced_ = false;
  std::string fatal_;
  Clock::time_point idle_since_ = Clock::now(), started_ = Clock::now();
};

}  // namespace djinn::server

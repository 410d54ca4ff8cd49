// djinn-gpu-server: the broker, or (--worker, for its own use) one of its workers.
#include <signal.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "server/broker/broker.hpp"
#include "server/control/stats.hpp"
#include "server/log.hpp"
#include "server/options.hpp"
#include "server/session/worker.hpp"

// Blocked here, before any thread exists, so that every thread inherits it and the broker's loop reads them from a descriptor.
static void block_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (int s : {SIGTERM, SIGINT, SIGCHLD}) sigaddset(&set, s);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

int main(int argc, char** argv) {
  using namespace djinn::server;
  if (argc == 3 && std::strcmp(argv[1], kWorkerFlag) == 0) return worker_main(std::atoi(argv[2]));
  auto parsed = parse_options(argc, argv, process_environment());
  if (auto* said = std::get_if<Said>(&parsed)) {
    std::fputs(said->text.c_str(), said->status ? stderr : stdout);
    return said->status;
  }
  Options& options = std::get<Options>(parsed);
  if (!options.stats.empty()) return print_stats(options.stats);
  if (!options.graph.empty()) return print_graph(options.graph, options.session);
  block_signals();
  set_log(options.log_level, options.log_format);
  Broker broker(std::move(options));
  return broker.run();
}

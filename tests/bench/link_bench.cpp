// What ZeroMQ alone reaches on this machine, for scripts/bench to set Djinn's copies beside: messages of the given sizes from a DEALER to a ROUTER in
// another process over ipc, each answered by an empty message, as Djinn's copies are acknowledged. Prints {"zmq": [{"bytes", "gbps"} …]}.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>
#include <zmq.hpp>

static void serve(const std::string& endpoint) {
  zmq::context_t context{1};
  zmq::socket_t router(context, zmq::socket_type::router);
  router.bind(endpoint);
  for (;;) {
    zmq::message_t identity, body;
    if (!router.recv(identity) || !router.recv(body)) return;
    bool last = body.size() == 0;
    router.send(identity, zmq::send_flags::sndmore);
    router.send(zmq::message_t(), zmq::send_flags::none);
    if (last) return;
  }
}

// Gigabytes per second: the median of the rounds.
static double measure(zmq::socket_t& s, std::vector<char>& data, int rounds) {
  std::vector<double> seconds;
  for (int i = 0; i < rounds; i++) {
    auto begin = std::chrono::steady_clock::now();
    s.send(zmq::message_t(data.data(), data.size(), [](void*, void*) {}), zmq::send_flags::none);
    zmq::message_t answer;
    if (!s.recv(answer)) std::abort();
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  std::nth_element(seconds.begin(), seconds.begin() + rounds / 2, seconds.end());
  return static_cast<double>(data.size()) / seconds[static_cast<size_t>(rounds / 2)] / 1e9;
}

int main(int argc, char** argv) {
  std::string endpoint = "ipc:///tmp/djinn-link-bench-" + std::to_string(getpid());
  pid_t server = fork();
  if (server == 0) {
    serve(endpoint);
    _exit(0);
  }
  zmq::context_t context{1};
  zmq::socket_t dealer(context, zmq::socket_type::dealer);
  dealer.connect(endpoint);
  std::printf("{\"zmq\": [");
  for (int i = 1; i < argc; i++) {
    std::vector<char> data(std::strtoull(argv[i], nullptr, 10), 'x');
    int rounds = static_cast<int>(std::clamp<size_t>((1u << 28) / data.size(), 5, 300));
    std::printf("%s{\"bytes\": %zu, \"gbps\": %.4f}", i > 1 ? ", " : "", data.size(), measure(dealer, data, rounds));
  }
  std::printf("]}\n");
  dealer.send(zmq::message_t(), zmq::send_flags::none);
  waitpid(server, nullptr, 0);
  unlink(endpoint.c_str() + 6);
}

// The end of a connection: a killed peer, a silent one, our own process stopped, a forked child that holds on to the descriptor. Peers that must be
// killed or be another user run as processes: this program again, with a hidden test case.
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "tests/unit/catch.hpp"
#include "tests/unit/link/client.hpp"

extern char** environ;

using namespace djinn;
using namespace djinn::test;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

namespace {

// One of the hidden test cases below, in a process of its own. It writes a line to descriptor 9 when it is ready.
struct Process {
  Process(const char* test_case, std::vector<std::string> variables = {}) {
    int ready[2];
    REQUIRE(pipe2(ready, O_CLOEXEC) == 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ready[1], 9);
    std::vector<char*> environment;
    for (char** e = environ; *e; e++) environment.push_back(*e);
    for (auto& v : variables) environment.push_back(v.data());
    environment.push_back(nullptr);
    char self[] = "/proc/self/exe";
    std::string name = test_case;
    char* argv[] = {self, name.data(), nullptr};
    REQUIRE(posix_spawn(&pid, self, &actions, nullptr, argv, environment.data()) == 0);
    posix_spawn_file_actions_destroy(&actions);
    ::close(ready[1]);
    lines = ready[0];
  }
  ~Process() {
    if (pid > 0) end(SIGKILL);
    ::close(lines);
  }
  std::string line() {
    std::string text;
    for (char c; ::read(lines, &c, 1) == 1 && c != '\n';) text += c;
    return text;
  }
  int end(int signal) {
    if (signal) kill(pid, signal);
    return wait();
  }
  int wait() {
    int status = -1;
    waitpid(pid, &status, 0);
    pid = -1;
    return status;
  }
  pid_t pid = -1;
  int lines = -1;
};

void say(const std::string& text) {
  std::string line = text + "\n";
  if (write(9, line.data(), line.size()) < 0) _exit(3);
}

std::string variable(const char* name) {
  const char* v = getenv(name);
  return v ? v : "";
}

bool contains(const std::string& text, const std::string& part) {
  UNSCOPED_INFO("looking for \"" << part << "\" in \"" << text << '"');
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("process: a peer", "[.process]") {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  umask(0);  // another user's socket can be connected to, which is why the user is checked
  if (std::string uid = variable("DJINN_TEST_UID"); !uid.empty()) REQUIRE(setuid(static_cast<uid_t>(std::stoul(uid))) == 0);
  Peer peer(variable("DJINN_TEST_NETWORK") == "ipc" ? Peer::Network::ipc : Peer::Network::tcp);
  peer.start();
  say(peer.endpoint);
  pause();
}

// Opens a session at DJINN_TEST_ENDPOINT, says so, and then has a round trip for every SIGUSR1 that it waits for.
TEST_CASE("process: a client", "[.process]") {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  sigset_t user;
  sigemptyset(&user);
  sigaddset(&user, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &user, nullptr);
  Client c;
  c.config.heartbeat_ms = 50;
  c.config.lost_ms = 600;
  if (!c.open(variable("DJINN_TEST_ENDPOINT"))) say(c.error);
  REQUIRE(c.link);
  say("open");
  for (uint64_t i = 1;; i++) {
    int signal = 0;
    sigwait(&user, &signal);
    bool ok = c.send(i) && c.wait_frames(i) && c.losses() == 0;
    say(ok ? "ok" : "failed: " + c.lost_reason());
  }
}

TEST_CASE("a killed peer is noticed at once, and named") {
  Process peer("process: a peer", {std::string("DJINN_TEST_NETWORK=") + GENERATE("tcp", "ipc")});
  Client c;
  std::string endpoint = peer.line();
  REQUIRE(c.open(endpoint));
  REQUIRE(c.send(1));
  REQUIRE(c.wait_frames(1));
  auto start = Clock::now();
  peer.end(SIGKILL);
  REQUIRE(c.wait_lost());
  CHECK(Clock::now() - start < 2s);
  CHECK(contains(c.lost_reason(), endpoint));
  CHECK(contains(c.lost_reason(), "closed"));
  Buffer b(10);
  CHECK_FALSE(c.send(2, {b.part()}));
  CHECK(b.wait_released());
  CHECK(link_api()->drive(c.link, 1000000) == 0);
  CHECK(c.losses() == 1);
}

TEST_CASE("a peer that is stopped is lost when its time is over, not before") {
  Process peer("process: a peer");
  Client c;
  c.config.heartbeat_ms = 50;
  c.config.lost_ms = 400;
  REQUIRE(c.open(peer.line()));
  kill(peer.pid, SIGSTOP);
  auto start = Clock::now();
  REQUIRE(c.wait_lost(10s));
  CHECK(Clock::now() - start >= 350ms);  // it may have been heard last a little before
  CHECK(contains(c.lost_reason(), "silent for"));
}

TEST_CASE("a silent peer is lost although the connection stands") {
  Peer peer(GENERATE(Peer::Network::tcp, Peer::Network::ipc));
  Client c;
  c.config.heartbeat_ms = 50;
  c.config.lost_ms = 300;
  REQUIRE(c.open(peer));
  peer.mute = true;
  REQUIRE(c.wait_lost(10s));
  CHECK(peer.count("ping") >= 2);
  CHECK(contains(c.lost_reason(), "silent for"));
  CHECK(c.losses() == 1);
}

TEST_CASE("a process that was stopped itself goes on") {
  Peer peer(Peer::Network::tcp);
  peer.start();
  Process client("process: a client", {"DJINN_TEST_ENDPOINT=" + peer.endpoint});
  REQUIRE(client.line() == "open");
  kill(client.pid, SIGUSR1);
  REQUIRE(client.line() == "ok");
  for (int i = 0; i < 2; i++) {
    kill(client.pid, SIGSTOP);
    REQUIRE(waitpid(client.pid, nullptr, WUNTRACED) == client.pid);
    std::this_thread::sleep_for(1500ms);  // more than twice its lost_ms: the subject of the test, not synchronisation
    kill(client.pid, SIGCONT);
    kill(client.pid, SIGUSR1);
    CHECK(client.line() == "ok");
  }
}

TEST_CASE("a forked child that abandons the connection does not keep it open") {
  Peer peer(GENERATE(Peer::Network::tcp, Peer::Network::ipc));
  Client c;
  REQUIRE(c.open(peer));
  pid_t child = fork();
  if (child == 0) {
    link_api()->abandon_in_child(c.link);
    for (;;) pause();
  }
  REQUIRE(c.send(1));  // the parent's connection is as it was
  REQUIRE(c.wait_frames(1));
  c.close();
  CHECK(peer.wait_for("disconnected"));
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
}

TEST_CASE("a child abandons nothing when the connection is gone and its descriptor is somebody else's") {
  auto peer = std::make_unique<Peer>(Peer::Network::tcp);
  Client c;
  REQUIRE(c.open(*peer));
  peer.reset();
  REQUIRE(c.wait_lost());
  std::vector<int> files;  // one of them gets the number that the connection had
  for (int i = 0; i < 64; i++) files.push_back(open("/dev/null", O_RDONLY | O_CLOEXEC));
  link_api()->abandon_in_child(c.link);
  for (int f : files) CHECK(::close(f) == 0);
}

TEST_CASE("a server of another user is refused") {
  if (getuid() != 0) {
    WARN("not root: not checked");
    return;
  }
  Process peer("process: a peer", {"DJINN_TEST_NETWORK=ipc", "DJINN_TEST_UID=65534"});
  Client c;
  c.config.check_peer_uid = 1;
  CHECK_FALSE(c.open(peer.line()));
  CHECK(contains(c.error, "another user (65534)"));
}

TEST_CASE("closing twice as long as told is not needed, with a peer that is stopped") {
  Process peer("process: a peer");
  Client c;
  REQUIRE(c.open(peer.line()));
  kill(peer.pid, SIGSTOP);
  Buffer b(32 << 20);  // more than the kernel buffers
  REQUIRE(c.send(1, {b.part()}));
  auto start = Clock::now();
  c.close(200);
  CHECK(Clock::now() - start < 5s);
  CHECK(b.wait_released());
}

// The embedded default: no GPU, no configuration. The endpoint is a unix socket in a private folder of this user; if nobody listens, a lock file
// elects one process that starts djinn-gpu-server (found beside libdjinn.so), and the others wait for it. The server is cut loose from this process:
// its own session, no preload, no shim paths, no OpenMP settings of the program. It ends by itself when no session has existed for a while.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>

#include "interpose/batch/configuration.hpp"
#include "interpose/batch/session.hpp"

extern char** environ;

namespace djinn {

namespace {

using Clock = std::chrono::steady_clock;
// A server binds its socket before it loads libtorch, so this is process start alone.
constexpr auto kStartTimeout = std::chrono::seconds(5);
constexpr const char* kIdleExitSeconds = "30";

struct Folder {
  std::string path, error;
};

// $XDG_RUNTIME_DIR/djinn, else /tmp/djinn-UID; made 0700, refused when it is not ours alone.
Folder private_folder() {
  const char* runtime = getenv("XDG_RUNTIME_DIR");
  std::string path =
      runtime && *runtime == '/' && access(runtime, W_OK) == 0 ? std::string(runtime) + "/djinn" : "/tmp/djinn-" + std::to_string(getuid());
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return {{}, "cannot make " + path + ": " + strerror(errno)};
  struct stat st {};
  if (lstat(path.c_str(), &st) != 0 || !S_ISDIR(st.st_mode) || st.st_uid != getuid() || (st.st_mode & 077))
    return {{}, path + " must be a folder of this user alone (mode 0700)"};
  return {path, {}};
}

bool listening(const std::string& socket_path) {
  int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  snprintf(address.sun_path, sizeof address.sun_path, "%s", socket_path.c_str());
  bool ok = connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  close(fd);
  return ok;
}

bool belongs_to_the_client(const char* variable) {
  for (const char* prefix : {"LD_PRELOAD=", "LD_LIBRARY_PATH=", "DJINN_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_"})
    if (!strncmp(variable, prefix, strlen(prefix))) return true;
  return false;
}

std::string server_program() {
  std::string folder = own_folder();
  for (const char* where : {"/djinn-gpu-server", "/../bin/djinn-gpu-server", "/../../bin/djinn-gpu-server"})
    if (access((folder + where).c_str(), X_OK) == 0) return folder + where;
  return {};
}

// Everything that the grandchild needs, made before the fork: after it only async-signal-safe calls are allowed.
struct Start {
  std::vector<std::string> words, variables;
  std::vector<char*> arguments, environment;
  std::string log;
};

Start prepare(const std::string& program, const std::string& folder, const std::string& endpoint) {
  Start s;
  s.words = {program, "--listen", endpoint, "--idle-exit", kIdleExitSeconds, "--client-torch"};
  auto torch = torch_in_process();
  if (!torch.directory.empty()) s.words.insert(s.words.end(), {"--torch", torch.directory});
  for (char** e = environ; *e; e++)
    if (!belongs_to_the_client(*e)) s.variables.push_back(*e);
  for (auto& w : s.words) s.arguments.push_back(w.data());
  for (auto& v : s.variables) s.environment.push_back(v.data());
  s.arguments.push_back(nullptr);
  s.environment.push_back(nullptr);
  s.log = folder + "/server.log";
  return s;
}

// In the grandchild: cut loose from the program's terminal, signals and files, then become the server.
[[noreturn]] void become(const Start& s) {
  setsid();
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  for (int signal : {SIGHUP, SIGINT, SIGPIPE, SIGCHLD, SIGTERM}) ::signal(signal, SIG_DFL);
  int in = open("/dev/null", O_RDONLY), out = open(s.log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  dup2(in, 0);
  dup2(out, 1);
  dup2(out, 2);
  close_range(3, ~0u, 0);
  execve(s.arguments[0], s.arguments.data(), s.environment.data());
  _exit(127);
}

// A grandchild, so that the program never sees a child of ours in wait(). _Fork: the program's fork handlers have no business here. Empty, or why the
// server did not start.
std::string spawn(const std::string& folder, const std::string& endpoint) {
  std::string program = server_program();
  if (program.empty()) return "djinn-gpu-server is not beside libdjinn.so";
  Start start = prepare(program, folder, endpoint);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return strerror(errno);
  pid_t child = _Fork();
  if (child == 0) {
    pid_t server = _Fork();
    if (server == 0) become(start);
    _exit(write(ends[1], &server, sizeof server) == sizeof server ? 0 : 1);
  }
  close(ends[1]);
  pid_t server = -1;
  bool told = child > 0 && read(ends[0], &server, sizeof server) == sizeof server;
  close(ends[0]);
  if (child > 0) waitpid(child, nullptr, 0);
  if (!told || server < 0) return "cannot start a process: " + std::string(strerror(errno));
  say(Level::error, "started a local server (pid %d, log in %s); it ends when unused for %s s", server, start.log.c_str(), kIdleExitSeconds);
  return {};
}

}  // namespace

std::string find_local_server(std::string& error) {
  Folder folder = private_folder();
  if (folder.path.empty()) return error = folder.error, std::string();
  std::string socket_path = folder.path + "/server", endpoint = "ipc://" + socket_path;
  if (listening(socket_path)) return endpoint;
  if (!configuration().local)
    return error = "DJINN_SERVER is not set, no local server listens, and DJINN_LOCAL=off forbids starting one", std::string();
  int lock = open((folder.path + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  auto deadline = Clock::now() + kStartTimeout;
  bool elected = false;
  while (!listening(socket_path)) {
    if (!elected && lock >= 0 && flock(lock, LOCK_EX | LOCK_NB) == 0) {
      elected = true;
      if (listening(socket_path)) break;
      if (auto why = spawn(folder.path, endpoint); !why.empty()) {
        close(lock);
        return error = "the local server did not start: " + why, std::string();
      }
    }
    if (Clock::now() > deadline) {
      if (lock >= 0) close(lock);
      return error = "the local server did not listen within 5 s; see " + folder.path + "/server.log", std::string();
    }
    poll(nullptr, 0, 10);
  }
  if (lock >= 0) close(lock);
  return endpoint;
}

}  // namespace djinn

// See listener.hpp.
#include "server/broker/listener.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <charconv>
#include <cstring>

namespace djinn::server {

using transport::Endpoint;
using transport::Socket;

namespace {

std::string folder_of(const std::string& path) {
  size_t slash = path.rfind('/');
  return slash == 0 ? "/" : path.substr(0, slash);
}

bool answers(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  bool yes = fd >= 0 && connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  if (fd >= 0) close(fd);
  return yes;
}

// What a killed server has left: its sockets are files of nobody.
void remove_leftovers(const std::string& folder, const std::string& path) {
  std::string name = path.substr(path.rfind('/') + 1);
  DIR* d = opendir(folder.c_str());
  if (!d) return;
  while (dirent* e = readdir(d)) {
    std::string file = e->d_name;
    if (file == name || file == name + ".data" || file.rfind(name + ".w", 0) == 0) unlinkat(dirfd(d), e->d_name, 0);
  }
  closedir(d);
}

}  // namespace

Listener::Listener(zmq::context_t& context, const Endpoint& endpoint)
    : control(context, Socket::Kind::router), front(context, Socket::Kind::router), endpoint_(endpoint) {}

Listener::~Listener() {
  control.close();
  front.close();
  if (!bound_ || endpoint_.kind != Endpoint::Kind::ipc) return;
  unlink(endpoint_.path.c_str());  // libzmq leaves them
  unlink(front_endpoint_.path.c_str());
}

std::string Listener::open() { return endpoint_.kind == Endpoint::Kind::ipc ? open_ipc() : open_tcp(); }

std::string Listener::open_ipc() {
  std::string folder = folder_of(endpoint_.path);
  struct stat st {};
  if (stat(folder.c_str(), &st) != 0) return endpoint_.text() + ": its folder does not exist";
  if (st.st_uid != geteuid() || (st.st_mode & 077) != 0)
    return endpoint_.text() + ": its folder must belong to you and be closed to others (mode 0700)";
  // libzmq unlinks what lies at the path, whoever listens there: look first, and let one starter at a time look
  int lock = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  flock(lock, LOCK_EX);
  std::string error;
  if (answers(endpoint_.path)) error = endpoint_.text() + ": another server listens there";
  if (error.empty()) remove_leftovers(folder, endpoint_.path);
  front_endpoint_ = endpoint_.sibling(0, "data");
  if (error.empty()) error = control.bind(endpoint_.text());
  if (error.empty()) error = front.bind(front_endpoint_.text());
  bound_ = error.empty();
  close(lock);
  return error;
}

std::string Listener::open_tcp() {
  auto bound = [](Socket& s, const Endpoint& e, uint16_t& port) {
    Endpoint any = e;
    std::string text = any.text();
    if (e.port == 0) text.replace(text.rfind(':'), std::string::npos, ":*");
    std::string error = s.bind(text);
    if (!error.empty()) return error;
    std::string where = s.endpoint();
    size_t colon = where.rfind(':');
    std::from_chars(where.data() + colon + 1, where.data() + where.size(), port);
    return error;
  };
  uint16_t wanted = endpoint_.port;
  if (auto e = bound(control, endpoint_, endpoint_.port); !e.empty()) return e;
  front_endpoint_ = endpoint_.sibling(wanted ? static_cast<uint16_t>(wanted + 1) : uint16_t{0}, "");
  return bound(front, front_endpoint_, front_endpoint_.port);
}

std::string Listener::worker_path(uint64_t worker) const { return endpoint_.path + ".w" + std::to_string(worker % 1000000000); }

Bind Listener::worker_bind(const Options& options, uint64_t worker) const {
  Bind b;
  if (endpoint_.kind == Endpoint::Kind::ipc) {
    b.path = worker_path(worker);
  } else {
    b.host = endpoint_.host;
    b.port_first = options.data_port_first;
    b.port_last = options.data_port_last;
  }
  return b;
}

void Listener::forget_worker(uint64_t worker) const {
  if (endpoint_.kind == Endpoint::Kind::ipc) unlink(worker_path(worker).c_str());
}

std::optional<uint32_t> peer_uid(const zmq::message_t& m) {
  const char* address = zmq_msg_gets(const_cast<zmq::message_t&>(m).handle(), "Peer-Address");
  // libzmq's form for a unix socket is "localhost:UID:GID:PID" (or without the name), for tcp it is an address
  if (!address) return std::nullopt;
  std::string_view text = address;
  size_t pid = text.rfind(':');
  size_t gid = pid == text.npos || pid == 0 ? text.npos : text.rfind(':', pid - 1);
  size_t uid = gid == text.npos || gid == 0 ? text.npos : text.rfind(':', gid - 1);
  if (uid == text.npos) return std::nullopt;
  uint32_t v = 0;
  auto [end, failed] = std::from_chars(text.data() + uid + 1, text.data() + gid, v);
  return failed == std::errc() && end == text.data() + gid ? std::optional(v) : std::nullopt;
}

}  // namespace djinn::server

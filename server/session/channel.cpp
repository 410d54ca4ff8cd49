// See channel.hpp. The kernel bounds a packet at about 200 KiB and an op list may be longer, so a message travels in pieces: a byte that says whether
// more follows, then bytes.
#include "server/session/channel.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>

#include "semantic/wire/archive.hpp"

namespace djinn::server {

// Well below the kernel's bound on a packet (net.core.wmem_default, 212,992) and small enough for a buffer on the stack.
constexpr size_t kPieceBytes = 32 << 10;

Channel& Channel::operator=(Channel&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(patient_, other.patient_);
  std::swap(partial_, other.partial_);
  std::swap(file_, other.file_);
  return *this;
}

Channel::~Channel() {
  if (fd_ >= 0) ::close(fd_);
}

namespace {

// One packet, with a descriptor beside it or not. recvmsg's and sendmsg's way: SCM_RIGHTS.
struct Packet {
  explicit Packet(std::span<std::byte> bytes) : part{bytes.data(), bytes.size()} {
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = room;
    header.msg_controllen = sizeof room;
  }
  void attach(int fd) {
    if (fd < 0) {
      header.msg_controllen = 0;
      return;
    }
    cmsghdr* c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(c), &fd, sizeof fd);
  }
  Descriptor attached() {
    int fd = -1;
    cmsghdr* c = CMSG_FIRSTHDR(&header);
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof fd))
      std::memcpy(&fd, CMSG_DATA(c), sizeof fd);
    return Descriptor(fd);
  }
  iovec part;
  msghdr header{};
  alignas(cmsghdr) char room[CMSG_SPACE(sizeof(int))]{};
};

}  // namespace

bool Channel::send(const ChannelMessage& m) {
  auto bytes = control::pack(m);
  std::vector<std::byte> piece;
  for (size_t at = 0; at < bytes.size();) {
    size_t n = std::min(kPieceBytes, bytes.size() - at);
    piece.assign(1, std::byte(at + n < bytes.size()));
    piece.insert(piece.end(), bytes.begin() + static_cast<ptrdiff_t>(at), bytes.begin() + static_cast<ptrdiff_t>(at + n));
    ssize_t sent;
    Packet packet(piece);
    packet.attach(at ? -1 : m.file.get());
    do sent = ::sendmsg(fd_, &packet.header, MSG_NOSIGNAL | (patient_ ? 0 : MSG_DONTWAIT));
    while (sent < 0 && errno == EINTR);
    if (sent != static_cast<ssize_t>(piece.size())) return false;
    at += n;
  }
  return true;
}

Channel::Got Channel::receive(ChannelMessage& m, bool wait) {
  std::byte piece[kPieceBytes + 1];
  do {  // a dead worker's last words may be several messages of several pieces: all that is here is read
    ssize_t n;
    Packet packet(piece);
    do n = ::recvmsg(fd_, &packet.header, MSG_CMSG_CLOEXEC | (wait ? 0 : MSG_DONTWAIT));
    while (n < 0 && errno == EINTR);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return Got::nothing;
    if (n < 1 || partial_.size() > wire::kControlBytesMax) return Got::end;
    if (Descriptor file = packet.attached()) file_ = std::move(file);
    partial_.insert(partial_.end(), piece + 1, piece + n);
  } while (piece[0] != std::byte{0});
  auto got = control::unpack<ChannelMessage>(partial_);
  partial_.clear();
  if (!got) return Got::end;  // never from our own binary
  m = std::move(*got);
  m.file = std::exchange(file_, Descriptor());
  return Got::message;
}

}  // namespace djinn::server

// Between broker and worker: whole messages whatever their size, ends noticed; and the queue between socket and executor.
#include <sys/socket.h>

#include <atomic>
#include <thread>

#include "server/session/channel.hpp"
#include "server/session/queue.hpp"
#include "tests/unit/catch.hpp"

using namespace djinn;
using namespace djinn::server;

namespace {
std::pair<Channel, Channel> pair() {
  int ends[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
  return {Channel(ends[0]), Channel(ends[1])};
}
}  // namespace

TEST_CASE("channel: messages of any size arrive whole and in order") {
  auto [a, b] = pair();
  std::atomic<int> sent{0};  // Catch's assertions belong to one thread
  std::thread sender([&] {
    for (size_t n : {0, 1, 1000, 20000}) {
      ChannelMessage m;
      m.kind = ChannelKind::ready;
      m.text = std::to_string(n);
      m.names.assign(n, "aten::some_operator.Tensor_overload");
      sent += a.send(m);
    }
  });
  for (size_t n : {0, 1, 1000, 20000}) {
    ChannelMessage m;
    Channel::Got got;
    while ((got = b.receive(m, true)) == Channel::Got::nothing) {}
    REQUIRE(got == Channel::Got::message);
    CHECK(m.text == std::to_string(n));
    CHECK(m.names.size() == n);
  }
  sender.join();
  CHECK(sent == 4);
  ChannelMessage m;
  CHECK(b.receive(m, false) == Channel::Got::nothing);
}

TEST_CASE("channel: the other end's death is an end, not a wait") {
  auto [a, b] = pair();
  { Channel gone = std::move(a); }
  ChannelMessage m;
  CHECK(b.receive(m, true) == Channel::Got::end);
  CHECK_FALSE(b.send(m));
}

TEST_CASE("queue: holds what the credit window allows and no more") {
  BatchQueue q;
  auto batch = [](size_t records, uint64_t bytes) {
    Batch b;
    b.records.resize(records);
    b.bytes = bytes;
    return b;
  };
  CHECK(q.push(batch(wire::kCreditTickets - 1, 10)));
  CHECK(q.push(batch(1, 10)));
  Batch out;
  REQUIRE(q.pop(out));
  CHECK(out.records.size() == wire::kCreditTickets - 1);
  q.executed(out.records.size(), out.bytes);
  CHECK(q.push(batch(100, 10)));
  CHECK_FALSE(q.push(batch(wire::kCreditTickets, 10)));
  BatchQueue bytes;
  CHECK(bytes.push(batch(1, wire::kCreditBytes)));
  CHECK_FALSE(bytes.push(batch(1, 2 * wire::kCreditBytes)));
}

TEST_CASE("channel: a file travels with its message, and with no other") {
  auto [a, b] = pair();
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  Descriptor reader(ends[0]), writer(ends[1]);
  ChannelMessage m;
  m.kind = ChannelKind::import_granted;
  m.names.assign(3000, "more than one packet");
  m.file = std::move(writer);
  REQUIRE(a.send(m));
  m.names.clear();
  m.file = Descriptor();
  REQUIRE(a.send(m));
  ChannelMessage with, without;
  while (b.receive(with, true) == Channel::Got::nothing) {}
  while (b.receive(without, true) == Channel::Got::nothing) {}
  CHECK_FALSE(without.file);
  REQUIRE(with.file);
  REQUIRE(write(with.file.get(), "x", 1) == 1);
  char c;
  REQUIRE(read(reader.get(), &c, 1) == 1);
  CHECK(c == 'x');
}

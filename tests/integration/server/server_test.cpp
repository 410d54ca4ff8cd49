// The real server binary, spoken to over the wire: what a client may do, what it may not, and who is hurt when somebody dies.
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <thread>

#include "semantic/wire/devices.hpp"
#include "tests/integration/server/wire_client.hpp"
#include "tests/unit/catch.hpp"

using namespace djinn;
using namespace djinn::test;
using namespace std::chrono_literals;
using wire::FrameKind;
using wire::Opcode;

namespace {

constexpr uint64_t kMiB = 1 << 20;

Bytes pattern(size_t n, unsigned seed) {
  Bytes b(n);
  for (size_t i = 0; i < n; i++) b[i] = std::byte((i * 31 + i / 4096 + seed) & 0xff);
  return b;
}

uint64_t upload(WireClient& c, uint64_t address, const Bytes& data) {
  return c.post(Opcode::upload, bytes_of(wire::Upload{0, address, data.size(), data.size(), 1}), {data});
}

Bytes joined(const Got& g) {
  Bytes all;
  for (const Bytes& b : g.bulk) all.insert(all.end(), b.begin(), b.end());
  return all;
}

std::optional<Got> download(WireClient& c, uint64_t address, uint64_t bytes) {
  return c.call(Opcode::download, wire::Download{0, address, bytes, bytes, 1});
}

bool alive(uint32_t pid) { return kill(static_cast<pid_t>(pid), 0) == 0; }

bool rejected(const control::StatsReply& s, const std::string& reason) {
  for (const auto& r : s.rejected)
    if (r.rfind(reason + ": ", 0) == 0) return true;
  return false;
}

void round_trip(const std::string& endpoint) {
  WireClient c;
  INFO(endpoint);
  REQUIRE(c.open(endpoint) == "");
  REQUIRE(c.hello());
  uint64_t at = c.opened.range.address;
  c.post(Opcode::map_memory, wire::MapMemory{at, 4 * kMiB});
  Bytes data = pattern(3 * kMiB + 123, 7);
  upload(c, at + 512, data);
  c.post(Opcode::copy, wire::Copy{0, at + 256, 0, at + 512, 0, 1000, 1});
  auto g = download(c, at + 512 + 1000, data.size() - 1000);
  REQUIRE(c.call_status(g) == 0);
  CHECK(joined(*g) == Bytes(data.begin() + 1000, data.end()));
  auto head = download(c, at + 256, 1000);
  REQUIRE(head);
  CHECK(joined(*head) == Bytes(data.begin(), data.begin() + 1000));
  CHECK(c.synchronize());
  CHECK(c.acknowledged == c.next_ticket - 1);
  CHECK(c.reports_in_order);
}

}  // namespace

TEST_CASE("a session moves bytes over ipc and over tcp") {
  {
    ServerProcess server;
    round_trip(server.endpoint);
  }
  ServerProcess server({"--data-ports", "0"}, true);
  round_trip(server.endpoint);
}

TEST_CASE("pitched copies, fills and inline uploads") {
  ServerProcess server;
  WireClient c;
  REQUIRE(c.open(server.endpoint) == "");
  REQUIRE(c.hello());
  uint64_t at = c.opened.range.address;
  c.post(Opcode::map_memory, wire::MapMemory{at, 2 * kMiB});
  c.post(Opcode::fill, wire::Fill{0, at, 64, 64, 8, 0xabcd1234, 4});
  // inline: 4 rows of 10 bytes, 64 apart
  Bytes rows = pattern(40, 1), payload = bytes_of(wire::Upload{0, at + 2, 64, 10, 4});
  wire::Writer(payload).put_bytes(rows.data(), rows.size());
  c.post(Opcode::upload, payload);
  auto g = c.call(Opcode::download, wire::Download{0, at + 2, 64, 10, 4});
  REQUIRE(c.call_status(g) == 0);
  CHECK(joined(*g) == rows);
  // the same rows, split in the middle of one
  std::vector<Bytes> parts{{rows.begin(), rows.begin() + 13}, {rows.begin() + 13, rows.end()}};
  c.post(Opcode::upload, bytes_of(wire::Upload{0, at + 4096, 32, 10, 4}), parts);
  g = c.call(Opcode::download, wire::Download{0, at + 4096, 32, 10, 4});
  REQUIRE(g);
  CHECK(joined(*g) == rows);
  g = download(c, at + 64 * 4, 8);
  REQUIRE(g);
  uint32_t words[2];
  std::memcpy(words, joined(*g).data(), 8);
  CHECK(words[0] == 0xabcd1234);
  CHECK(words[1] == 0xabcd1234);
  uint64_t ticket = c.post(Opcode::push_download, wire::Download{0, at + 2, 64, 10, 4});
  REQUIRE(c.synchronize());
  bool pushed = false;
  for (const Got& r : c.records)
    if (r.head.opcode == static_cast<uint32_t>(wire::ReportOpcode::pushed)) pushed = r.fixed<wire::Pushed>().ticket == ticket && joined(r) == rows;
  CHECK(pushed);
}

TEST_CASE("of sessions that are opened at once no more are admitted than there is room for") {
  ServerProcess server({"--sessions", "2"});
  std::vector<WireClient> clients(8);
  std::vector<std::string> said(clients.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < clients.size(); i++) threads.emplace_back([&, i] { said[i] = clients[i].open(server.endpoint); });
  for (std::thread& t : threads) t.join();
  CHECK(std::count(said.begin(), said.end(), "") == 2);
  for (const std::string& words : said) CHECK((words.empty() || words.find("2 sessions are open already") != words.npos));
  CHECK(server.stats().sessions.size() == 2);
}

TEST_CASE("events report the device's clock in order") {
  ServerProcess server;
  WireClient c;
  REQUIRE(c.open(server.endpoint) == "");
  REQUIRE(c.hello());
  c.post(Opcode::stream_create, wire::StreamCreate{5, 0, 0});
  c.post(Opcode::event_record, wire::EventRecord{11, 5, 1});
  c.post(Opcode::event_record, wire::EventRecord{12, 0, 1});
  c.post(Opcode::event_record, wire::EventRecord{13, 0, 0});
  c.post(Opcode::stream_wait, wire::StreamWait{5, 12});
  REQUIRE(c.synchronize());
  std::vector<wire::EventDone> done;
  for (const Got& r : c.records)
    if (r.head.opcode == static_cast<uint32_t>(wire::ReportOpcode::event_done)) done.push_back(r.fixed<wire::EventDone>());
  REQUIRE(done.size() == 2);
  CHECK(done[0].event == 11);
  CHECK(done[0].ticket == 2);
  CHECK(done[0].nanoseconds <= done[1].nanoseconds);
}

TEST_CASE("leases: memory beyond one is refused, more is granted while there is some, and what is given up is for others") {
  ServerProcess server;  // 1 GiB
  WireClient a;
  REQUIRE(a.open(server.endpoint) == "");
  REQUIRE(a.hello());
  CHECK(a.opened.devices[0].lease_bytes == 256 * kMiB);
  uint64_t at = a.opened.range.address;
  CHECK(a.call_status(a.call(Opcode::map_memory, wire::MapMemory{at, 258 * kMiB})) == 2);
  auto lease = [](WireClient& c, uint64_t bytes) {
    auto g = c.call(Opcode::lease, wire::Lease{0, bytes});
    REQUIRE(c.call_status(g) == 0);
    wire::Reader r(g->payload);
    r.get<wire::Reply>();
    return r.get<wire::LeaseReply>().granted;
  };
  CHECK(lease(a, 900 * kMiB) == 900 * kMiB);
  CHECK(a.call_status(a.call(Opcode::map_memory, wire::MapMemory{at, 700 * kMiB})) == 0);
  CHECK(lease(a, 2000 * kMiB) == 900 * kMiB);
  WireClient b;
  REQUIRE(b.open(server.endpoint) == "");
  REQUIRE(b.hello());
  CHECK(b.opened.devices[0].lease_bytes == 62 * kMiB);
  CHECK(lease(b, 200 * kMiB) == 62 * kMiB);
  CHECK(lease(a, 0) == 700 * kMiB);  // what is mapped stays
  CHECK(lease(b, 200 * kMiB) == 200 * kMiB);
  CHECK(server.stats().memory_leased == 900 * kMiB);
  a.disconnect();
  CHECK(server.until([](auto s) { return s.memory_leased == 200 * kMiB; }));
}

TEST_CASE("two devices: leases and memory of their own, addresses that say whose they are, copies between them") {
  ServerProcess server({"--devices", "2"});  // 1 GiB each
  WireClient a;
  REQUIRE(a.open(server.endpoint) == "");
  REQUIRE(a.hello());
  REQUIRE(a.opened.devices.size() == 2);
  for (auto& d : a.opened.devices) {
    CHECK(d.lease_bytes == 256 * kMiB);
    CHECK(d.total_memory == 1024 * kMiB);
    CHECK(d.multiprocessors > 0);
  }
  wire::DeviceRanges ranges(a.opened.range.address, a.opened.range.size, 2);
  for (size_t d : {0u, 1u}) {
    CHECK(a.call_status(a.call(Opcode::map_memory, wire::MapMemory{ranges.begin(d), 258 * kMiB})) == 2);
    CHECK(a.call_status(a.call(Opcode::map_memory, wire::MapMemory{ranges.begin(d), (100 + 100 * d) * kMiB})) == 0);
    auto g = a.call(Opcode::memory_info, wire::DeviceIndex{d});
    REQUIRE(a.call_status(g) == 0);
    wire::Reader r(g->payload);
    r.get<wire::Reply>();
    CHECK(r.get<wire::MemoryInfo>().free == (924 - 100 * d) * kMiB);
  }
  CHECK(a.call_status(a.call(Opcode::map_memory, wire::MapMemory{ranges.begin(1) - 2 * kMiB, 4 * kMiB})) == 1);
  CHECK(a.call_status(a.call(Opcode::lease, wire::Lease{2, 4 * kMiB})) == 1);
  CHECK(a.call_status(a.call(Opcode::lease, wire::Lease{1, 1024 * kMiB})) == 0);  // all of the second's
  CHECK(server.stats().memory_total == 2048 * kMiB);
  CHECK(server.stats().memory_leased == 1280 * kMiB);
  WireClient b;
  REQUIRE(b.open(server.endpoint) == "");
  CHECK(b.opened.devices[0].lease_bytes == 256 * kMiB);
  CHECK(b.opened.devices[1].lease_bytes == 0);

  a.post(Opcode::fill, wire::Fill{0, ranges.begin(0), 8, 8, 1, 7, 1});
  a.post(Opcode::copy, wire::Copy{0, ranges.begin(1), 8, ranges.begin(0), 8, 8, 1});
  auto rows = a.call(Opcode::download, wire::Download{0, ranges.begin(1), 8, 8, 1});
  REQUIRE(a.call_status(rows) == 0);
  CHECK(rows->bulk.at(0) == Bytes(8, std::byte{7}));
}

static uint64_t resident_shared(uint32_t pid) {
  std::string text;
  if (FILE* f = fopen(("/proc/" + std::to_string(pid) + "/statm").c_str(), "r")) {
    unsigned long size, resident, shared = 0;
    if (fscanf(f, "%lu %lu %lu", &size, &resident, &shared) != 3) shared = 0;
    fclose(f);
    return shared * 4096;
  }
  return 0;
}

TEST_CASE("memory that is unmapped goes back to the operating system") {
  ServerProcess server;
  WireClient c;
  REQUIRE(c.open(server.endpoint) == "");
  REQUIRE(c.hello());
  uint64_t at = c.opened.range.address;
  c.post(Opcode::map_memory, wire::MapMemory{at, 200 * kMiB});
  c.post(Opcode::fill, wire::Fill{0, at, 0, 200 * kMiB, 1, 1, 1});
  REQUIRE(c.synchronize());
  uint64_t full = resident_shared(c.opened.worker_pid);
  CHECK(full > 200 * kMiB);
  c.post(Opcode::unmap_memory, wire::MapMemory{at, 200 * kMiB});
  REQUIRE(c.synchronize());
  CHECK(resident_shared(c.opened.worker_pid) + 190 * kMiB < full);
  // mapped again it is zero
  c.post(Opcode::map_memory, wire::MapMemory{at, 2 * kMiB});
  auto g = download(c, at, 8);
  REQUIRE(g);
  CHECK(joined(*g) == Bytes(8));
}

TEST_CASE("an illegal address is sticky and hurts nobody else") {
  ServerProcess server;
  WireClient a, b;
  for (WireClient* c : {&a, &b}) {
    REQUIRE(c->open(server.endpoint) == "");
    REQUIRE(c->hello());
    c->post(Opcode::map_memory, wire::MapMemory{c->opened.range.address, 2 * kMiB});
  }
  uint64_t at = a.opened.range.address;
  a.post(Opcode::fill, wire::Fill{0, at + 2 * kMiB - 4, 0, 8, 1, 1, 1});
  CHECK(a.call_status(a.call(Opcode::synchronize, wire::Handle{0})) == 700);
  CHECK(a.call_status(download(a, at, 8)) == 700);
  size_t errors = 0;
  for (const Got& r : a.records)
    if (r.head.opcode == static_cast<uint32_t>(wire::ReportOpcode::error)) {
      ++errors;
      CHECK(r.fixed<wire::Error>().error_class == wire::ErrorClass::sticky);
      CHECK(r.text().find("fill") != std::string::npos);
    }
  CHECK(errors == 1);
  CHECK(b.synchronize());
  // addresses that overflow, of other processes, of nobody
  for (uint64_t bad : {uint64_t{~0ull - 3}, uint64_t{0}, uint64_t{0x7fff00000000}, reinterpret_cast<uint64_t>(&server)}) {
    WireClient c;
    REQUIRE(c.open(server.endpoint) == "");
    REQUIRE(c.hello());
    CHECK(c.call_status(download(c, bad, 16)) == 700);
  }
}

TEST_CASE("two sessions have memory of their own at the same address") {
  ServerProcess server;
  WireClient a, b;
  for (WireClient* c : {&a, &b}) {
    REQUIRE(c->open(server.endpoint) == "");
    REQUIRE(c->hello());
    c->post(Opcode::map_memory, wire::MapMemory{c->opened.range.address, 2 * kMiB});
  }
  REQUIRE(a.opened.range.address == b.opened.range.address);
  uint64_t at = a.opened.range.address;
  upload(a, at, pattern(5000, 1));
  upload(b, at, pattern(5000, 2));
  REQUIRE(a.synchronize());
  auto ga = download(a, at, 5000), gb = download(b, at, 5000);
  REQUIRE((ga && gb));
  CHECK(joined(*ga) == pattern(5000, 1));
  CHECK(joined(*gb) == pattern(5000, 2));
}

TEST_CASE("unknown things are refused by name and the session lives") {
  ServerProcess server;
  WireClient c;
  REQUIRE(c.open(server.endpoint) == "");
  CHECK(c.opened.level == control::Level::call);
  REQUIRE(c.hello());
  auto g = c.call(static_cast<Opcode>(0x7777), Bytes{});
  REQUIRE(c.call_status(g) == 801);
  CHECK(g->text().find("0x7777") != std::string::npos);
  CHECK(c.call_status(c.call(Opcode::op_run, Bytes(16))) == 801);
  CHECK(c.call_status(c.call(Opcode::synchronize, wire::Handle{99})) == 400);
  Bytes image = pattern(100, 1);
  std::memcpy(image.data(), "\177ELF", 4);
  c.post(Opcode::module_load, bytes_of(wire::ModuleLoad{3, image.size(), {0, 0}}), {image});
  Bytes get = bytes_of(wire::KernelGet{4, 3});
  wire::Writer(get).put_string("_Z6kernelPf");
  c.post(Opcode::kernel_get, get);
  Bytes launch = bytes_of(wire::Launch{4, 0, {1, 1, 1}, {32, 1, 1}, 0, 0});
  wire::Writer(launch).put_bytes("12345678", 8);
  g = c.call(Opcode::launch, launch);
  REQUIRE(c.call_status(g) == 801);
  CHECK(g->text().find("_Z6kernelPf") != std::string::npos);
  CHECK(c.synchronize());
  auto counters = c.call(Opcode::counters, Bytes{});
  REQUIRE(c.call_status(counters) == 0);
  CHECK(server.stats().sessions.at(0).launches_refused == 1);
}

TEST_CASE("whoever breaks the protocol inside loses the session and is told why") {
  ServerProcess server;
  WireClient innocent;
  REQUIRE(innocent.open(server.endpoint) == "");
  REQUIRE(innocent.hello());
  auto offender = [&](auto&& offence, const std::string& word) {
    WireClient c;
    REQUIRE(c.open(server.endpoint) == "");
    REQUIRE(c.hello());
    uint32_t worker = c.opened.worker_pid;
    offence(c);
    INFO(word);
    CHECK(c.read_until([&] { return !c.refused.empty(); }));
    CHECK(c.refused.find(word) != std::string::npos);
    c.disconnect();
    CHECK(server.until([&](auto) { return !alive(worker); }));
  };
  offender(
      [](WireClient& c) {
        c.next_ticket = 7;
        c.post(Opcode::synchronize, wire::Handle{0});
      },
      "does not follow");
  offender([](WireClient& c) { c.post(Opcode::synchronize, Bytes(4 * 8)); }, "malformed");
  offender([](WireClient& c) { c.post(Opcode::upload, bytes_of(wire::Upload{0, c.opened.range.address, 8, 8, 1}), {Bytes(9)}); }, "malformed");
  offender([](WireClient& c) { c.send_bytes(Bytes(200)); }, "malformed frame");
  offender(
      [](WireClient& c) {
        auto h = c.header(FrameKind::batch);
        h.first_ticket = 1;
        h.count = 3;
        c.send_frame(h, Bytes(16));
      },
      "record count");
  offender([](WireClient& c) { c.send_frame(c.header(FrameKind::report)); }, "does not send");
  offender(
      [](WireClient& c) {
        auto h = c.header(FrameKind::ping);
        h.session++;
        c.send_frame(h);
      },
      "another session");
  CHECK(innocent.synchronize());
}

TEST_CASE("replayed frames are skipped") {
  ServerProcess server;
  WireClient c;
  REQUIRE(c.open(server.endpoint) == "");
  REQUIRE(c.hello());
  uint64_t at = c.opened.range.address;
  c.post(Opcode::map_memory, wire::MapMemory{at, 2 * kMiB});
  c.next_ticket = 1;
  c.post(Opcode::map_memory, wire::MapMemory{at, 2 * kMiB});  // would fail if executed
  CHECK(c.synchronize());
  CHECK(c.records.size() == 1);
  CHECK(rejected(server.stats(), "replayed frame"));
}

TEST_CASE("strangers at every port are counted and change nothing") {
  ServerProcess server;
  WireClient good;
  REQUIRE(good.open(server.endpoint) == "");
  REQUIRE(good.hello());
  for (const std::string& port : {server.endpoint, good.opened.front_door, good.opened.endpoint}) {
    WireClient bad;
    REQUIRE(bad.connect_raw(port));
    for (size_t n : {0, 1, 7, 8, 63, 64, 100, 5000}) bad.send_bytes(pattern(n, 3), {pattern(n, 4)});
    bad.opened = good.opened;
    bad.opened.token[3] ^= 1;
    bad.send_frame(bad.header(FrameKind::hello), bytes_of(bad.opened.token));
    bad.send_frame(bad.header(FrameKind::goodbye));
    bad.post(Opcode::unmap_memory, wire::MapMemory{good.opened.range.address, 2 * kMiB});
    CHECK_FALSE(bad.read_until([&] { return !bad.kinds.empty(); }, 100ms));
  }
  // the right token, but somebody is in already
  WireClient second;
  second.opened = good.opened;
  CHECK_FALSE(second.hello());
  CHECK(second.refused.find("another connection") != std::string::npos);
  CHECK(good.synchronize());
  auto s = server.stats();
  CHECK(rejected(s, "bad token"));
  CHECK(rejected(s, "frame without a token"));
  CHECK(rejected(s, "front door: bad token"));
  CHECK(rejected(s, "control: not a Djinn message"));
}

TEST_CASE("control messages: versions, levels and offers are refused in words") {
  ServerProcess server;
  WireClient c;
  auto request = WireClient::default_open();
  request.ranges.clear();
  CHECK(c.open(server.endpoint, request).find("no address range") != std::string::npos);
  request = WireClient::default_open();
  request.ranges = {{0x1000, 1 << 21}};
  CHECK(c.open(server.endpoint, request).find("address ranges") != std::string::npos);
  request = WireClient::default_open();
  request.level = control::Level::op;
  request.torch = "9.9.1+cu999";
  CHECK(c.open(server.endpoint, request).find("9.9.1") != std::string::npos);
  request.level = control::Level::automatic;
  CHECK(c.open(server.endpoint, request) == "");
  CHECK(c.opened.level == control::Level::call);
  // another version of the protocol
  WireClient raw;
  REQUIRE(raw.connect_raw(server.endpoint));
  auto message = control::encode(control::Kind::open, WireClient::default_open());
  message[4] = std::byte{9};
  raw.send_bytes(message);
  std::optional<transport::Message> m;
  for (int i = 0; i < 100 && !(m = raw.socket->receive()); i++) raw.socket->wait(50);
  REQUIRE(m);
  auto refused = control::decode<control::Refused>(m->part(0), control::Kind::refused);
  REQUIRE(refused);
  CHECK(refused->reason.find("version") != std::string::npos);
}

TEST_CASE("the front door opens sessions and relays them") {
  ServerProcess server({}, GENERATE(false, true));
  WireClient direct;
  REQUIRE(direct.open(server.endpoint) == "");
  REQUIRE(direct.hello());
  WireClient c;
  REQUIRE(c.open(direct.opened.front_door) == "");
  REQUIRE(c.hello(c.opened.front_door));
  uint64_t at = c.opened.range.address;
  c.post(Opcode::map_memory, wire::MapMemory{at, 8 * kMiB});
  Bytes data = pattern(8 * kMiB, 9);
  upload(c, at, data);
  auto g = download(c, at, data.size());
  REQUIRE(g);
  CHECK(joined(*g) == data);
  uint32_t worker = c.opened.worker_pid;
  SECTION("the client goes away") {
    c.disconnect();
    CHECK(server.until([&](auto s) { return s.sessions.size() == 1 && !alive(worker); }));
  }
  SECTION("the worker dies") {
    kill(static_cast<pid_t>(worker), SIGKILL);
    CHECK(c.read_until([&] { return !c.refused.empty(); }));
    CHECK(c.refused.find("worker") != std::string::npos);
  }
  CHECK(direct.synchronize());
}

TEST_CASE("a killed worker ends its session only") {
  ServerProcess server;
  WireClient a, b;
  for (WireClient* c : {&a, &b}) {
    REQUIRE(c->open(server.endpoint) == "");
    REQUIRE(c->hello());
    REQUIRE(c->synchronize());
  }
  kill(static_cast<pid_t>(a.opened.worker_pid), SIGKILL);
  CHECK(server.until([](auto s) { return s.sessions.size() == 1 && s.memory_leased == 256 * kMiB; }));
  CHECK(a.read_until([&] { return a.closed(); }));
  CHECK(b.synchronize());
  round_trip(server.endpoint);
}

TEST_CASE("a closed connection ends the session within seconds, a goodbye after what was posted") {
  ServerProcess server;
  WireClient a;
  REQUIRE(a.open(server.endpoint) == "");
  REQUIRE(a.hello());
  uint32_t worker = a.opened.worker_pid;
  SECTION("closed") { a.disconnect(); }
  SECTION("goodbye") {
    for (int i = 0; i < 1000; i++) a.post(Opcode::event_record, wire::EventRecord{5, 0, 0});
    a.send_frame(a.header(FrameKind::goodbye));
    a.disconnect();
    CHECK(server.until([](auto s) { return s.sessions.empty(); }));
    CHECK(server.stats().ended.commands == 1000);
  }
  SECTION("never came") {  // a second open whose client does not connect holds nothing up
    WireClient b;
    REQUIRE(b.open(server.endpoint) == "");
    a.disconnect();
    CHECK(server.until([](auto s) { return s.sessions.size() == 1; }));
    return;
  }
  CHECK(server.until([&](auto s) { return s.sessions.empty() && s.memory_leased == 0 && !alive(worker); }));
}

TEST_CASE("a silent client is given up after the grace, one that answers is not") {
  ServerProcess server({"--grace", "2"});
  WireClient c;
  REQUIRE(c.open(server.endpoint) == "");
  REQUIRE(c.hello());
  CHECK(c.read_until([&] { return !c.refused.empty(); }, 8s));
  CHECK(c.refused.find("silent") != std::string::npos);
}

TEST_CASE("SIGTERM tells the clients, ends the workers and leaves no socket behind") {
  ServerProcess server;
  WireClient c;
  REQUIRE(c.open(server.endpoint) == "");
  REQUIRE(c.hello());
  uint32_t worker = c.opened.worker_pid;
  int status = server.end(SIGTERM);
  CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
  CHECK(c.read_until([&] { return !c.refused.empty(); }));
  CHECK(c.refused.find("shutting down") != std::string::npos);
  CHECK_FALSE(alive(worker));
  for (const auto& entry : std::filesystem::directory_iterator(server.folder)) CHECK(entry.path().filename() == "log");
}

TEST_CASE("a killed broker takes its workers along") {
  ServerProcess server;
  WireClient c;
  REQUIRE(c.open(server.endpoint) == "");
  REQUIRE(c.hello());
  uint32_t worker = c.opened.worker_pid;
  server.end(SIGKILL);
  CHECK(c.read_until([&] { return c.closed(); }));
  auto deadline = std::chrono::steady_clock::now() + 5s;
  while (alive(worker) && std::chrono::steady_clock::now() < deadline) c.socket->wait(10);
  CHECK_FALSE(alive(worker));
}

TEST_CASE("many clients at once each get a session") {
  ServerProcess server;
  std::vector<std::unique_ptr<WireClient>> clients;
  for (int i = 0; i < 12; i++) {
    clients.push_back(std::make_unique<WireClient>());
    REQUIRE(clients.back()->open(server.endpoint) == "");
    REQUIRE(clients.back()->hello());
  }
  for (auto& c : clients) CHECK(c->synchronize());
  auto s = server.stats();
  CHECK(s.sessions.size() == 12);
  CHECK(s.sessions_opened == 12);
}

TEST_CASE("a second server leaves a living socket alone and replaces a dead one") {
  ServerProcess first;
  auto listen_there = [&] { ServerProcess second({"--listen", first.endpoint}); };
  CHECK_THROWS(listen_there());
  round_trip(first.endpoint);
  first.end(SIGKILL);
  CHECK_NOTHROW(listen_there());
}

TEST_CASE("the embedded server ends when nobody uses it") {
  ServerProcess server({"--idle-exit", "0.5"});
  {
    WireClient c;
    REQUIRE(c.open(server.endpoint) == "");
    REQUIRE(c.hello());
    CHECK_FALSE(c.read_until([&] { return c.closed(); }, 1200ms));  // it lives as long as the session
  }
  int status = 0;
  CHECK(waitpid(server.pid, &status, 0) == server.pid);
  CHECK(WIFEXITED(status));
  server.pid = -1;
}

TEST_CASE("a client that does not read its downloads holds up itself only") {
  ServerProcess server;
  WireClient greedy, other;
  REQUIRE(greedy.open(server.endpoint) == "");
  REQUIRE(greedy.hello());
  uint64_t at = greedy.opened.range.address;
  greedy.post(Opcode::map_memory, wire::MapMemory{at, 64 * kMiB});
  for (int i = 0; i < 40; i++) greedy.post(Opcode::push_download, wire::Download{0, at, 64 * kMiB, 64 * kMiB, 1});
  REQUIRE(other.open(server.endpoint) == "");
  REQUIRE(other.hello());
  CHECK(other.synchronize());
  uint32_t worker = greedy.opened.worker_pid;
  CHECK(resident_shared(worker) < 1024 * kMiB);
  greedy.disconnect();
  CHECK(server.until([&](auto s) { return s.sessions.size() == 1 && !alive(worker); }));
}

// What DJINN_RECORD leaves: each case records a hidden case in a process of its own, and reads the file that remains.
#include "interpose/shadow/recorder.hpp"

#include <cuda_runtime_api.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>

#include "interpose/batch/session.hpp"
#include "semantic/wire/op.hpp"
#include "tests/unit/client/fixture.hpp"

using namespace djinn;
using namespace djinn::test;
using record::Kind;
using wire::Opcode;

namespace {

struct Folder {
  char path_[32] = "/tmp/djinn-recorder-XXXXXX";
  std::string path;
  Folder() {
    REQUIRE(mkdtemp(path_));
    path = path_;
  }
  ~Folder() { std::filesystem::remove_all(path); }
};

struct Events {
  std::multimap<Kind, std::vector<std::byte>> all;
  std::map<uint64_t, std::string> texts;
  template <class Event>
  std::vector<Event> of(Kind kind) const {
    std::vector<Event> out;
    auto [from, to] = all.equal_range(kind);
    for (auto i = from; i != to; ++i) out.push_back(wire::Reader(i->second).get<Event>());
    return out;
  }
  std::vector<record::Posted> posted(Opcode opcode) const {
    auto out = of<record::Posted>(Kind::posted);
    std::erase_if(out, [&](const record::Posted& p) { return p.opcode != static_cast<uint32_t>(opcode); });
    return out;
  }
};

Events read_events(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<char> bytes(std::istreambuf_iterator<char>(file), {});
  wire::Reader r(std::as_bytes(std::span(bytes)));
  auto header = r.get<record::Header>();
  REQUIRE(header.magic == record::kMagic);
  REQUIRE(header.version == record::kVersion);
  Events events;
  while (r.left()) {
    auto h = r.get<record::EventHeader>();
    const std::byte* p = r.take(h.bytes);
    REQUIRE(p);
    auto kind = static_cast<Kind>(h.kind);
    events.all.emplace(kind, std::vector<std::byte>(p, p + h.bytes));
    if (kind != Kind::text) continue;
    wire::Reader text({p, h.bytes});
    uint64_t number = text.get<record::Text>().number;
    events.texts[number] = text.get_string(wire::kNameBytesMax);
  }
  return events;
}

Events recorded(const std::string& tag, const Folder& folder) {
  auto done = run_case(tag, {"DJINN_SERVER=tcp://127.0.0.1:1", "DJINN_SUMMARY=off", "DJINN_RECORD=" + folder.path + "/record"});
  INFO(done.output);
  REQUIRE(done.status == 0);
  return read_events(folder.path + "/record");
}

void define_op(uint64_t id, const char* name) {
  std::vector<std::byte> payload;
  wire::Writer w(payload);
  w.put(wire::op::OpDefine{id});
  w.put_string(name);
  w.put_string("");
  post(static_cast<uint32_t>(Opcode::op_define), 0, payload);
}

void run_op(uint32_t id, const wire::op::OpContext* context = nullptr) {
  std::vector<std::byte> payload;
  wire::Writer w(payload);
  w.put(wire::op::OpHead{id, 0, 0, context ? uint32_t{wire::op::kContextGiven} : 0, 0});
  if (context) w.put(*context);
  post(static_cast<uint32_t>(Opcode::op_run), 0, payload);
}

constexpr int kFills = 20;

}  // namespace

// ---- what is recorded ----

TEST_CASE("child: fills, copies, ops, a query", "[.][record-work]") {
  void* p = nullptr;
  REQUIRE(cudaMalloc(&p, 1 << 20) == cudaSuccess);
  for (int i = 0; i < kFills; i++) REQUIRE(cudaMemset(p, i, 4096) == cudaSuccess);
  auto host = pattern(1 << 18, 1);
  REQUIRE(cudaMemcpy(p, host.data(), host.size(), cudaMemcpyHostToDevice) == cudaSuccess);
  void* pinned = nullptr;
  REQUIRE(cudaMallocHost(&pinned, 4096) == cudaSuccess);
  REQUIRE(cudaMemcpyAsync(pinned, p, 4096, cudaMemcpyDeviceToHost, nullptr) == cudaSuccess);
  define_op(3, "aten::add");
  run_op(3);
  uint64_t head[2] = {3, 0};
  call(static_cast<uint32_t>(Opcode::op_query), 0, std::as_bytes(std::span(head)));
  run_op(3);
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);  // nothing to wait for
}

TEST_CASE("recorder: what was posted is named, sent, acknowledged, timed and waited for") {
  Folder folder;
  Events e = recorded("record-work", folder);
  REQUIRE(e.of<record::Session>(Kind::session).size() == 1);
  auto fills = e.posted(Opcode::fill), ops = e.posted(Opcode::op_run);
  CHECK(fills.size() == kFills);
  REQUIRE(ops.size() == 2);
  CHECK(e.texts[ops[0].name] == "aten::add");
  CHECK(e.posted(Opcode::op_define).at(0).name == 0);  // no work
  auto posted = e.of<record::Posted>(Kind::posted);
  for (size_t i = 1; i < posted.size(); i++) {
    REQUIRE(posted[i].ticket == posted[i - 1].ticket + 1);
    REQUIRE(posted[i].time >= posted[i - 1].time);
  }
  // frames follow each other without a gap, with the bytes of what is in them
  auto sent = e.of<record::Sent>(Kind::sent);
  REQUIRE(!sent.empty());
  for (size_t i = 1; i < sent.size(); i++) REQUIRE(sent[i].first == sent[i - 1].last + 1);
  uint64_t in_frames = 0, in_posts = 0;
  for (auto& f : sent) in_frames += f.bytes - sizeof(wire::FrameHeader);
  for (auto& p : posted) in_posts += p.bytes;
  CHECK(in_frames == in_posts);
  auto acknowledged = e.of<record::Acknowledged>(Kind::acknowledged);
  REQUIRE(!acknowledged.empty());
  CHECK(acknowledged.back().ticket == posted.back().ticket);
  auto worked = e.of<record::Worked>(Kind::worked);  // the fake worker times fills and ops
  CHECK(worked.size() == fills.size() + ops.size());
  for (auto& w : worked) CHECK(w.begin < w.end);
}

TEST_CASE(
    "recorder: copies with their direction and memory; waits with the entry point or op that asked, and whether there was anything to wait for") {
  Folder folder;
  Events e = recorded("record-work", folder);
  auto copies = e.of<record::Copied>(Kind::copied);
  REQUIRE(copies.size() == 2);
  CHECK(copies[0].direction == record::Direction::to_device);
  CHECK(copies[0].bytes == 1 << 18);
  CHECK(copies[0].pinned == 0);
  CHECK(copies[1].direction == record::Direction::to_host);
  CHECK(copies[1].pinned == 1);
  CHECK(copies[1].asynchronous == 1);
  std::map<std::string, std::vector<record::Waited>> waits;
  for (auto& w : e.of<record::Waited>(Kind::waited)) waits[e.texts[w.name]].push_back(w);
  REQUIRE(waits["aten::add"].size() == 1);
  CHECK(waits["aten::add"][0].kind == record::WaitKind::reply);
  CHECK(waits["aten::add"][0].opcode == static_cast<uint32_t>(Opcode::op_query));
  REQUIRE(waits["cudaDeviceSynchronize"].size() == 2);
  CHECK(waits["cudaDeviceSynchronize"][0].kind == record::WaitKind::executed);
  CHECK(waits["cudaDeviceSynchronize"][0].begin < waits["cudaDeviceSynchronize"][0].end);
  CHECK(waits["cudaDeviceSynchronize"][1].kind == record::WaitKind::none);
  CHECK(waits["the end of the process"].size() == 1);
  auto end = e.of<record::End>(Kind::end);
  REQUIRE(end.size() == 1);
  CHECK(end[0].posted >= e.of<record::Posted>(Kind::posted).size());
  CHECK(end[0].frames >= e.of<record::Sent>(Kind::sent).size());
}

// ---- meaning ----

TEST_CASE("child: an op with its context, and one without", "[.][record-meaning]") {
  REQUIRE(cudaFree(nullptr) == cudaSuccess);
  define_op(1, "aten::mm");
  std::vector<std::byte> payload;
  wire::Writer w(payload);
  w.put(wire::MeaningContext{7, static_cast<uint64_t>(graph::ExecutionPhase::llm_decode)});
  w.put_string("transformer.h.3");
  w.put_string("");
  post(static_cast<uint32_t>(Opcode::meaning_context), 0, payload);
  wire::op::OpContext context{7, 42};
  run_op(1, &context);
  post(Opcode::meaning_step, wire::MeaningStep{42, static_cast<uint64_t>(graph::ExecutionPhase::llm_decode), 1, 9});
  run_op(1);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
}

TEST_CASE("recorder: an op's context and step, and the end of the step; an op without them has none") {
  Folder folder;
  Events e = recorded("record-meaning", folder);
  auto ops = e.posted(Opcode::op_run);
  REQUIRE(ops.size() == 2);
  CHECK(ops[0].context == 7);
  CHECK(ops[0].step == 42);
  CHECK(ops[1].context == 0);
  CHECK(ops[1].step == 0);
  auto contexts = e.of<record::Context>(Kind::context);
  REQUIRE(contexts.size() == 1);
  CHECK(contexts[0].id == 7);
  CHECK(contexts[0].phase == static_cast<uint64_t>(graph::ExecutionPhase::llm_decode));
  CHECK(e.texts[contexts[0].module] == "transformer.h.3");
  auto steps = e.of<record::Step>(Kind::step);
  REQUIRE(steps.size() == 1);
  CHECK(steps[0].step == 42);
  CHECK(steps[0].keys == 9);
}

// ---- stalls ----

TEST_CASE("child: more is posted than the window holds", "[.][record-stall]") {
  REQUIRE(cudaFree(nullptr) == cudaSuccess);
  define_op(1, "aten::mul");
  for (uint64_t i = 0; i < wire::kCreditTickets + 100; i++) run_op(1);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
}

// The buffer is smaller than such a recording: it was written in pieces.
TEST_CASE("recorder: many events are all there, and a stall is a wait") {
  Folder folder;
  Events e = recorded("record-stall", folder);
  CHECK(e.posted(Opcode::op_run).size() == wire::kCreditTickets + 100);
  auto end = e.of<record::End>(Kind::end).at(0);
  size_t stalls = 0;
  for (auto& w : e.of<record::Waited>(Kind::waited)) stalls += w.kind == record::WaitKind::credit;
  CHECK(stalls == end.stalls);
}

// ---- where it cannot be written ----

TEST_CASE("recorder: a path that cannot be written and a full disk are one sentence, and the program goes on") {
  for (std::string path : {"/nonexistent/folder/record", "/dev/full"}) {
    auto done = run_case("record-work", {"DJINN_SERVER=tcp://127.0.0.1:1", "DJINN_SUMMARY=off", "DJINN_RECORD=" + path});
    INFO(done.output);
    CHECK(done.status == 0);
    size_t said = 0;
    for (size_t at = 0; (at = done.output.find("goes on unrecorded", at)) != std::string::npos; at++) ++said;
    CHECK(said == 1);
    CHECK(done.output.find("DJINN_RECORD: " + path) != std::string::npos);
  }
}

TEST_CASE("child: a forked child ends first", "[.][record-fork]") {
  REQUIRE(cudaFree(nullptr) == cudaSuccess);
  define_op(1, "aten::sub");
  run_op(1);
  pid_t pid = fork();
  if (!pid) {
    bool quiet = !recorder::recording();
    run_op(1);
    recorder::tick();
    recorder::finish(false);
    _exit(quiet ? 0 : 1);
  }
  int status = -1;
  waitpid(pid, &status, 0);
  CHECK(status == 0);
  run_op(1);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
}

TEST_CASE("recorder: a forked child leaves the parent's recording alone; %p is the number of the process") {
  Folder folder;
  auto done = run_case("record-fork", {"DJINN_SERVER=tcp://127.0.0.1:1", "DJINN_SUMMARY=off", "DJINN_RECORD=" + folder.path + "/%p.record"});
  INFO(done.output);
  REQUIRE(done.status == 0);
  std::vector<std::string> files;
  for (auto& f : std::filesystem::directory_iterator(folder.path)) files.push_back(f.path());
  REQUIRE(files.size() == 1);
  Events e = read_events(files[0]);
  auto session = e.of<record::Session>(Kind::session).at(0);
  CHECK(std::filesystem::path(files[0]).stem() == std::to_string(session.pid));
  CHECK(e.posted(Opcode::op_run).size() == 2);
  CHECK(e.of<record::End>(Kind::end).size() == 1);
}

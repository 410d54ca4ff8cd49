// Meaning in a session: which records reach the graph, with an executor that computes nothing and takes its time.
#include <thread>

#include "tests/unit/graph/records.hpp"
#include "tests/unit/server/fixture.hpp"

using namespace djinn;
using namespace djinn::server;
using namespace djinn::server::test;
using namespace djinn::test;
using graph::ExecutionPhase;

namespace {

// Refuses op 13; everything else takes kPause.
constexpr auto kPause = std::chrono::microseconds(200);
int executor_state;

Bytes answer_of(uint64_t stash) { return djinn::test::answer(stash, {result({8, 8}, 0)}); }

void answer(const void* payload, size_t size, djinn_executor_result* r) {
  wire::op::OpHead head{};
  if (size >= sizeof head) std::memcpy(&head, payload, sizeof head);
  if (head.op == 13) *r = {999, 2, "aten::unlucky", "thirteen", nullptr, 0};
}

const djinn_executor* slow_executor() {
  static const djinn_executor table = [] {
    djinn_executor e{};
    e.version = DJINN_EXECUTOR_VERSION;
    e.size = sizeof e;
    e.open = [](const djinn_executor_host*, int) -> void* { return &executor_state; };
    e.execute = [](void*, uint32_t opcode, uint64_t, const void* payload, size_t size, djinn_executor_result* r) {
      if (opcode == static_cast<uint32_t>(Opcode::op_run) || opcode == static_cast<uint32_t>(Opcode::op_call)) std::this_thread::sleep_for(kPause);
      static const Bytes stash = answer_of(5);
      if (opcode == static_cast<uint32_t>(Opcode::op_call)) r->reply = stash.data(), r->reply_size = stash.size();
      if (opcode == static_cast<uint32_t>(Opcode::op_run) || opcode == static_cast<uint32_t>(Opcode::op_query)) answer(payload, size, r);
    };
    e.set_threads = [](void*, int) {};
    e.close = [](void*) {};
    e.graph_add = [](void*, uint64_t, const void* payload, size_t size, djinn_executor_result* r) { answer(payload, size, r); };
    e.graph_run = [](void*, uint64_t, uint64_t, djinn_executor_result*) { std::this_thread::sleep_for(kPause); };
    e.graph_drop = [](void*, uint64_t) {};
    return e;
  }();
  return &table;
}

struct Meant {
  CountingDevice device;
  Session session;
  Meant()
      : session([this] {
          Session::Setup s;
          s.opened.session = 4;
          s.opened.level = wire::control::Level::op;
          s.opened.range = {kBase, kEach};
          s.opened.devices.resize(1);
          s.device = &device;
          s.executor = slow_executor();
          s.send = [](std::span<const std::byte>, std::span<const djinn_part>) { return true; };
          s.queued = [] { return uint64_t{42}; };
          return s;
        }()) {
    run(Opcode::op_define, define_op(1, "aten::mm"));
    run(Opcode::op_define, define_op(13, "aten::unlucky"));
    for (uint32_t t = 0; t < 4; t++) run(Opcode::tensor_define, define_tensor(t, kBase + 4096 * t, {8, 8}));
    run(Opcode::meaning_context, context(1, ExecutionPhase::forward, "net.0"));
  }
  Failure run(Opcode opcode, const Bytes& payload, std::span<const std::span<const std::byte>> bulk = {}) {
    wire::RecordHeader head;
    head.opcode = static_cast<uint32_t>(opcode);
    head.size = static_cast<uint32_t>(payload.size());
    auto f = decode::find(head.opcode);
    REQUIRE(f);
    return f(session, {1, head, payload, bulk});
  }
  Bytes mm(uint32_t op = 1) { return run_op(op, 2, 1, {tensor(0), tensor(1), tensor(2)}, {1, 1}); }
  wire::control::Graph graph() { return session.meaning().snapshot(4, true); }
};

}  // namespace

TEST_CASE_METHOD(Meant, "meaning: ops count with the time that they took, failed ones do not") {
  REQUIRE(run(Opcode::op_run, mm()).code == 0);
  CHECK(run(Opcode::op_run, mm(13)).code == 999);
  auto g = graph();
  REQUIRE(g.nodes.size() == 1);
  CHECK(g.session == 4);
  CHECK(g.nodes[0].op == "aten::mm");
  CHECK(g.nodes[0].module == "net.0");
  CHECK(g.nodes[0].nanoseconds >= 200'000);
  CHECK(g.nodes[0].flops == 1024);
}

TEST_CASE_METHOD(Meant, "meaning: ops that are called by name count, with what they answered and what is taken of it") {
  REQUIRE(run(Opcode::op_call, call_op("aten::matmul", {{tensor(0)}, {tensor(1)}})).code == 0);
  CHECK(session.answer == answer_of(5));
  REQUIRE(run(Opcode::op_take, fixed(wire::op::OpTake{5, 0, kBase + 4096, 256})).code == 0);
  auto g = graph();
  REQUIRE(g.nodes.size() == 1);
  CHECK(g.nodes[0].op == "aten::matmul");
  CHECK(g.nodes[0].nanoseconds >= 200'000);
  CHECK(g.nodes[0].flops == 1024);
  CHECK(g.nodes[0].bytes_written == 256);
}

TEST_CASE_METHOD(Meant, "meaning: ops of a CUDA graph count when they are launched") {
  auto add = [&](const Bytes& op) {
    Bytes payload = fixed(wire::GraphAdd{9, static_cast<uint32_t>(Opcode::op_run), static_cast<uint32_t>(op.size())});
    payload.insert(payload.end(), op.begin(), op.end());
    return run(Opcode::graph_add, payload).code;
  };
  REQUIRE(add(mm()) == 0);
  CHECK(graph().nodes.empty());
  REQUIRE(run(Opcode::graph_launch, fixed(wire::GraphLaunch{9, 0, 0, 1})).code == 0);
  REQUIRE(run(Opcode::graph_launch, fixed(wire::GraphLaunch{9, 0, 0, 1})).code == 0);
  auto g = graph();
  REQUIRE(g.nodes.size() == 1);
  CHECK(g.nodes[0].count == 2);
  CHECK(g.nodes[0].nanoseconds >= 400'000);
  REQUIRE(run(Opcode::graph_destroy, fixed(wire::Handle{9})).code == 0);
}

TEST_CASE_METHOD(Meant, "meaning: what is uploaded is input, and the counters tell what the program says") {
  Bytes rows(256);
  std::span<const std::byte> bulk[] = {rows};
  REQUIRE(run(Opcode::upload, fixed(wire::Upload{0, kBase, 256, 256, 1}), bulk).code == 0);
  REQUIRE(run(Opcode::meaning_residency, residencies({kBase + 4096, 1})).code == 0);
  REQUIRE(run(Opcode::op_run, mm()).code == 0);
  REQUIRE(run(Opcode::meaning_step, step_over(1, ExecutionPhase::llm_decode)).code == 0);
  REQUIRE(run(Opcode::meaning_name, named("run 7")).code == 0);
  REQUIRE(run(Opcode::meaning_memory, fixed(wire::MeaningMemory{{0, 99}})).code == 0);
  auto g = graph();
  REQUIRE(g.nodes.size() == 1);
  CHECK(g.nodes[0].phase == static_cast<uint32_t>(ExecutionPhase::llm_decode));
  CHECK(g.nodes[0].bytes_read.at(static_cast<size_t>(graph::DataResidency::input)) == 256);
  CHECK(g.nodes[0].bytes_read.at(static_cast<size_t>(graph::DataResidency::persistent_weight)) == 256);
  auto c = session.counters();
  CHECK(c.meaning.name == "run 7");
  CHECK(c.meaning.module == "net.0");
  CHECK(c.meaning.memory.at(1) == 99);
  CHECK(c.meaning.steps.at(static_cast<size_t>(ExecutionPhase::llm_decode)) == 1);
  CHECK(c.queued == 42);
  CHECK(c.open_nanoseconds > 0);
}

TEST_CASE("meaning: at call level ops have names and their calls times") {
  Fixture f;
  REQUIRE(f.run(Opcode::op_define, define_op(3, "aten::mm")).code == 0);
  REQUIRE(f.run(Opcode::meaning_context, context(1, ExecutionPhase::backward, "net")).code == 0);
  REQUIRE(f.run(Opcode::meaning_op, fixed(wire::MeaningOp{4, 1, 0})).code == 0);
  CHECK(f.session.meaning().calls_are_meant());
  REQUIRE(f.execute(Opcode::fill, fixed(wire::Fill{0, kBase, 64, 64, 1, 0, 1})));
  auto g = f.session.meaning().snapshot(1, true);
  REQUIRE(g.nodes.size() == 1);
  CHECK(g.nodes[0].nanoseconds > 0);
  CHECK(g.nodes[0].op == "aten::mm");
  CHECK(g.nodes[0].module == "net");
  CHECK(f.run(Opcode::op_define, Bytes(8)).error_class == wire::ErrorClass::lost);
  CHECK(f.run(Opcode::op_run, Bytes(16)).code == cuda_error::not_supported);
}

TEST_CASE_METHOD(Meant, "meaning: malformed records end the session, whatever they are about") {
  std::span<const std::byte> bulk[] = {std::span<const std::byte>()};
  for (Opcode o : {Opcode::meaning_context, Opcode::meaning_step, Opcode::meaning_residency, Opcode::meaning_memory, Opcode::meaning_name}) {
    CHECK(run(o, Bytes(3 * 8 + 4)).error_class == wire::ErrorClass::lost);
    CHECK(run(o, named("x"), bulk).error_class == wire::ErrorClass::lost);
  }
  CHECK(run(Opcode::meaning_step, step_over(1, ExecutionPhase(9))).error_class == wire::ErrorClass::lost);
  CHECK(run(Opcode::meaning_op, Bytes(8)).error_class == wire::ErrorClass::lost);
}

TEST_CASE_METHOD(Meant, "meaning: the io thread may ask while the executor works") {
  std::atomic<bool> over{false};
  std::thread io([&] {
    while (!over) {
      session.meaning().now();
      session.meaning().snapshot(4, false);
    }
  });
  for (int i = 0; i < 50; i++) {
    run(Opcode::op_run, mm());
    run(Opcode::meaning_context, context(1 + static_cast<uint64_t>(i), ExecutionPhase::forward, "m" + std::to_string(i)));
  }
  over = true;
  io.join();
  CHECK(graph().nodes.at(0).count > 0);
}

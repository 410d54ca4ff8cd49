// What a call sends: each input once, results placed, everything given back; and what it does when things go wrong.
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/coordinator/rig.hpp"

using namespace djinn;
using namespace djinn::test;
using wire::Opcode;

TEST_CASE("coordinator call: inputs travel once, a result feeds the next op, one message each") {
  Rig rig;
  std::vector<float> x(10000, 1.0f), y(10000, 2.0f);
  HostTensor hx{x.data(), DType::float32, {100, 100}}, hy{y.data(), DType::float32, {100, 100}};
  auto r1 = rig.call("aten::matmul", {hx, hy}, Rig::one_tensor({100, 100}));
  CHECK(rig.sent(Opcode::upload) == 2);
  CHECK(rig.link.frames().size() == 1);
  auto r2 = rig.call("aten::add", {r1.at(0), hx}, Rig::one_tensor({100, 100}));
  CHECK(rig.sent(Opcode::upload) == 2);
  CHECK(rig.link.frames().size() == 2);
  CHECK(rig.sent(Opcode::op_take) == 1);  // the second's leaves with whatever comes next
  CHECK(r2.at(0).tensor().sizes() == std::vector<int64_t>{100, 100});
  x[17] = 3.0f;  // the same object with other numbers is another input
  rig.call("aten::add", {r2[0], hx}, Rig::one_tensor({100, 100}));
  CHECK(rig.sent(Opcode::upload) == 3);
  auto s = rig.session->statistics();
  CHECK(s.operations == 3);
  CHECK(s.round_trips == 3);
  CHECK(s.inputs_sent == 3);
  CHECK(s.inputs_reused == 1);
}

TEST_CASE("coordinator call: memory and ids are given back with the last handle") {
  CoordinatorConfiguration c;
  c.cached_input_bytes = 0;
  Rig rig(c);
  std::vector<float> x(10000);
  {
    auto r = rig.call("aten::relu", {HostTensor{x.data(), DType::float32, {10000}}}, Rig::one_tensor({1 << 20}));
    auto copy = r;
    r.clear();
    rig.link.tick(), rig.link.step();
    CHECK(rig.link.mapped() >= size_t{4} << 20);
  }
  rig.link.tick(), rig.link.step();
  CHECK(rig.link.mapped() == 0);
  CHECK(rig.sent(Opcode::tensor_forget) == rig.sent(Opcode::tensor_define));
}

TEST_CASE("coordinator call: what may be written to is nobody else's") {
  Rig rig;
  float x[4] = {1, 2, 3, 4};
  HostTensor h{x, DType::float32, {4}};
  rig.call("aten::relu", {h}, Rig::one_tensor({4}));
  std::vector<std::byte> alias;
  wire::Writer w(alias);
  w.put<uint64_t>(0), w.put<uint64_t>(1), w.put(wire::op::word(wire::op::Tag::alias, 0, 0, 0));
  auto r = rig.call("aten::relu_", {h}, alias);
  CHECK(rig.sent(Opcode::upload) == 2);
  auto before = r.at(0).tensor().version();
  auto again = rig.call("aten::relu_", {r[0]}, alias);
  CHECK(again.at(0).tensor().remote() == r[0].tensor().remote());
  CHECK(again[0].tensor().version() != before);
  rig.call("aten::relu", {h}, Rig::one_tensor({4}));
  CHECK(rig.sent(Opcode::upload) == 2);  // the shared one is what it was
}

TEST_CASE("coordinator call: results by keyword, whatever their name, and known positions are written to") {
  Rig rig;
  float x[4] = {1, 2, 3, 4};
  HostTensor h{x, DType::float32, {4}};
  rig.call("aten::neg", {h}, Rig::one_tensor({4}));
  CHECK(rig.sent(Opcode::upload) == 1);
  auto before = rig.call("aten::zeros", {}, Rig::one_tensor({4})).at(0).tensor();
  rig.call("aten::topk", {h, 4}, Rig::one_tensor({4}), {{"values", h}, {"indices", before}});
  CHECK(rig.sent(Opcode::upload) == 2);  // values only: what is read is shared as ever
  CHECK(before.version() == 1);
  rig.call("aten::stack", {Values{h, h}}, Rig::one_tensor({4}), {{"results", Values{before, before}}});
  CHECK(rig.sent(Opcode::upload) == 2);
  CHECK(before.version() == 3);
  rig.call("aten::linear", {h}, Rig::one_tensor({4}), {{"weight", h}, {"bias", before}});
  CHECK(rig.sent(Opcode::upload) == 2);
  CHECK(before.version() == 3);
  for (auto op : {"aten::rrelu_with_noise", "aten::_cummax_helper", "aten::_fused_moving_avg_obs_fq_helper", "aten::_native_batch_norm_legit"}) {
    size_t sent = rig.sent(Opcode::upload);
    rig.call(op, {h}, Rig::one_tensor({4}));
    CHECK(rig.sent(Opcode::upload) == sent + 1);
  }
}

TEST_CASE("coordinator call: kept inputs make room for what is wanted now") {
  uint64_t total = std::exchange(the_link().memory_total, uint64_t{64} << 20);
  Rig rig;
  std::vector<float> x(10 << 20);
  rig.call("aten::sum", {HostTensor{x.data(), DType::float32, {10 << 20}}}, Rig::one_tensor({1}));
  auto large = rig.call("aten::zeros", {}, Rig::one_tensor({10 << 20}));
  CHECK(large.at(0).tensor().elements() == 10 << 20);
  rig.call("aten::sum", {HostTensor{x.data(), DType::float32, {1}}}, Rig::one_tensor({1}));
  the_link().memory_total = total;
}

TEST_CASE("coordinator call: no cache, no fingerprint: each input travels") {
  CoordinatorConfiguration c;
  c.cached_input_bytes = 0;
  Rig rig(c);
  float x[2] = {1, 2};
  for (int i = 0; i < 2; i++) rig.call("aten::neg", {HostTensor{x, DType::float32, {2}}}, Rig::one_tensor({2}));
  CHECK(rig.sent(Opcode::upload) == 2);
}

TEST_CASE("coordinator value: every whole number is one") {
  auto number = [](const Value& v) { return std::get<int64_t>(v); };
  CHECK(number(size_t{7}) == 7);
  CHECK(number(uint64_t{INT64_MAX}) == INT64_MAX);
  CHECK(number(-3) == -3);
  CHECK(number(uint8_t{200}) == 200);
  CHECK(std::holds_alternative<bool>(Value(true)));
  CHECK(std::holds_alternative<double>(Value(0.5)));
  CHECK(std::holds_alternative<std::string>(Value("text")));
  CHECK(std::get<int64_t>(Values{size_t{1}, 2u}.at(1)) == 2);
  CHECK_THROWS_AS(Value(UINT64_MAX), std::invalid_argument);
}

TEST_CASE("coordinator: a forked child neither waits for its parent's threads nor calls") {
  auto coordinator = std::make_unique<Coordinator>();
  pid_t child = fork();
  REQUIRE(child >= 0);
  if (!child) {
    alarm(10);
    int status = 1;
    try {
      coordinator->call("aten::neg", {}, "ipc:///nowhere");
    } catch (const UnreachableError& e) {
      status = e.reason.find("forked") == std::string::npos;
    }
    coordinator->close();
    coordinator.reset();
    _exit(status);
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}

TEST_CASE("coordinator call: a refusal names op, target and reason, and the next call works") {
  Rig rig;
  rig.link.fail_next(Opcode::op_call, {801, wire::ErrorClass::refused, "aten::nothing", "there is no operator aten::nothing"});
  try {
    rig.session->call("aten::nothing", {int64_t{1}}, {});
    FAIL("no exception");
  } catch (const OperationError& e) {
    CHECK(e.op == "aten::nothing");
    CHECK(e.target == "fake://target");
    CHECK(e.reason == "there is no operator aten::nothing");
  }
  CHECK(rig.call("aten::relu", {}, Rig::one_tensor({2})).size() == 1);
}

TEST_CASE("coordinator call: a posted command that fails is told by the next call") {
  Rig rig;
  float x[2] = {1, 2};
  rig.link.fail_next(Opcode::upload, {1, wire::ErrorClass::refused, "upload", "it broke"});
  rig.link.answer_next(Opcode::op_call, Rig::one_tensor({2}));
  CHECK_THROWS_AS(rig.session->call("aten::relu", {HostTensor{x, DType::float32, {2}}}, {}), OperationError);
  CHECK(rig.call("aten::relu", {}, Rig::one_tensor({2})).size() == 1);
  rig.link.tick(), rig.link.step();
  CHECK(rig.sent(Opcode::op_drop) == 2);  // the first call's result, too
}

TEST_CASE("coordinator call: sticky errors and losses end the session, its handles are dead") {
  Rig rig;
  auto r = rig.call("aten::relu", {}, Rig::one_tensor({2}));
  rig.link.fail_next(Opcode::op_call, {700, wire::ErrorClass::sticky, "aten::relu", "outside"});
  CHECK_THROWS_AS(rig.session->call("aten::relu", {}, {}), CoordinatorError);
  CHECK(rig.session->lost());
  CHECK_THROWS_AS(r.at(0).tensor().fetch(), DeadHandleError);
  CHECK_THROWS_AS(rig.session->call("aten::relu", {r[0]}, {}), DeadHandleError);
  CHECK_THROWS_AS(rig.session->call("aten::relu", {}, {}), UnreachableError);
  Rig other;
  CHECK_THROWS_AS(other.session->call("aten::relu", {r[0]}, {}), DeadHandleError);
}

TEST_CASE("coordinator call: every wait has an end") {
  CoordinatorConfiguration c;
  c.call_patience = std::chrono::milliseconds(50);
  Rig rig(c);
  rig.link.automatic = false;
  CHECK_THROWS_AS(rig.session->call("aten::relu", {}, {}), UnreachableError);
  CHECK(rig.session->lost());
  rig.link.step();
  rig.link.automatic = true;
}

TEST_CASE("coordinator call: no memory on the server is an error of the call") {
  Rig rig;
  std::vector<std::byte> answer = Rig::one_tensor({int64_t{1} << 31});  // 8 GiB of the fake's 512 MiB
  rig.link.answer_next(Opcode::op_call, answer);
  CHECK_THROWS_AS(rig.session->call("aten::relu", {}, {}), OperationError);
  CHECK(rig.call("aten::relu", {}, Rig::one_tensor({2})).size() == 1);
  CHECK(rig.sent(Opcode::op_drop) == 1);
}

TEST_CASE("coordinator call: values that cannot travel are refused before anything is sent") {
  Rig rig;
  float x[2] = {};
  auto refused = [&](const Value& v) { CHECK_THROWS_AS(rig.session->call("aten::relu", {v}, {}), OperationError); };
  refused(HostTensor{x, static_cast<DType>(99), {2}});
  refused(HostTensor{nullptr, DType::float32, {2}});
  refused(HostTensor{x, DType::float32, {-2}});
  refused(HostTensor{x, DType::complex128, {int64_t{1} << 60}, {0}});  // 2^64 bytes
  refused(HostTensor{x, DType::float32, {int64_t{1} << 50}, {0}});
  refused(HostTensor{x, DType::float32, {2}, {1, 1}});
  refused(HostTensor{x, DType::float32, std::vector<int64_t>(65, 1)});
  refused(Values{std::string("a"), int64_t{1}});
  refused(Values{Values{int64_t{1}}});
  refused(std::string(10000, 'a'));
  CHECK_THROWS_AS(rig.session->call("aten::relu", Values(300), {}), OperationError);
  CHECK(rig.sent(Opcode::op_call) == 0);
}

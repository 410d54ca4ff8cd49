// The check layer: launches are compared with what their module's cubin says, scopes with what their calls carried, and nothing is computed.
#include <algorithm>

#include "semantic/wire/op.hpp"
#include "tests/unit/module/images.hpp"
#include "tests/unit/server/fixture.hpp"

using namespace djinn;
using namespace djinn::server;
using namespace djinn::server::test;
using wire::control::Level;

namespace {

using djinn::test::Bytes;
using djinn::test::put;

struct Checked : Fixture {
  explicit Checked(Level level) : Fixture(level, true) {
    Bytes image = djinn::test::sample_cubin();
    std::span<const std::byte> part = image;
    Bytes load, get;
    wire::Writer(load).put(wire::ModuleLoad{20, image.size(), {0, 0}});
    REQUIRE(run(Opcode::module_load, load, std::span(&part, 1)).code == 0);
    wire::Writer w(get);
    w.put(wire::KernelGet{21, 20});
    w.put_string("first");  // 12 bytes of parameters: 8 at 0, 4 at 8
    REQUIRE(run(Opcode::kernel_get, get).code == 0);
    get.clear();
    w.put(wire::KernelGet{22, 20});
    w.put_string("absent");
    REQUIRE(run(Opcode::kernel_get, get).code == 0);
  }
  Failure launch(uint64_t kernel, const Bytes& parameters, uint16_t flags) {
    Bytes payload;
    wire::Writer w(payload);
    w.put(wire::Launch{kernel, 0, {1, 1, 1}, {32, 1, 1}, 0, 0});
    w.put_bytes(parameters.data(), parameters.size());
    return run(Opcode::launch, payload, {}, flags);
  }
  Bytes parameters(uint64_t address) {
    Bytes p;
    put(p, address);
    put(p, uint32_t{7});
    return p;
  }
  void scope(uint32_t id) {
    Bytes payload;
    wire::Writer(payload).put(wire::op::Scope{id, 1});
    REQUIRE(run(Opcode::scope, payload).code == 0);
  }
  void define(uint32_t id, uint64_t address) {
    Bytes payload;
    wire::op::TensorDefine d{};
    d.id = id;
    d.address = address;
    d.storage_bytes = 4096;
    wire::Writer(payload).put(d);
    run(Opcode::tensor_define, payload);  // refused for want of an executor; the layer has read it
  }
  Failure op_run(uint32_t scope, uint32_t tensor) {
    Bytes payload;
    wire::Writer w(payload);
    w.put(wire::op::OpHead{1, 0, 1, 0, scope});
    w.put(wire::op::word(wire::op::Tag::tensor, 0, 0, tensor));
    return run(Opcode::op_run, payload);
  }
  uint64_t validated() { return session.counts().launches_validated; }
  uint64_t violations() { return session.counts().violations; }
};

}  // namespace

TEST_CASE("check: launches are compared with the cubin and never computed") {
  for (Level level : {Level::op, Level::call}) {
    Checked c(level);
    uint16_t flags = level == Level::op ? wire::kFlagScoped : 0;
    Failure good = c.launch(21, c.parameters(kBase), flags);
    INFO(good.text);
    CHECK(good.code == 0);
    CHECK(c.validated() == 1);
    CHECK(c.violations() == 0);
    Failure f = c.launch(21, Bytes(8), flags);
    CHECK(f.text.find("8 bytes of parameters, the cubin says 12") != std::string::npos);
    f = c.launch(22, Bytes(12), flags);
    CHECK(f.operation == "absent");
    CHECK(f.code != 0);
    CHECK(c.launch(77, Bytes(12), flags).code == cuda_error::invalid_resource_handle);
    CHECK(c.violations() == 2);
    CHECK(c.validated() == 1);
    CHECK(c.device.calls == 0);
  }
}

TEST_CASE("check: an op's calls carry an address of its tensors") {
  Checked c(Level::op);
  c.define(1, kBase);
  c.define(2, kBase + 8192);
  c.scope(5);
  CHECK(c.launch(21, c.parameters(kBase + 100), wire::kFlagScoped).code == 0);
  c.op_run(5, 1);
  CHECK(c.violations() == 0);
  c.scope(6);
  CHECK(c.launch(21, c.parameters(kBase + 100), wire::kFlagScoped).code == 0);
  c.op_run(6, 2);
  CHECK(c.violations() == 1);
  c.scope(7);  // nothing launched: a shape cache's hit, or an op of views
  c.op_run(7, 2);
  CHECK(c.violations() == 1);
}

TEST_CASE("check: blind, what comes back is zeros") {
  Checked c(Level::call);
  Bytes payload;
  wire::Writer(payload).put(wire::Download{0, kBase, 64, 64, 1});
  REQUIRE(c.run(Opcode::download, payload).code == 0);
  REQUIRE(c.session.answer_bulk.size() == 1);
  auto data = static_cast<const std::byte*>(c.session.answer_bulk[0].data);
  CHECK(std::all_of(data, data + 64, [](std::byte b) { return b == std::byte{0}; }));
  CHECK(c.device.calls == 0);
}

TEST_CASE("check: a server that does not validate refuses scoped launches and scopes") {
  Fixture f;
  Bytes payload;
  wire::Writer w(payload);
  w.put(wire::Launch{6, 0, {1, 1, 1}, {1, 1, 1}, 0, 0});
  w.put_bytes("", 0);
  CHECK(f.run(Opcode::launch, payload, {}, wire::kFlagScoped).code == cuda_error::invalid_value);
  payload.clear();
  wire::Writer(payload).put(wire::op::Scope{1, 1});
  CHECK(f.run(Opcode::scope, payload).code == cuda_error::invalid_value);
  CHECK(f.device.calls == 0);
}

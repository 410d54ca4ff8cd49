// Graphs through their decoders, on a device that counts: what is added is checked and not executed, what is launched is executed again and again,
// and nothing that a stranger may put into a graph gets around either.
#include "tests/unit/server/fixture.hpp"

using namespace djinn;
using namespace djinn::server;
using namespace djinn::server::test;
using wire::ErrorClass;

namespace {

constexpr uint16_t kPost = 0;
using Bytes = std::vector<std::byte>;

template <class Fixed>
Bytes bytes_of(const Fixed& f) {
  Bytes b;
  wire::Writer(b).put(f);
  return b;
}
Bytes add(uint64_t graph, Opcode opcode, const Bytes& payload) {
  Bytes b = bytes_of(wire::GraphAdd{graph, static_cast<uint32_t>(opcode), static_cast<uint32_t>(payload.size())});
  b.insert(b.end(), payload.begin(), payload.end());
  return b;
}
const Bytes kFill = bytes_of(wire::Fill{0, kBase, 64, 64, 1, 9, 1});

struct Graphs : Fixture {
  using Fixture::Fixture;
  Failure add_to(uint64_t graph, Opcode opcode, const Bytes& payload) { return run(Opcode::graph_add, add(graph, opcode, payload), {}, kPost); }
  Failure launch(uint64_t graph, uint64_t first, uint64_t count, uint64_t stream = 0) {
    return run(Opcode::graph_launch, bytes_of(wire::GraphLaunch{graph, stream, first, count}), {}, kPost);
  }
  Failure destroy(uint64_t graph) { return run(Opcode::graph_destroy, bytes_of(wire::Handle{graph}), {}, kPost); }
};

}  // namespace

TEST_CASE("graph: what is added is not executed; each launch executes its range") {
  Graphs g;
  Bytes launch = bytes_of(wire::Launch{6, 0, {1, 1, 1}, {32, 1, 1}, 0, 0});
  wire::Writer(launch).put_bytes("0123456789", 10);
  // a stream that nobody knows: it is the launch's that counts
  CHECK_FALSE(g.add_to(1, Opcode::copy, bytes_of(wire::Copy{77, kBase, 64, kBase + 4096, 64, 64, 1})));
  CHECK_FALSE(g.add_to(1, Opcode::fill, kFill));
  CHECK_FALSE(g.add_to(1, Opcode::event_record, bytes_of(wire::EventRecord{8, 77, 1})));
  CHECK_FALSE(g.add_to(1, Opcode::stream_wait, bytes_of(wire::StreamWait{77, 8})));
  CHECK_FALSE(g.add_to(1, Opcode::launch, launch));
  CHECK(g.device.calls == 0);
  CHECK(g.session.events.empty());
  CHECK_FALSE(g.launch(1, 0, 5));
  CHECK(g.device.calls == 4);
  CHECK(g.session.events.count(8));
  CHECK_FALSE(g.launch(1, 1, 1, 3));
  CHECK(g.device.calls == 5);
  CHECK_FALSE(g.launch(1, 5, 0));
  CHECK(g.device.calls == 5);
  CHECK_FALSE(g.destroy(1));
  CHECK(g.session.graphs.empty());
  CHECK(g.session.graph_bytes == 0);
}

TEST_CASE("graph: launches of what is not there are refused") {
  Graphs g;
  CHECK_FALSE(g.add_to(1, Opcode::fill, kFill));
  CHECK(g.launch(2, 0, 1).code == cuda_error::invalid_resource_handle);
  CHECK(g.launch(1, 0, 1, 99).code == cuda_error::invalid_resource_handle);
  CHECK(g.launch(1, 0, 2).code == cuda_error::invalid_value);
  CHECK(g.launch(1, 2, 0).code == cuda_error::invalid_value);
  CHECK(g.launch(1, 1, ~0ull).code == cuda_error::invalid_value);
  CHECK(g.launch(1, ~0ull, 2).code == cuda_error::invalid_value);
  CHECK(g.destroy(2).code == cuda_error::invalid_resource_handle);
  CHECK(g.device.calls == 0);
}

TEST_CASE("graph: only work on the device may be kept; a graph that missed a command never runs") {
  for (auto opcode : {Opcode::upload, Opcode::download, Opcode::push_download, Opcode::map_memory, Opcode::unmap_memory, Opcode::lease,
                      Opcode::stream_create, Opcode::synchronize, Opcode::module_load, Opcode::op_query, Opcode::tensor_define, Opcode::graph_add,
                      Opcode::graph_launch, Opcode::graph_destroy, Opcode::scope, Opcode::counters, static_cast<Opcode>(0x999)}) {
    INFO("opcode " << std::hex << static_cast<uint32_t>(opcode));
    Graphs g;
    CHECK_FALSE(g.add_to(1, Opcode::fill, kFill));
    Failure f = g.add_to(1, opcode, bytes_of(wire::Handle{3}));
    CHECK(f.code == cuda_error::invalid_value);
    CHECK(f.error_class == ErrorClass::refused);
    CHECK_FALSE(g.add_to(1, Opcode::fill, kFill));  // said once
    CHECK(g.launch(1, 0, 1).text == f.text);
    CHECK(g.device.calls == 0);
  }
}

TEST_CASE("graph: a command is checked when it is added exactly as when it is executed") {
  Graphs g;
  CHECK(g.add_to(1, Opcode::fill, bytes_of(wire::Fill{0, kBase + kLive, 64, 64, 1, 9, 1})).error_class == ErrorClass::sticky);
  CHECK(g.add_to(2, Opcode::fill, bytes_of(wire::Fill{0, kBase, 64, 64, 1, 9, 3})).code == cuda_error::invalid_value);
  CHECK(g.add_to(3, Opcode::launch, bytes_of(wire::Launch{6, 0, {1, 1, 1}, {32, 1, 1}, 0, 0})).error_class == ErrorClass::lost);  // no parameters
  for (size_t n = 0; n < kFill.size(); n += 8)
    CHECK(g.add_to(4 + n, Opcode::fill, Bytes(kFill.begin(), kFill.begin() + static_cast<ptrdiff_t>(n))).error_class == ErrorClass::lost);
  CHECK(g.device.calls == 0);
}

TEST_CASE("graph: every prefix and excess of a graph_add ends the session") {
  Graphs g;
  Bytes good = add(1, Opcode::fill, kFill);
  for (size_t n = 0; n < good.size(); n += 8) CHECK(g.run(Opcode::graph_add, std::span(good).first(n), {}, kPost).error_class == ErrorClass::lost);
  Bytes longer = good;
  longer.resize(longer.size() + 8);
  CHECK(g.run(Opcode::graph_add, longer, {}, kPost).error_class == ErrorClass::lost);
  Bytes odd = bytes_of(wire::GraphAdd{1, static_cast<uint32_t>(Opcode::fill), 4});
  odd.resize(odd.size() + 8);
  CHECK(g.run(Opcode::graph_add, odd, {}, kPost).error_class == ErrorClass::lost);
  Bytes huge = bytes_of(wire::GraphAdd{1, static_cast<uint32_t>(Opcode::fill), ~7u});
  CHECK(g.run(Opcode::graph_add, huge, {}, kPost).error_class == ErrorClass::lost);
  CHECK(g.session.graphs.empty());
}

TEST_CASE("graph: handles and memory are asked for again at each launch") {
  Graphs g;
  Bytes launch = bytes_of(wire::Launch{6, 0, {1, 1, 1}, {32, 1, 1}, 0, 0});
  wire::Writer(launch).put_bytes("", 0);
  CHECK_FALSE(g.add_to(1, Opcode::launch, launch));
  CHECK_FALSE(g.add_to(1, Opcode::fill, kFill));
  CHECK_FALSE(g.launch(1, 0, 2));
  CHECK(g.device.calls == 2);
  g.session.kernels.erase(6);
  CHECK(g.launch(1, 0, 2).code == cuda_error::invalid_resource_handle);
  CHECK(g.device.calls == 3);  // as in a stream: what follows a refused command is executed
}

TEST_CASE("graph: the limits hold") {
  Graphs g;
  for (uint32_t i = 0; i < wire::kGraphsMax; i++) REQUIRE_FALSE(g.add_to(i, Opcode::fill, kFill));
  CHECK(g.add_to(wire::kGraphsMax, Opcode::fill, kFill).code == cuda_error::memory_allocation);
  CHECK_FALSE(g.destroy(5));
  CHECK_FALSE(g.add_to(wire::kGraphsMax, Opcode::fill, kFill));
  Bytes record = add(7, Opcode::stream_wait, bytes_of(wire::StreamWait{0, 8}));
  for (uint32_t i = 1; i < wire::kGraphCommandsMax; i++) REQUIRE_FALSE(g.run(Opcode::graph_add, record, {}, kPost));
  CHECK(g.run(Opcode::graph_add, record, {}, kPost).code == cuda_error::memory_allocation);
  CHECK(g.launch(7, 0, 1).code == cuda_error::memory_allocation);
  g.session.graph_bytes = wire::kGraphBytesMax - kFill.size() + 1;
  CHECK(g.add_to(8, Opcode::fill, kFill).code == cuda_error::memory_allocation);
}

TEST_CASE("graph: an op without an executor is refused when it is added") {
  Graphs g;
  CHECK(g.add_to(1, Opcode::op_run, Bytes(16)).code == cuda_error::not_supported);
  CHECK(g.session.counts().ops == 0);
}

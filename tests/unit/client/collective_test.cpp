// Cliques: what ranks say is matched, lowered when the last has said it, and refused when they disagree. On the fake link with two devices, whose
// copies are real; reductions are looked at as records.
#include "interpose/encode/collective.hpp"

#include <cuda_runtime_api.h>

#include <unistd.h>

#include <thread>

#include "tests/unit/client/fixture.hpp"

using namespace djinn;
using namespace djinn::test;
using Kind = CollectiveCall::Kind;

namespace {

constexpr uint32_t kInt32 = 2;
constexpr uint64_t kCount = 100, kBytes = 4 * kCount;

struct Rig {
  OpenSession session;
  std::shared_ptr<Clique> clique = std::make_shared<Clique>(2);
  std::byte* memory = nullptr;  // eight arrays
  Rig() {
    for (size_t r : {0u, 1u}) REQUIRE(clique->join(r, static_cast<int>(r)) == "");
    void* p = nullptr;
    REQUIRE(cudaMalloc(&p, 8 * kBytes) == cudaSuccess);
    memory = static_cast<std::byte*>(p);
    for (int i = 0; i < 8; i++) REQUIRE(cudaMemset(array(i), i, kBytes) == cudaSuccess);
    session.link.clear();
  }
  ~Rig() { cudaFree(memory); }
  std::byte* array(int i) { return memory + static_cast<uint64_t>(i) * kBytes; }
  uint64_t address(int i) { return reinterpret_cast<uint64_t>(array(i)); }
  // Rank r has arrays 4r and 4r + 1 to read and 4r + 2 and 4r + 3 to write.
  Clique::Said said(size_t rank, Kind kind, int peer = 0, uint64_t count = kCount) {
    int first = static_cast<int>(4 * rank);
    return {rank, {kind, array(first), array(first + 2), count, kInt32, wire::ReduceOperation::sum, peer, 0}};
  }
  std::string both(Kind kind, int peer = 0) {
    std::vector<Clique::Said> calls{said(0, kind, peer), said(1, kind, peer)};
    return clique->submit(calls);
  }
  // Each array is of one value: which, or x.
  std::string arrays() {
    std::vector<unsigned char> all(8 * kBytes);
    REQUIRE(cudaMemcpy(all.data(), memory, all.size(), cudaMemcpyDeviceToHost) == cudaSuccess);
    std::string out;
    for (size_t i = 0; i < 8; i++) {
      bool one = std::all_of(&all[i * kBytes], &all[i * kBytes] + kBytes, [&](unsigned char c) { return c == all[i * kBytes]; });
      out += one ? static_cast<char>('0' + all[i * kBytes]) : 'x';
    }
    return out;
  }
  struct Reduction {
    uint64_t to, count;
    std::vector<uint64_t> from;
    bool operator==(const Reduction&) const = default;
  };
  std::vector<Reduction> reductions() {
    std::vector<Reduction> out;
    for (auto& s : session.sent(wire::Opcode::reduce)) {
      wire::Reader r(s.payload);
      auto m = r.get<wire::Reduce>();
      out.push_back({m.destination, m.count, r.get_array<uint64_t>(wire::kReduceSourcesMax)});
      CHECK(r.finished());
    }
    return out;
  }
};

}  // namespace

TEST_CASE("collectives that move") {
  struct Row {
    Kind kind;
    int root;
    const char* after;
  };
  for (Row row : {Row{Kind::broadcast, 0, "01034507"},
                  {Kind::broadcast, 1, "01434547"},
                  {Kind::all_gather, 0, "01044504"},
                  {Kind::all_to_all, 0, "01044515"},
                  {Kind::gather, 1, "01234504"},
                  {Kind::scatter, 0, "01034517"}}) {
    Rig rig;
    INFO(int(row.kind) << " " << row.root);
    CHECK(rig.both(row.kind, row.root) == "");
    CHECK(rig.arrays() == row.after);
  }
}

TEST_CASE("collectives that reduce") {
  {
    Rig rig;
    CHECK(rig.both(Kind::reduce, 1) == "");
    CHECK(rig.reductions() == std::vector<Rig::Reduction>{{rig.address(6), kCount, {rig.address(0), rig.address(4)}}});
  }
  {
    Rig rig;
    CHECK(rig.both(Kind::all_reduce) == "");
    CHECK(rig.reductions() == std::vector<Rig::Reduction>{{rig.address(2), kCount, {rig.address(0), rig.address(4)}}});
    CHECK(rig.arrays()[6] == '2');  // the other's copy of the result
  }
  Rig rig;
  CHECK(rig.both(Kind::reduce_scatter) == "");
  CHECK(rig.reductions() == std::vector<Rig::Reduction>{{rig.address(2), kCount, {rig.address(0), rig.address(4)}},
                                                        {rig.address(6), kCount, {rig.address(1), rig.address(5)}}});
}

TEST_CASE("sends meet their receives, in order, in one group or from two threads") {
  Rig rig;
  std::vector<Clique::Said> calls{rig.said(0, Kind::receive, 1), rig.said(1, Kind::send, 0), rig.said(0, Kind::send, 0),
                                  rig.said(0, Kind::receive, 0)};
  calls[3].call.to = rig.array(3);
  CHECK(rig.clique->submit(calls) == "");
  CHECK(rig.arrays() == "01404567");
  std::string other;
  std::thread sender([&] { other = rig.clique->submit(std::vector{rig.said(0, Kind::send, 1)}); });
  CHECK(rig.clique->submit(std::vector{rig.said(1, Kind::receive, 0)}) == "");
  sender.join();
  CHECK(other == "");
  CHECK(rig.arrays() == "01404507");
}

TEST_CASE("a rank that calls from its own thread waits for the others, and its work follows theirs") {
  Rig rig;
  for (int round = 0; round < 200; round++) {
    std::string other;
    std::thread second([&] {
      cudaMemset(rig.array(4), round % 10, kBytes);
      other = rig.clique->submit(std::vector{rig.said(1, Kind::broadcast, 1)});
    });
    std::string mine = rig.clique->submit(std::vector{rig.said(0, Kind::broadcast, 1)});
    unsigned char got = 99;
    REQUIRE(cudaMemcpy(&got, rig.array(2), 1, cudaMemcpyDeviceToHost) == cudaSuccess);
    second.join();
    REQUIRE((mine.empty() && other.empty()));
    REQUIRE(got == round % 10);
  }
}

TEST_CASE("ranks that disagree are told, all of them, and nothing is posted") {
  Rig rig;
  std::vector<Clique::Said> calls{rig.said(0, Kind::broadcast), rig.said(1, Kind::all_reduce)};
  CHECK(rig.clique->submit(calls).find("different collectives") != std::string::npos);
  CHECK(rig.both(Kind::broadcast).find("different collectives") != std::string::npos);  // for good
  CHECK(rig.arrays() == "01234567");
  Rig sizes;
  calls = {sizes.said(0, Kind::send, 1), sizes.said(1, Kind::receive, 0, kCount - 1)};
  CHECK(sizes.clique->submit(calls).find("different sizes") != std::string::npos);
  CHECK(sizes.arrays() == "01234567");
}

TEST_CASE("who waits for a rank that aborts is told") {
  Rig rig;
  std::string why;
  std::thread waiter([&] { why = rig.clique->submit(std::vector{rig.said(0, Kind::all_reduce)}); });
  rig.clique->abort("rank 1 is gone");
  waiter.join();
  CHECK(why == "rank 1 is gone");
}

TEST_CASE("a rank joins once, on a device of its own") {
  Clique clique(3);
  CHECK(clique.join(1, 0) == "");
  CHECK(clique.join(1, 1).find("already") != std::string::npos);
  CHECK(clique.join(0, 0).find("several ranks on device 0") != std::string::npos);
  CHECK(clique.join(0, 1) == "");
}

TEST_CASE("child: a collective whose session is lost", "[.][collective-lost]") {
  Rig rig;
  std::string why;
  std::thread waiter([&] { why = rig.clique->submit(std::vector{rig.said(0, Kind::all_reduce)}); });
  fake().lose("djinn-gpu-server at x: gone");
  waiter.join();
  CHECK(why == "the session is lost");
  printf("told in time\n");
  fflush(stdout);
  _exit(0);  // the rig's own end would wait for a session
}
TEST_CASE("who waits when the session is lost is told") {
  CHECK(run_case("collective-lost", {"DJINN_SERVER=tcp://127.0.0.1:1"}).output.find("told in time") != std::string::npos);
}

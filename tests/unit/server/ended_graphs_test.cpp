// Graphs of ended sessions: which ones are kept.
#include "server/broker/ended_graphs.hpp"

#include "tests/unit/catch.hpp"

using djinn::server::EndedGraphs;
using djinn::server::kGraphsKept;

TEST_CASE("ended graphs: the session that ended first is forgotten first, whatever its id") {
  EndedGraphs ended;
  CHECK(ended.newest() == 0);
  for (uint64_t id = 100; id < 100 + kGraphsKept; id++) ended.keep(id, {std::byte{1}});
  ended.keep(7, {std::byte{2}});  // it ran for long
  REQUIRE(ended.find(7));
  CHECK(*ended.find(7) == std::vector{std::byte{2}});
  CHECK_FALSE(ended.find(100));
  CHECK(ended.find(101));
  CHECK(ended.newest() == 99 + kGraphsKept);
}

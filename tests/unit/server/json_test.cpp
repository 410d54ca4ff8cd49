// What the server prints for programs: JSON that every parser reads, whatever a client called itself, with words for phases and residencies.
#include "server/control/json.hpp"

#include "server/control/stats.hpp"
#include "tests/unit/catch.hpp"
#include "tests/unit/wire/control_messages.hpp"

using namespace djinn;
using namespace djinn::server;
using namespace djinn::test;

TEST_CASE("json: text from strangers is escaped, and what is not UTF-8 is replaced") {
  auto text = [](const std::string& s) { return Json().field("x", s).object(); };
  CHECK(text("a\"b\\c\n\x7f") == R"({"x": "a\"b\\c\u000a\u007f"})");
  CHECK(text("größe 🙂") == "{\"x\": \"größe 🙂\"}");
  const std::string bad = "\xef\xbf\xbd";
  CHECK(utf8("a\xff") == "a" + bad);
  CHECK(utf8("\xc3") == bad);                                // cut off
  CHECK(utf8("\xc0\x80") == bad + bad);                      // overlong
  CHECK(utf8("\xe0\x80\x80") == bad + bad + bad);            // overlong
  CHECK(utf8("\xed\xa0\x80") == bad + bad + bad);            // a surrogate
  CHECK(utf8("\xf4\x90\x80\x80") == bad + bad + bad + bad);  // beyond Unicode
  CHECK(utf8("\xc3(") == bad + "(");
  CHECK(utf8("") == "");
}

TEST_CASE("json: statistics and graphs name phases and residencies, and leave out what is 0") {
  auto has = [](const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; };
  auto stats = full_stats();
  stats.sessions[0].meaning.steps = {0, 2, 0, 0, 7};
  std::string text = to_json(stats);
  CHECK(has(text, R"("steps": {"forward": 2, "llm_prefill": 7})"));
  CHECK(has(text, R"("phase": "llm_decode", "module": "transformer.h.3.mlp", "label": "warm-up")"));
  CHECK(has(text, R"("persistent_weight": 32)"));
  CHECK(has(text, R"("queued": 113)"));
  auto graph = full_graph();
  graph.nodes[1].phase = 99;
  text = to_json(graph);
  CHECK(has(text, R"({"op": "aten::mm", "module": "net.0", "label": "warm-up", "phase": "forward", "count": 2)"));
  CHECK(has(text, R"({"from": 0, "to": 1, "residency": "ephemeral_activation", "count": 3, "bytes": 4, "lifetime_ops": 5})"));
  CHECK(has(text, R"("phase": "unknown")"));
}

// The server's options: three sources, one precedence, no unknown name.
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "server/options.hpp"
#include "tests/unit/catch.hpp"

using namespace djinn::server;

namespace {

struct File {
  explicit File(const std::string& text) {
    char name[] = "/tmp/djinn-options-XXXXXX";
    close(mkstemp(name));
    path = name;
    std::ofstream(path) << text;
  }
  ~File() { std::filesystem::remove(path); }
  std::string path;
};

std::variant<Options, Said> parse(std::vector<std::string> words, const Environment& environment = {}) {
  words.insert(words.begin(), "djinn-gpu-server");
  std::vector<const char*> argv;
  for (auto& w : words) argv.push_back(w.c_str());
  return parse_options(static_cast<int>(argv.size()), argv.data(), environment);
}
Options good(std::vector<std::string> words, const Environment& environment = {}) {
  auto r = parse(std::move(words), environment);
  if (auto* said = std::get_if<Said>(&r)) FAIL(said->text);
  return std::get<Options>(r);
}
std::string bad(std::vector<std::string> words, const Environment& environment = {}) {
  auto r = parse(std::move(words), environment);
  auto* said = std::get_if<Said>(&r);
  if (!said) return "accepted";
  CHECK(said->status == 2);
  return said->text;
}
bool has(const std::string& text, const std::string& word) { return text.find(word) != std::string::npos; }

}  // namespace

TEST_CASE("options: defaults") {
  Options o = good({});
  REQUIRE(o.listen.size() == 1);
  CHECK(o.listen[0].text() == "tcp://127.0.0.1:5555");
  CHECK(o.data_port_first == 5557);
  CHECK(o.grace == std::chrono::seconds(60));
  CHECK(o.threads >= 1);
  CHECK(o.memory > 0);
  CHECK(o.idle_exit == std::chrono::seconds(0));
  CHECK_FALSE(o.check);
  CHECK(o.devices == 1);
}

TEST_CASE("options: command line over environment over file") {
  File f("grace = 1.5\nthreads = 3\nmemory = \"1GiB\"\nlisten = [\"tcp://127.0.0.1:7000\", \"tcp://127.0.0.1:8000\"]\ncheck = true\n");
  Environment e = {{"DJINN_SERVER_THREADS", "5"}, {"DJINN_SERVER_MEMORY", "2GiB"}, {"DJINN_SERVER", "tcp://is.the.clients:1"}, {"PATH", "x"}};
  Options o = good({"--config", f.path, "--memory", "4GiB"}, e);
  CHECK(o.memory == 4ull << 30);
  CHECK(o.threads == 5);
  CHECK(o.grace == std::chrono::milliseconds(1500));
  CHECK(o.listen.size() == 2);
  CHECK(o.check);
  o = good({"--config", f.path, "--listen", "ipc:///tmp/x/y"},
           {{"DJINN_SERVER_LISTEN", "tcp://127.0.0.1:1,tcp://127.0.0.1:2"}, {"DJINN_SERVER_CHECK", "false"}});
  REQUIRE(o.listen.size() == 1);
  CHECK(o.listen[0].text() == "ipc:///tmp/x/y");
  CHECK_FALSE(o.check);
  CHECK(good({}, {{"DJINN_SERVER_LISTEN", "tcp://127.0.0.1:1,tcp://127.0.0.1:2"}}).listen.size() == 2);
}

TEST_CASE("options: unknown names are refused wherever they stand") {
  CHECK(has(bad({"--bogus"}), "--bogus"));
  CHECK(has(bad({"positional"}), "positional"));
  CHECK(has(bad({}, {{"DJINN_SERVER_BOGUS", "1"}}), "DJINN_SERVER_BOGUS"));
  CHECK(has(bad({}, {{"DJINN_PERF", "no_pool,no_gravity"}}), "no_gravity"));
  File f("bogus = 1\n"), broken("a = = 2\n"), table("[memory]\nx = 1\n"), list("threads = [1, 2]\n");
  CHECK(has(bad({"--config", f.path}), "bogus"));
  CHECK(has(bad({"--config", broken.path}), broken.path + ":1"));
  CHECK(has(bad({"--config", table.path}), "memory"));
  CHECK(has(bad({"--config", list.path}), "threads"));
  CHECK(has(bad({"--config", "/no/such/file"}), "/no/such/file"));
}

TEST_CASE("options: bad values are refused with where they were written") {
  CHECK(has(bad({"--memory", "8Gib"}), "--memory: '8Gib'"));
  CHECK(has(bad({}, {{"DJINN_SERVER_GRACE", "soon"}}), "DJINN_SERVER_GRACE: 'soon'"));
  CHECK(has(bad({"--device", "cuda"}), "cuda"));
  CHECK(has(bad({"--listen", "http://x:1"}), "http://x:1"));
  CHECK(has(bad({"--threads", "0"}), "'0'"));
  CHECK(has(bad({"--devices", "0"}), "'0'"));
  CHECK(has(bad({"--devices", "9"}), "--devices: '9' is not a number between 1 and 8"));
  CHECK(has(bad({"--threads", "1e3"}), "1e3"));
  CHECK(has(bad({"--grace", "-1"}), "-1"));
  CHECK(has(bad({"--grace", "nan"}), "nan"));
  CHECK(has(bad({"--data-ports", "9-8"}), "9-8"));
  CHECK(has(bad({"--data-ports", "70000"}), "70000"));
  CHECK(has(bad({"--log-level", "loud"}), "loud"));
  CHECK(has(bad({"--torch", "/no/such"}), "/no/such"));
  CHECK(has(bad({}, {{"DJINN_SERVER_CHECK", "maybe"}}), "maybe"));
  File f("grace = \"x\"\n");
  CHECK(has(bad({"--config", f.path}), f.path + ": grace"));
}

TEST_CASE("options: addresses other than loopback need to be allowed") {
  for (const char* e : {"tcp://0.0.0.0:5555", "tcp://192.168.1.2:5555", "tcp://[::]:5555", "tcp://example.org:5555"}) {
    CHECK(has(bad({"--listen", e}), "--allow-unauthenticated"));
    CHECK(good({"--listen", e, "--allow-unauthenticated"}).listen.size() == 1);
  }
  for (const char* e : {"tcp://127.0.0.1:5555", "tcp://127.3.4.5:1", "tcp://[::1]:5555", "tcp://localhost:1", "ipc:///tmp/x"})
    CHECK(good({"--listen", e}).listen.size() == 1);
}

TEST_CASE("options: what people and machines look at") {
  Options o = good({});
  CHECK_FALSE(o.metrics);
  CHECK(o.log_format == "text");
  o = good({"--metrics", "127.0.0.1:9464"}, {{"DJINN_SERVER_LOG_FORMAT", "json"}});
  REQUIRE(o.metrics);
  CHECK(o.metrics->text() == "tcp://127.0.0.1:9464");
  CHECK(o.log_format == "json");
  CHECK(has(bad({"--metrics", "0.0.0.0:9464"}), "--allow-unauthenticated"));
  CHECK(good({"--metrics", "[::]:9464", "--allow-unauthenticated"}).metrics->host == "::");
  for (const char* e : {"9464", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", "/tmp/x"}) CHECK(has(bad({"--metrics", e}), e));
  CHECK(has(bad({"--log-format", "xml"}), "'xml' is neither text nor json"));
  o = good({"--graph", "ipc:///tmp/x", "--session", "7"});
  CHECK(o.graph == "ipc:///tmp/x");
  CHECK(o.session == 7);
  CHECK(has(bad({"--session", "7"}), "--graph"));
  CHECK(has(bad({"--graph", "ipc:///tmp/x", "--session", "x"}), "--session"));
}

TEST_CASE("options: the machine's memory is divided among the devices, given memory is each one's") {
  CHECK(good({"--devices", "8"}).devices == 8);
  CHECK(good({}, {{"DJINN_SERVER_DEVICES", "2"}}).devices == 2);
  uint64_t alone = good({}).memory, half = good({"--devices", "2"}).memory;
  CHECK(half <= alone / 2);
  CHECK(half > alone / 4);
  CHECK(good({"--devices", "2", "--memory", "4GiB"}).memory == 4ull << 30);
}

TEST_CASE("options: sizes") {
  uint64_t n = 0;
  CHECK((parse_size("512MiB", n) && n == 512ull << 20));
  CHECK((parse_size("8GiB", n) && n == 8ull << 30));
  CHECK((parse_size("100000000", n) && n == 100000000));
  for (const char* s : {"", "0", "GiB", "1GB", "-1", "1.5GiB", "99999999999TiB", "1 GiB", "0x10"}) CHECK_FALSE(parse_size(s, n));
}

TEST_CASE("options: help and version") {
  for (const char* word : {"--help", "--version"}) {
    auto r = parse({word});
    REQUIRE(std::get_if<Said>(&r));
    CHECK(std::get<Said>(r).status == 0);
    CHECK_FALSE(std::get<Said>(r).text.empty());
  }
  auto r = parse({"--help"});
  for (const char* word : {"--listen", "--torch", "--devices", "--grace", "environment", "--config"}) CHECK(has(std::get<Said>(r).text, word));
}

// See metrics.hpp.
#include "server/broker/metrics.hpp"

#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <prometheus/metric_family.h>

#include <mutex>

#include "semantic/graph/vocabulary.hpp"
#include "server/control/json.hpp"

namespace djinn::server {

namespace control = wire::control;
using control::Counters;
using Label = prometheus::ClientMetric::Label;
using prometheus::MetricType;

namespace {

// A scrape takes a millisecond; two may come at a time.
constexpr size_t kScrapeThreads = 2;

double seconds(uint64_t nanoseconds) { return static_cast<double>(nanoseconds) * 1e-9; }

// One scrape under construction.
class Page {
 public:
  void family(const char* name, const char* help, MetricType type) {
    auto& f = families.emplace_back();
    f.name = name;
    f.help = help;
    f.type = type;
  }
  void value(double v, std::vector<Label> labels = {}) {
    auto& m = families.back().metric.emplace_back();
    (families.back().type == MetricType::Counter ? m.counter.value : m.gauge.value) = v;
    for (Label& l : labels) l.value = utf8(l.value);
    m.label = std::move(labels);
  }
  void one(const char* name, const char* help, MetricType type, double v) {
    family(name, help, type);
    value(v);
  }
  std::vector<prometheus::MetricFamily> families;
};

// Of all sessions, living and ended: what only grows.
class Sums {
 public:
  explicit Sums(const control::StatsReply& s) : s_(s) {}
  uint64_t of(uint64_t Counters::*field) const {
    uint64_t sum = s_.ended.*field;
    for (const Counters& c : s_.sessions) sum += c.*field;
    return sum;
  }
  uint64_t of(std::vector<uint64_t> control::Meaning::*field, size_t index, bool ended = true) const {
    auto at = [&](const Counters& c) { return index < (c.meaning.*field).size() ? (c.meaning.*field)[index] : 0; };
    uint64_t sum = ended ? at(s_.ended) : 0;
    for (const Counters& c : s_.sessions) sum += at(c);
    return sum;
  }

 private:
  const control::StatsReply& s_;
};

void add_server(Page& page, const control::StatsReply& s, const Sums& sums) {
  auto count = static_cast<double>(s.sessions.size());
  page.one("djinn_sessions", "Sessions that are open", MetricType::Gauge, count);
  page.one("djinn_sessions_opened_total", "Sessions that have been opened", MetricType::Counter, static_cast<double>(s.sessions_opened));
  page.one("djinn_sessions_ended_total", "Sessions that have ended", MetricType::Counter, static_cast<double>(s.sessions_ended));
  page.one("djinn_refused_opens_total", "Sessions that were refused", MetricType::Counter, static_cast<double>(s.refused_opens));
  page.family("djinn_rejected_total", "Messages that were dropped, by reason", MetricType::Counter);
  for (const std::string& entry : s.rejected)
    if (size_t colon = entry.rfind(": "); colon != entry.npos)
      page.value(static_cast<double>(std::strtoull(entry.c_str() + colon + 2, nullptr, 10)), {{"reason", entry.substr(0, colon)}});
  page.one("djinn_memory_total_bytes", "Memory of the devices", MetricType::Gauge, static_cast<double>(s.memory_total));
  page.one("djinn_memory_leased_bytes", "Memory that sessions have a lease on", MetricType::Gauge, static_cast<double>(s.memory_leased));
  auto sum = [&](const char* name, const char* help, uint64_t Counters::*field) {
    page.one(name, help, MetricType::Counter, static_cast<double>(sums.of(field)));
  };
  sum("djinn_frames_total", "Frames received", &Counters::frames);
  sum("djinn_bytes_total", "Bytes received", &Counters::bytes);
  sum("djinn_commands_total", "Commands executed", &Counters::commands);
  sum("djinn_calls_total", "Library calls executed", &Counters::calls);
  sum("djinn_errors_total", "Commands that failed", &Counters::errors);
  sum("djinn_violations_total", "Violations that --check has found", &Counters::violations);
  sum("djinn_launches_refused_total", "Kernels that no device here can run", &Counters::launches_refused);
  page.one("djinn_executor_seconds_total", "Time that executors were at work", MetricType::Counter, seconds(sums.of(&Counters::execute_nanoseconds)));
  page.one("djinn_open_seconds_total", "Time that sessions were open; executor seconds are a share of it", MetricType::Counter,
           seconds(sums.of(&Counters::open_nanoseconds)));
}

void add_meaning(Page& page, const Sums& sums) {
  auto phases = [&](const char* name, const char* help, std::vector<uint64_t> control::Meaning::*field, bool time) {
    page.family(name, help, MetricType::Counter);
    for (size_t i = 0; i < graph::kExecutionPhases.size(); i++) {
      uint64_t n = sums.of(field, i);
      page.value(time ? seconds(n) : static_cast<double>(n), {{"phase", std::string(graph::kExecutionPhases[i])}});
    }
  };
  phases("djinn_steps_total", "Steps (outermost calls of modules) that are over, by phase", &control::Meaning::steps, false);
  phases("djinn_ops_total", "Ops executed, by phase", &control::Meaning::ops, false);
  phases("djinn_op_seconds_total", "Time that ops took, by phase", &control::Meaning::nanoseconds, true);
  page.family("djinn_tensor_bytes", "Bytes of living tensors, by what they are", MetricType::Gauge);
  for (size_t i = 0; i < graph::kDataResidencies.size(); i++)
    page.value(static_cast<double>(sums.of(&control::Meaning::memory, i, false)), {{"residency", std::string(graph::kDataResidencies[i])}});
}

void add_sessions(Page& page, const control::StatsReply& s) {
  auto each = [&](const char* name, const char* help, MetricType type, auto&& value) {
    page.family(name, help, type);
    for (const Counters& c : s.sessions) page.value(value(c), {{"session", std::to_string(c.session)}});
  };
  // What a session is called may change while it runs: as labels of its numbers that would begin new ones.
  page.family("djinn_session_info", "1; its labels say whose session it is", MetricType::Gauge);
  for (const Counters& c : s.sessions)
    page.value(1, {{"session", std::to_string(c.session)}, {"program", c.program}, {"name", c.meaning.name}, {"host", c.client_host}});
  auto number = [](uint64_t Counters::*field) { return [field](const Counters& c) { return static_cast<double>(c.*field); }; };
  each("djinn_session_ops_total", "Ops of a session", MetricType::Counter, number(&Counters::ops));
  each("djinn_session_bytes_total", "Bytes received of a session", MetricType::Counter, number(&Counters::bytes));
  each("djinn_session_executor_seconds_total", "Time that a session's executor was at work", MetricType::Counter,
       [](const Counters& c) { return seconds(c.execute_nanoseconds); });
  each("djinn_session_memory_bytes", "Memory that a session has mapped", MetricType::Gauge, number(&Counters::memory_bytes));
  each("djinn_session_queued_commands", "Commands of a session that have arrived and not been executed", MetricType::Gauge,
       number(&Counters::queued));
}

}  // namespace

class Metrics::Families final : public prometheus::Collectable {
 public:
  void publish(control::StatsReply s) {
    std::lock_guard lock(mutex_);
    stats_ = std::move(s);
  }
  std::vector<prometheus::MetricFamily> Collect() const override {
    control::StatsReply s;
    {
      std::lock_guard lock(mutex_);
      s = stats_;
    }
    Page page;
    Sums sums(s);
    add_server(page, s, sums);
    add_meaning(page, sums);
    add_sessions(page, s);
    return std::move(page.families);
  }

 private:
  mutable std::mutex mutex_;
  control::StatsReply stats_;
};

struct Metrics::Door {
  explicit Door(const std::string& address) : exposer(address, kScrapeThreads) {}
  prometheus::Exposer exposer;
};

Metrics::Metrics() : families_(std::make_shared<Families>()) {}
Metrics::~Metrics() = default;

std::string Metrics::listen(const std::string& host, uint16_t port) try {
  std::string address = host == "localhost" ? "127.0.0.1" : host;  // the exposer knows numbers only
  if (address.find(':') != address.npos) address = "[" + address + "]";
  door_ = std::make_unique<Door>(address + ":" + std::to_string(port));
  door_->exposer.RegisterCollectable(families_);
  return {};
} catch (const std::exception& e) {
  return "--metrics " + host + ":" + std::to_string(port) + ": " + e.what();
}

uint16_t Metrics::port() const {
  auto ports = door_ ? door_->exposer.GetListeningPorts() : std::vector<int>{};
  return ports.empty() ? uint16_t{0} : static_cast<uint16_t>(ports[0]);
}

void Metrics::publish(control::StatsReply stats) { families_->publish(std::move(stats)); }

}  // namespace djinn::server

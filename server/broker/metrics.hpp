// `--metrics HOST:PORT`: what the broker knows, for Prometheus. A scrape reads the numbers that the broker has published last (once a second); it
// asks nobody, waits for nobody, and has threads of its own. docs/grafana/djinn.json draws these metrics.
#pragma once
#include <memory>
#include <string>

#include "semantic/wire/control.hpp"

namespace djinn::server {

class Metrics {
 public:
  Metrics();
  ~Metrics();
  // An empty string, or why it cannot listen.
  std::string listen(const std::string& host, uint16_t port);
  uint16_t port() const;
  void publish(wire::control::StatsReply stats);

 private:
  class Families;
  struct Door;
  std::shared_ptr<Families> families_;
  std::unique_ptr<Door> door_;
};

}  // namespace djinn::server

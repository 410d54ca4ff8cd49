// Control messages with every field filled, for tests and fuzzers to start from.
#pragma once
#include "semantic/wire/control.hpp"

namespace djinn::test {

namespace control = wire::control;

inline control::Open full_open() {
  control::Open o;
  o.host = "client";
  o.program = "python train.py";
  o.pid = 4711;
  o.uid = 1000;
  o.torch = "2.14.1+cu130";
  o.torch_directory = "/somewhere/torch";
  o.level = control::Level::op;
  o.ranges = {{0x200000000000, 1ull << 36}, {0x300000000000, 1ull << 35}};
  return o;
}

inline control::Opened full_opened() {
  control::Opened o;
  o.session = 3;
  o.incarnation = 2;
  for (uint8_t i = 0; i < 16; i++) o.token[i] = static_cast<uint8_t>(0xf0 + i);
  o.endpoint = "tcp://127.0.0.1:5557";
  o.front_door = "tcp://127.0.0.1:5556";
  o.server_key = {1, 2, 3};
  o.range = {0x200000000000, 1ull << 36};
  o.level = control::Level::op;
  o.checks = true;
  o.computes_kernels = true;
  o.devices = {{"Djinn CPU", 1ull << 33, 1ull << 30, 9, 0, 16, 2048, 1500000, 1u << 20},
               {"another", 1ull << 32, 1ull << 29, 8, 6, 8, 1536, 1000000, 1u << 21}};
  o.server_host = "server";
  o.server_version = "0.1.0";
  o.torch = "2.14.1";
  o.server_pid = 1;
  o.worker_pid = 2;
  o.threads = 3;
  o.ops = {"aten::add.Tensor", "aten::mm", ""};
  return o;
}

inline control::Meaning full_meaning() {
  control::Meaning m;
  m.name = "my run";
  m.phase = 5;
  m.module = "transformer.h.3.mlp";
  m.label = "warm-up";
  m.steps = {1, 2, 3, 4, 5, 6, 7, 8};
  m.ops = {11, 12, 13, 14, 15, 16, 17, 18};
  m.nanoseconds = {21, 22, 23, 24, 25, 26, 27, 28};
  m.memory = {31, 32, 33, 34, 35, 36, 37};
  return m;
}

inline control::Counters full_counters() {
  control::Counters c;
  c.session = 1;
  c.client_pid = 2;
  c.worker_pid = 3;
  c.client_host = "client";
  c.program = "python";
  uint64_t n = 100;
  for (uint64_t* field : {&c.frames, &c.bytes, &c.commands, &c.ops, &c.calls, &c.launches_validated, &c.violations, &c.launches_refused, &c.errors,
                          &c.memory_bytes, &c.memory_peak, &c.execute_nanoseconds, &c.open_nanoseconds, &c.queued})
    *field = n++;
  c.meaning = full_meaning();
  return c;
}

inline control::Graph full_graph() {
  control::Graph g;
  g.session = 3;
  g.meaning = full_meaning();
  g.nodes = {{"aten::mm", "net.0", "warm-up", 1, 2, 3, 4, 5, {6, 7, 8, 9, 10, 11, 12}}, {"aten::gelu", "net.1", "", 2, 1, 1, 1, 1, {}}};
  g.edges = {{0, 1, 2, 3, 4, 5}, {1, 0, 6, 1, 1, 0}};
  g.nodes_left_out = 13;
  g.edges_left_out = 14;
  return g;
}

inline control::StatsReply full_stats() {
  control::StatsReply s;
  s.version = "0.1.0";
  s.pid = 9;
  s.sessions_opened = 2;
  s.sessions_ended = 1;
  s.refused_opens = 4;
  s.rejected = {"bad token: 3"};
  s.sessions = {full_counters(), {}};
  s.ended = full_counters();
  s.memory_total = 5;
  s.memory_leased = 6;
  return s;
}

}  // namespace djinn::test

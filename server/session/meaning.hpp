// What a session's program is doing: the executor thread feeds it with the records that it executes, the io thread asks it for the broker. Behind it
// is the graph (semantic/graph); here are the lock between the two threads and the knowledge of which record says what. Nothing depends on what is in
// it.
#pragma once
#include <mutex>

#include "semantic/graph/graph.hpp"
#include "semantic/wire/command.hpp"

namespace djinn::server {

class Meaning {
 public:
  // An op record that the executor has executed, and its answer. One that the graph does not understand is the executor's own: it is left out.
  void executed(wire::Opcode opcode, std::span<const std::byte> payload, std::span<const std::byte> reply, uint64_t nanoseconds);
  // Ops of CUDA graphs: checked and kept, run again, gone.
  void kept(uint64_t graph, std::span<const std::byte> payload);
  void ran_kept(uint64_t graph, uint64_t index, uint64_t nanoseconds);
  void dropped(uint64_t graph);
  // The meaning_* records: false when malformed.
  bool said(wire::Opcode opcode, std::span<const std::byte> payload);
  void uploaded(uint64_t address);
  // Call level: whether the hooks say which op calls belong to (asked by the executor thread only), and how long one of them took.
  bool calls_are_meant() const { return calls_are_meant_; }
  void called(uint64_t nanoseconds);

  wire::control::Meaning now() const;
  // `last`: the session is over, and so are its open steps.
  wire::control::Graph snapshot(uint64_t session, bool last);

 private:
  mutable std::mutex mutex_;  // held for a fraction of a microsecond by the executor, for milliseconds by a snapshot
  graph::SemanticGraph graph_;
  bool calls_are_meant_ = false;
};

}  // namespace djinn::server

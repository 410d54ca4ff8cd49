// The words for what a program is doing. The hooks decide them from facts (who asked autograd, whose memory it is, how many queries meet how many
// keys), the wire carries them as numbers, server/session/meaning sums by them, and people read their names. Nothing that is computed depends on
// them.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace djinn::graph {

// Of an op, and of a step (the outermost call of a module).
enum class ExecutionPhase : uint8_t {
  other = 0,        // outside of modules, autograd and optimizers: data, sampling, metrics
  forward = 1,      // autograd may record, or a step that is none of those below
  backward = 2,     // autograd evaluates a node
  optimizer = 3,    // inside of an optimizer's step
  llm_prefill = 4,  // without autograd: attention whose keys and values outlive the step, and no decode
  llm_decode = 5,   // without autograd: one query per sequence meets the keys of those before it
  vision_encoding = 6,
  audio_encoding = 7,
};
inline constexpr std::array<std::string_view, 8> kExecutionPhases = {"other",       "forward",    "backward",        "optimizer",
                                                                     "llm_prefill", "llm_decode", "vision_encoding", "audio_encoding"};

// Of a tensor's memory, by who owns it.
enum class DataResidency : uint8_t {
  other = 0,
  persistent_weight = 1,     // parameters and buffers of modules, and leaves that autograd collects gradients for
  ephemeral_activation = 2,  // made by a forward step; dies with it or with the backward
  stateful_kv_cache = 3,     // feeds the attention of a prefill or decode, and outlives it
  gradient = 4,              // made while autograd evaluates a node
  optimizer_state = 5,       // made by an optimizer's step, and outlives it
  input = 6,                 // came from the host, or was made outside of steps
};
inline constexpr std::array<std::string_view, 7> kDataResidencies = {
    "other", "persistent_weight", "ephemeral_activation", "stateful_kv_cache", "gradient", "optimizer_state", "input"};

// What an op of this phase makes, until somebody says otherwise; an optimizer's state shows at the end of its step.
constexpr DataResidency made_in(ExecutionPhase p) {
  switch (p) {
    case ExecutionPhase::other: return DataResidency::input;
    case ExecutionPhase::backward: return DataResidency::gradient;
    case ExecutionPhase::forward:
    case ExecutionPhase::optimizer:
    case ExecutionPhase::llm_prefill:
    case ExecutionPhase::llm_decode:
    case ExecutionPhase::vision_encoding:
    case ExecutionPhase::audio_encoding: return DataResidency::ephemeral_activation;
  }
  return DataResidency::other;
}

// Whoever knows the op knows it too; the rest is for the program to say.
constexpr bool shows_itself(DataResidency r) {
  return r == DataResidency::ephemeral_activation || r == DataResidency::gradient || r == DataResidency::input;
}

constexpr std::string_view name(ExecutionPhase p) { return kExecutionPhases[static_cast<size_t>(p)]; }
constexpr std::string_view name(DataResidency r) { return kDataResidencies[static_cast<size_t>(r)]; }
// Numbers from a peer.
constexpr bool known_phase(uint64_t n) { return n < kExecutionPhases.size(); }
constexpr bool known_residency(uint64_t n) { return n < kDataResidencies.size(); }

}  // namespace djinn::graph

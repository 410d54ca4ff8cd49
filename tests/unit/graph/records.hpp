// Records as a client's hooks write them: ops with tensors, contexts, steps. For tests, fuzzers and benches of what reads them.
#pragma once
#include <initializer_list>
#include <string_view>
#include <utility>
#include <vector>

#include "semantic/wire/codec.hpp"
#include "semantic/wire/command.hpp"
#include "semantic/wire/op.hpp"

namespace djinn::test {

using Bytes = std::vector<std::byte>;
using Words = std::vector<uint64_t>;  // of a value
constexpr uint8_t kFloat = 6;         // c10::ScalarType

inline Bytes define_op(uint64_t id, std::string_view name, std::string_view overload = "") {
  Bytes b;
  wire::Writer w(b);
  w.put(wire::op::OpDefine{id});
  w.put_string(name);
  w.put_string(overload);
  return b;
}

inline Bytes define_tensor(uint32_t id, uint64_t address, const std::vector<int64_t>& sizes, uint8_t dtype = kFloat) {
  wire::op::TensorDefine d{};
  d.id = id;
  d.rank = static_cast<uint8_t>(sizes.size());
  d.dtype = dtype;
  d.address = address;
  std::vector<int64_t> strides(sizes.size());
  uint64_t stride = 1;  // may wrap, where a test wants more than there is
  for (size_t i = sizes.size(); i--; stride *= static_cast<uint64_t>(sizes[i])) strides[i] = static_cast<int64_t>(stride);
  d.storage_bytes = stride * 4;
  Bytes b;
  wire::Writer w(b);
  w.put(d);
  for (int64_t n : sizes) w.put(n);
  for (int64_t n : strides) w.put(n);
  return b;
}

inline uint64_t tensor(uint32_t id) { return wire::op::word(wire::op::Tag::tensor, 0, 0, id); }
inline uint64_t alias(uint32_t argument) { return wire::op::word(wire::op::Tag::alias, 0, 0, argument); }
inline uint64_t none() { return wire::op::word(wire::op::Tag::none); }
inline uint64_t undefined() { return wire::op::word(wire::op::Tag::undefined); }
inline uint64_t boolean(bool b) { return wire::op::word(wire::op::Tag::boolean, b); }
inline uint64_t list(wire::op::ListKind kind, uint32_t n) { return wire::op::word(wire::op::Tag::list, static_cast<uint8_t>(kind), 0, n); }

// `arguments` and `outputs` count values of the schema; the words are theirs in order. Context 0: none is given.
inline Bytes run_op(uint32_t op, uint16_t arguments, uint16_t outputs, const std::vector<uint64_t>& words, wire::op::OpContext context = {},
                    uint32_t flags = 0) {
  Bytes b;
  wire::Writer w(b);
  w.put(wire::op::OpHead{op, arguments, outputs, flags | (context.context ? wire::op::kContextGiven : 0u), 0});
  for (uint64_t word : words) w.put(word);
  if (context.context) w.put(context);
  return b;
}

// An op by its name: each value is its words.
inline Bytes call_op(std::string_view name, const std::vector<Words>& values, const std::vector<std::pair<std::string_view, Words>>& keywords = {}) {
  Bytes b;
  wire::Writer w(b);
  w.put(wire::op::OpCall{static_cast<uint32_t>(values.size()), static_cast<uint32_t>(keywords.size())});
  w.put_string(name);
  auto put = [&](const Words& words) {
    for (uint64_t word : words) w.put(word);
  };
  for (const auto& value : values) put(value);
  for (const auto& [keyword, value] : keywords) w.put_string(keyword), put(value);
  return b;
}

// What an executor answers. Each of `words` is a result's; `returns` says how many results they are, if one of them is a list.
inline Bytes answer(uint64_t stash, const std::vector<Words>& words, uint64_t returns = 0) {
  Bytes b;
  wire::Writer w(b);
  w.put(stash);
  w.put(returns ? returns : words.size());
  for (const auto& result : words)
    for (uint64_t word : result) w.put(word);
  return b;
}
inline Words result(const std::vector<uint64_t>& sizes, uint32_t index) {
  Words words{wire::op::word(wire::op::Tag::tensor, static_cast<uint8_t>(sizes.size()), kFloat, index)};
  words.insert(words.end(), sizes.begin(), sizes.end());
  words.resize(words.size() + sizes.size(), 1);  // strides
  return words;
}

inline Bytes context(uint64_t id, graph::ExecutionPhase phase, std::string_view module, std::string_view label = "") {
  Bytes b;
  wire::Writer w(b);
  w.put(wire::MeaningContext{id, static_cast<uint64_t>(phase)});
  w.put_string(module);
  w.put_string(label);
  return b;
}

template <class Fixed>
Bytes fixed(const Fixed& f) {
  Bytes b;
  wire::Writer(b).put(f);
  return b;
}

inline Bytes step_over(uint64_t number, graph::ExecutionPhase phase) { return fixed(wire::MeaningStep{number, static_cast<uint64_t>(phase), 0, 0}); }

inline Bytes residencies(const std::vector<uint64_t>& pairs) {
  Bytes b;
  wire::Writer(b).put_array(std::span<const uint64_t>(pairs));
  return b;
}

inline Bytes named(std::string_view name) {
  Bytes b;
  wire::Writer(b).put_string(name);
  return b;
}

}  // namespace djinn::test

// Op records: words → IValues, the mirror of hooks/torch/encode. The schema says what may stand in each place; the first thing that does not fit
// sticks, and the caller asks once.
#pragma once
#include <bit>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "semantic/wire/op.hpp"
#include "server/execute/cpu/aten/limits.hpp"
#include "server/execute/cpu/aten/ops.hpp"
#include "server/execute/cpu/aten/tensors.hpp"

namespace djinn::aten {

// One place where a result goes: element `element` of return `index`, or the whole return when it is not a list.
struct Output {
  uint16_t index;
  bool in_list;
  uint32_t element;
  uint32_t tensor;  // interned id
};

// A tensor that the op reads or writes, for the checks before and after it.
struct Touched {
  uint32_t tensor;
  uint16_t argument;
  bool in_list;
};

struct Decoded {
  Stack stack;
  std::vector<Touched> touched;
  std::vector<Output> outputs;
  wire::op::Generator generator{};
  uint32_t flags = 0;
  uint8_t reduced = 0;   // which reduced-precision dtypes occur (reduced.hpp)
  bool special = false;  // composite tensors, conjugate or negative bits: needs the whole dispatcher

  void clear() {
    stack.clear();
    touched.clear();
    outputs.clear();
    generator = {};
    reduced = 0;
    special = false;
  }
};

// The values of an op_call, before a schema is found that takes them. While they are only given, a Touched's argument is the number of the value:
// first those by position, then those by keyword.
struct Given {
  std::string name;
  Stack positional;
  std::vector<std::pair<std::string, c10::IValue>> keywords;
};

// Ready-made tensors for wrapped numbers and other host scalars, which come by value with every use.
class HostScalars {
 public:
  at::Tensor get(c10::ScalarType dtype, uint16_t flags, uint64_t bits);
  void clear() {
    for (auto& e : entries_) e = {};
  }

 private:
  struct Entry {
    uint64_t key = 0, bits = 0;
    at::Tensor tensor;
  };
  Entry entries_[kScalarCacheSize];
};

class Decoder {
 public:
  Decoder(TensorTable& tensors, HostScalars& scalars) : tensors_(tensors), scalars_(scalars) {}
  // Reads the record after its head. False: problem() says what is wrong, and `illegal()` whether it is memory outside the session's. `places`: gets
  // the index in `body` of each word that names an interned tensor.
  bool decode(const Op& op, const wire::op::OpHead& head, std::span<const std::byte> body, Decoded& out, std::vector<uint32_t>* places = nullptr);
  // The same for an op_call; `given` has the name as soon as that is read.
  bool decode_call(std::span<const std::byte> payload, Given& given, Decoded& out);
  const char* problem() const { return problem_; }
  bool illegal() const { return illegal_; }

 private:
  void begin(std::span<const std::byte> body, Decoded& out);
  void argument(const Argument& a);
  c10::IValue value();
  void composite(uint64_t w, bool written);
  void list(const Argument& a, uint64_t w);
  void output(const Op& op, uint16_t index);
  bool output_tensor(uint64_t w, uint16_t index, bool in_list, uint32_t element);
  void sections(uint32_t flags);
  at::Tensor tensor(uint64_t w, bool written, bool in_list);
  at::Tensor interned(uint32_t id, bool written, bool in_list);
  at::Tensor host_tensor(uint64_t w, bool written);
  at::Tensor sparse(uint64_t w, bool written);
  at::Tensor compressed(uint64_t w, bool written);
  at::Tensor nested(bool written);
  at::Tensor quantized(uint64_t w, bool written);
  bool number(uint64_t w, c10::IValue& v);
  std::span<const int64_t> sizes(uint32_t rank);
  std::string text(uint32_t bytes);
  // Next word; 0 (the tag `none`) after a failure.
  uint64_t word() {
    if (cur_ == end_) return fail("op record ends early"), 0;
    return *cur_++;
  }
  double real() { return std::bit_cast<double>(word()); }
  void fail(const char* why) {
    if (!problem_) problem_ = why;
    cur_ = end_;
  }
  // The word just read names an interned tensor.
  void note_place() {
    if (places_) places_->push_back(static_cast<uint32_t>(cur_ - 1 - begin_));
  }
  void generator_in_memory();
  bool room(uint64_t words) {
    if (words > static_cast<uint64_t>(end_ - cur_)) return fail("op record ends early"), false;
    return true;
  }

  TensorTable& tensors_;
  HostScalars& scalars_;
  std::vector<uint32_t>* places_ = nullptr;
  const uint64_t* begin_ = nullptr;
  const uint64_t* cur_ = nullptr;
  const uint64_t* end_ = nullptr;
  Decoded* out_ = nullptr;
  uint64_t epoch_ = 0;
  uint16_t index_ = 0;  // of the argument being read
  const char* problem_ = nullptr;
  bool illegal_ = false;
  bool quantized_ = false;  // inside a quantized value
};

}  // namespace djinn::aten

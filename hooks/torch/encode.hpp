// From IValues to the words of semantic/wire/op.hpp. Tensor descriptions are interned per thread: a define record goes out before the op that first
// names it (the log keeps this thread's order), then a 32-bit id stands for it. While it writes, the encoder also collects the shape cache's key.
// Mirror: server/execute/cpu/aten/decode.
#pragma once
#include <ATen/ATen.h>

#include <cstdint>
#include <span>
#include <vector>

#include "semantic/wire/op.hpp"

namespace djinn::hook {

// One op under construction; one per thread, reused.
class Encoder {
 public:
  void start();  // room for the head
  void value(const c10::IValue& v);
  void output(const c10::IValue& v);  // of a return that the client has allocated
  void alias(size_t argument);
  void none() { words_.push_back(wire::op::word(wire::op::Tag::none)); }
  void empty_output_argument(const at::Tensor& t);  // out= of a server-first op
  void append(std::span<const uint64_t> words) { words_.insert(words_.end(), words.begin(), words.end()); }
  template <class G>  // op::Generator or op::GeneratorInMemory
  void generator(const G& g) {
    append({reinterpret_cast<const uint64_t*>(&g), sizeof g / 8});
  }
  void context(const wire::op::OpContext& c) { words_.push_back(uint64_t{c.step} << 32 | c.context); }  // after everything else
  void tensor(const at::Tensor& t);

  size_t position() const { return words_.size(); }
  std::span<const uint64_t> words() const { return words_; }
  std::span<const uint64_t> key() const { return key_; }
  bool keyed() const { return keyed_; }  // false: the key does not hold all that the shapes depend on
  void add_to_key(uint64_t v) { key_.push_back(v); }
  void finish(const wire::op::OpHead& head);  // writes the head
  const void* data() const { return words_.data(); }
  size_t bytes() const { return words_.size() * sizeof(uint64_t); }

 private:
  void host_tensor(const at::Tensor& t);
  void composite(const at::Tensor& t);
  void quantized(const at::Tensor& t);
  void list(const c10::IValue& v);
  void real(double d, bool in_list);
  void put_real(double d);

  std::vector<uint64_t> words_, key_;
  bool after_tensor_ = false, keyed_ = true;
};

// All ids of this thread are given back to the server when it ends or its table is full.
uint32_t intern(const at::Tensor& t);
// Between ops: forgets all of this thread's ids when its table is full.
void make_room();

}  // namespace djinn::hook

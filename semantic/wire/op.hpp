// Op messages: one framework operator with its tensors, as 64-bit words. hooks/torch writes them (hooks/torch/encode), server/execute/cpu/aten
// reads them (aten/decode). Names and tensor descriptions are interned: an in-order define record, then a 32-bit id.
// A word is {tag:8, a:8, b:16, id:32}; values that do not fit follow as whole words.
#pragma once
#include <cstdint>

namespace djinn::wire::op {

// op_define (post): OpDefine, put_string(name "aten::add"), put_string(overload "Tensor" or "")
struct OpDefine {
  uint64_t id;  // < kOpIdsMax
};
// tensor_define (post): TensorDefine, then rank sizes, rank strides (int64 each, in elements). A strided tensor on the device.
struct TensorDefine {
  uint32_t id;       // < kTensorIdsMax; a define of a live id replaces it
  uint8_t rank;      // ≤ kRankMax
  uint8_t dtype;     // c10::ScalarType (stable numbers)
  uint16_t flags;    // TensorFlag
  uint64_t address;  // of the storage's first byte
  uint64_t storage_bytes;
  int64_t offset;  // storage_offset in elements
};
static_assert(sizeof(TensorDefine) == 32);
enum TensorFlag : uint16_t { kWrappedNumber = 1, kConjugate = 2, kNegative = 4, kZeroTensor = 8, kQuantized = 16 };
// tensor_forget (post): put_array<uint32_t>(ids)

// op_run (post) and op_query (call): OpHead, then `arguments` values, then `outputs` output words, then the sections that flags announce.
struct OpHead {
  uint32_t op;         // id of op_define
  uint16_t arguments;  // schema order, all of them
  uint16_t outputs;    // one entry per schema return
  uint32_t flags;      // OpFlag
  uint32_t scope;      // id of the op scope this run belongs to, for --check and for errors; 0 = none
};
static_assert(sizeof(OpHead) == 16);
enum OpFlag : uint32_t {
  kHasGenerator = 1,   // after the outputs: Generator
  kDeterministic = 2,  // torch.use_deterministic_algorithms
  kFillUninitialised = 4,
  kAllowTf32 = 8,
  kGeneratorInMemory = 32,  // with kHasGenerator: the section is a GeneratorInMemory
  kContextGiven = 16,       // last: one word, OpContext
};
struct Generator {
  uint64_t seed, offset, offset_after;  // Philox: of the default or the given CUDA generator, before and after the original kernel
};

// Of an op in a CUDA graph: the program writes seed and offset into device memory before each launch, and the op adds its place in the graph.
struct GeneratorInMemory {
  uint64_t seed_address, offset_address;  // one uint64_t each, in live memory
  uint64_t intragraph, intragraph_after;  // added to the offset: before and after the original kernel
};

// What the op is part of (semantic/graph). Always the record's last word.
struct OpContext {
  uint32_t context;  // id of a meaning_context
  uint32_t step;     // number of the step (the outermost call of a module) that it belongs to; 0 = none
};

enum class Tag : uint8_t {
  none = 0,            // None
  undefined = 1,       // a Tensor that is not defined
  tensor = 2,          // id = interned tensor
  host_tensor = 3,     // a = rank, b = dtype | flags << 8; then byte count, sizes (rank words), data padded to 8. Contiguous.
  integer = 4,         // one word
  real = 5,            // one word, a double
  boolean = 6,         // a = 0 or 1
  complex = 7,         // two words
  string = 8,          // id = bytes; then padded bytes
  device = 9,          // a = 0 cpu, 1 this session's device; b = index
  list = 10,           // a = ListKind, id = length; then the elements as values (integers, reals and booleans as bare words)
  generator = 11,      // the Generator section speaks of it
  nested_tensor = 12,  // composite tensors: the members follow as values (layout in b); see hooks/torch/encode
  sparse_tensor = 13,
  compressed_tensor = 14,
  quantized_tensor = 15,
  alias = 16,   // outputs only: this return is argument `id` (in-place and out= ops); nothing to place
  symbol = 17,  // dtype, layout, memory format travel as integer; this tag is reserved
};
enum class ListKind : uint8_t { integers = 0, reals = 1, booleans = 2, tensors = 3, optional_tensors = 4, numbers = 5, strings = 6 };
constexpr uint64_t word(Tag t, uint8_t a = 0, uint16_t b = 0, uint32_t id = 0) {
  return static_cast<uint64_t>(t) | uint64_t{a} << 8 | uint64_t{b} << 16 | uint64_t{id} << 32;
}
constexpr Tag tag_of(uint64_t w) { return static_cast<Tag>(w & 0xff); }
constexpr uint8_t a_of(uint64_t w) { return static_cast<uint8_t>(w >> 8); }
constexpr uint16_t b_of(uint64_t w) { return static_cast<uint16_t>(w >> 16); }
constexpr uint32_t id_of(uint64_t w) { return static_cast<uint32_t>(w >> 32); }

// op_call (call): OpCall, put_string(name), `arguments` values in order, then `keywords` times put_string(keyword) and a value. Nobody has held a
// schema against them: the name is an operator's ("aten::add", its overloads are tried) or an overload's ("aten::add.Tensor"), what the schema has a
// default for may be left out. An empty list may be of any kind. Answered as op_query is, an alias being the number of the value given (those by
// keyword come last). For clients that know no schemas (hooks/coordinator).
struct OpCall {
  uint32_t arguments, keywords;  // kCallValuesMax together
};
static_assert(sizeof(OpCall) == 8);

// op_query's reply: u64 count of returns, then per return a value: host scalars as they are; a device tensor as `undefined` replaced by
// QueryTensor word {tag tensor, a = rank, b = dtype | flags << 8, id = index in the stash} followed by sizes and strides (span-preserving).
// The results stay in the session's stash (one per query, number in the reply's first word) until op_take has placed each and op_drop ends it.
struct OpTake {
  uint64_t stash;    // number given in the reply
  uint64_t index;    // of the tensor in it
  uint64_t address;  // where the client allocated it; spans sizes/strides exactly as replied
  uint64_t bytes;
};
// op_drop: wire::Handle{stash}

// scope (post): announces scope `id` = op id + outermost call; only sent when the session's server validates (--check).
struct Scope {
  uint32_t id, op;
};

}  // namespace djinn::wire::op

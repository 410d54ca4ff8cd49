// How many floating point operations an op is, from its name and its shapes. Products, convolutions and attention are counted as
// torch.utils.flop_counter counts them (a multiplication and an addition are two; a bias and a softmax are nothing beside them; a causal mask saves
// nothing; of a grouped convolution's weight gradient it counts the channels of all groups, we those of one), so that numbers can be compared with
// those of other tools; everything else is one per element. An estimate, for people and schedulers.
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace djinn::graph {

// The leading sizes of a tensor (a 3D convolution has five), and its last one, which is all that a product asks for.
constexpr size_t kSizesKept = 5;

struct Shape {
  std::array<uint64_t, kSizesKept> sizes{};
  uint32_t rank = 0;
  uint64_t elements = 0, last_size = 1;
  // The next size; the elements are the caller's, who knows what an overflow means.
  void push(uint64_t size) {
    if (rank < kSizesKept) sizes[rank] = size;
    ++rank;
    last_size = size;
  }
  uint64_t size(size_t i) const { return i < rank && i < kSizesKept ? sizes[i] : 0; }
  uint64_t last() const { return last_size; }
};

// Which formula.
enum class Cost : uint8_t {
  nothing,                 // moves data
  gather,                  // nothing; it reads as much of argument 0, a table, as it returns
  scatter,                 // nothing; in place it reads and writes as much of argument 0 as its last tensor, the source, has
  elements,                // 1 · elements of the outputs
  reduction,               // 1 · elements of the first argument
  product,                 // 2 · elements of the output · k: mm, bmm, mv, dot, linear …; k is the last size of argument 0
  product_after_bias,      // the same with argument 1: addmm, baddbmm, addmv
  product_over_batch,      // the same summed over the batch: addbmm
  convolution,             // 2 · elements of the output (transposed: of the input) · elements of one filter
  convolution_flagged,     // the same; argument 6 says whether it is transposed
  convolution_transposed,  // the same, always transposed
  convolution_backward,    // the forward's, for each of the gradients of input and weight; argument 7 says whether it is transposed
  attention,               // 2·b·h·q·k·(d + d_v): arguments 0 to 2 are query [b, h, q, d], key and value
  attention_heads_last,    // the same with query [b, q, h, d]
  attention_backward,      // 2·b·h·q·k·(3·d + 2·d_v): the scores again, and four products; arguments 1 to 3
  attention_backward_heads_last,
};

// By an op's name without its overload: "aten::addmm".
Cost cost_of(std::string_view op);

// What the formulas look at. A missing argument is an empty shape.
struct Shapes {
  std::array<const Shape*, 4> arguments{};
  std::span<const Shape* const> outputs;  // null: not wanted
  uint64_t true_arguments = 0;            // bit i: argument i is the boolean true
};
// Never more than kFlopsMax, whatever a stranger's shapes multiply to.
constexpr uint64_t kFlopsMax = uint64_t{1} << 62;
uint64_t flops(Cost cost, const Shapes& shapes);

}  // namespace djinn::graph

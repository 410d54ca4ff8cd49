// 4-bit weights as CUDA's tensor cores want them. The client holds them packed in CUDA's layout (it may have come from a file), so the layout is
// part of the contract: int32 [tiles of 8 rows][groups of tiles of 16 columns][32 lanes][words], a word holding what one lane needs of two tiles.
#include <ATen/ATen.h>

#include "server/execute/cpu/aten/rewrite.hpp"

namespace djinn::aten {

namespace {

using at::Tensor;

constexpr int64_t kRows = 8, kColumns = 16, kLanes = 32, kWordColumns = 2 * kColumns;

// Nibble s of a word stands 4 · s bits up. Of the columns of two tiles, lane q of a row's four has 2q, 2q + 1, 2q + 8, 2q + 9 of each; the even ones
// are the low half of the word.
Tensor shifts() { return at::arange(0, 32, 4, at::kLong); }

// (uint8 [n][k / 2], the even column in the high nibble; tiles per group)
void pack(Call& c) {
  const Tensor& pairs = c.tensor(0);
  int64_t group = c.stack[1].toInt() * kColumns, n = pairs.size(0), k = 2 * pairs.size(1);
  TORCH_CHECK(pairs.dim() == 2 && pairs.scalar_type() == at::kByte && group > 0 && group % kWordColumns == 0, c.op.base, ": not an int4 weight");
  int64_t tiles = (n + kRows - 1) / kRows, groups = (k + group - 1) / group;
  Tensor w = at::zeros({tiles * kRows, groups * group}, at::kLong);
  w.narrow(0, 0, n).narrow(1, 0, k).copy_(at::stack({pairs.bitwise_right_shift(4), pairs.bitwise_and(15)}, 2).view({n, k}));
  // tile, row, group, word, tile of two, half, quad, parity -> tile, group, row, quad, word, parity, tile of two, half
  Tensor lanes = w.view({tiles, kRows, groups, group / kWordColumns, 2, 2, 4, 2}).permute({0, 2, 1, 6, 3, 7, 4, 5});
  Tensor words = lanes.reshape({tiles, groups, kLanes, group / kWordColumns, 8}).bitwise_left_shift(shifts()).sum(-1);
  c.returns({words.to(at::kInt)});
}

// int32 packed -> [n][k], 0 … 15
Tensor unpack(const Tensor& packed) {
  int64_t tiles = packed.size(0), groups = packed.size(1), words = packed.size(3);
  Tensor nibbles = packed.to(at::kLong).unsqueeze(-1).bitwise_right_shift(shifts()).bitwise_and(15);
  return nibbles.view({tiles, groups, kRows, 4, words, 2, 2, 2})
      .permute({0, 2, 1, 4, 6, 7, 3, 5})
      .reshape({tiles * kRows, groups * words * kWordColumns});
}

// (x bfloat16 [m][k], packed, columns per scale, scales and zeros [k / group][n][2]): weights are (q - 8) · scale + zero, rounded to bfloat16
void product(Call& c) {
  const Tensor &x = c.tensor(0), &packed = c.tensor(1), &both = c.tensor(3);
  int64_t group = c.stack[2].toInt();
  TORCH_CHECK(packed.dim() == 4 && packed.size(2) == kLanes && both.dim() == 3 && both.size(2) == 2 && group > 0, c.op.base, ": not an int4 weight");
  Tensor q = unpack(packed);
  TORCH_CHECK(q.size(0) == both.size(1) && q.size(1) == x.size(1) && q.size(1) == group * both.size(0), c.op.base, ": shapes do not fit");
  Tensor parts = both.to(at::kFloat).permute({1, 0, 2}).unsqueeze(2);  // [n][k / group][1][2]
  Tensor w = q.sub(8).to(at::kFloat).view({q.size(0), -1, group}).mul(parts.select(3, 0)).add_(parts.select(3, 1));
  w = w.to(at::kBFloat16).to(at::kFloat).view_as(q);
  c.returns({at::mm(x.to(at::kFloat), w.t()).to(x.scalar_type())});
}

constexpr RewriteRule kRules[] = {
    {"aten::_convert_weight_to_int4pack", pack},
    {"aten::_weight_int4pack_mm", product},
};

}  // namespace

std::span<const RewriteRule> int4_rules() { return kRules; }

}  // namespace djinn::aten

// Random ops as CUDA's kernels draw them (philox.hpp): element → thread, round and lane of PyTorch's launch, words → value by PyTorch's formulas.
// The host's half of each op (checks, ranges, complex numbers as pairs of reals) is ATen's own templates with kernels of ours; nothing depends on how
// many threads the server has. What is derived, and what is repeatable only: docs/randomness.md. Nothing of it was compared with a GPU here, but the
// numbers that PyTorch's users have published for seeds 0 and 42 come out.
// CUDA's compiler contracts a*b+c, hence std::fma; its fast intrinsics (__logf, __sincosf) are computed exactly instead.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Dispatch_v2.h>
#include <ATen/ExpandUtils.h>
#include <ATen/TensorIterator.h>
#include <ATen/core/TransformationHelper.h>
#include <ATen/native/DistributionTemplates.h>

#include "server/execute/cpu/aten/failure.hpp"
#include "server/execute/cpu/aten/philox.hpp"
#include "server/execute/cpu/aten/rewrite.hpp"

namespace djinn::aten {

namespace {

using at::Tensor;
using at::TensorIteratorBase;
using Generator = std::optional<at::Generator>;

// Of the op that runs. Each launch inside it takes its words as PyTorch's philox_cuda_state hands them out.
struct Drawing {
  Philox state;
  DeviceShape device;
  Philox take(uint64_t words) {
    Philox now = state;
    state.offset += (words + 3) / 4 * 4;
    return now;
  }
};
thread_local Drawing* drawing = nullptr;  // ATen's templates make the kernels and pass nothing of ours
struct Draws : Drawing {
  explicit Draws(const Call& c) : Drawing{{c.generator.seed, c.generator.offset}, c.device} { drawing = this; }
  Draws(const Draws&) = delete;
  ~Draws() { drawing = nullptr; }
};

// libtorch's own threads share the work; this library has no OpenMP runtime. The iterator only counts: its data is an address that nobody reads.
constexpr int64_t kGrain = 2048;
template <class F>
void parallel(uint64_t n, F f) {
  char* base = reinterpret_cast<char*>(uintptr_t{1} << 20);
  Tensor range = at::from_blob(base, {static_cast<int64_t>(n)}, at::kByte);
  auto iter = at::TensorIteratorConfig().add_output(range).set_check_mem_overlap(false).check_all_same_dtype(false).resize_outputs(false).build();
  iter.for_each(
      [&](char** data, const int64_t*, int64_t count) {
        auto begin = static_cast<uint64_t>(data[0] - base);
        f(begin, begin + static_cast<uint64_t>(count));
      },
      kGrain);
}

// Where CUDA's offset calculator finds the element of a linear index: TensorIterator's dimensions, reordered and joined, the fastest first.
class Elements {
 public:
  explicit Elements(TensorIteratorBase& iter) : base_(static_cast<char*>(iter.data_ptr(0))), sizes_(iter.shape()), strides_(iter.strides(0)) {}
  char* operator()(uint64_t i) const {
    char* p = base_;
    for (size_t d = 0; d < sizes_.size(); d++) {
      auto size = static_cast<uint64_t>(sizes_[d]);
      p += static_cast<int64_t>(d + 1 == sizes_.size() ? i : i % size) * strides_[d];
      i /= size;
    }
    return p;
  }

 private:
  char* base_;
  at::IntArrayRef sizes_, strides_;
};

// distribution_nullary_kernel. `numbers` makes kUnroll values of one block of words, `transform` an element of one value.
template <class scalar_t, size_t kUnroll, class Numbers, class Transform>
void fill(TensorIteratorBase& iter, Numbers numbers, Transform transform) {
  auto elements = static_cast<uint64_t>(iter.numel());
  Launch launch(elements, kUnroll, drawing->device);
  Philox state = drawing->take(launch.increment());
  Elements at(iter);
  parallel(launch.rounds * launch.threads, [&](uint64_t begin, uint64_t end) {
    for (uint64_t b = begin; b < end; b++) {
      uint64_t round = b / launch.threads, thread = b % launch.threads, first = round * kUnroll * launch.threads + thread;
      if (first >= elements) continue;
      auto values = numbers(state.block(thread, round));
      for (uint64_t lane = 0; lane < kUnroll; lane++)
        if (uint64_t i = first + lane * launch.threads; i < elements) *reinterpret_cast<scalar_t*>(at(i)) = transform(values[lane]);
    }
  });
}

// Doubles are drawn by twos, everything else by fours in float.
template <class scalar_t>
using Real = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;

template <class scalar_t, class Transform>
void uniform_numbers(TensorIteratorBase& iter, Transform transform) {
  if constexpr (std::is_same_v<scalar_t, double>)
    fill<scalar_t, 2>(
        iter,
        [](const Words& w) {
          return std::array{uniform_double(w[0], w[1]), uniform_double(w[2], w[3])};
        },
        transform);
  else
    fill<scalar_t, 4>(
        iter,
        [](const Words& w) {
          return std::array{uniform(w[0]), uniform(w[1]), uniform(w[2]), uniform(w[3])};
        },
        transform);
}
template <class scalar_t, class Transform>
void normal_numbers(TensorIteratorBase& iter, Transform transform) {
  auto four = [](const Words& w) {
    auto [a, b] = normal_pair(w[0], w[1]);
    auto [c, d] = normal_pair(w[2], w[3]);
    return std::array{a, b, c, d};
  };
  if constexpr (std::is_same_v<scalar_t, double>) fill<scalar_t, 2>(iter, normal_pair_double, transform);
  else fill<scalar_t, 4>(iter, four, transform);
}
template <class scalar_t, class Transform>
void integers(TensorIteratorBase& iter, bool wide, Transform transform) {
  if (wide)
    fill<scalar_t, 2>(
        iter,
        [](const Words& w) {
          return std::array{pair(w[0], w[1]), pair(w[2], w[3])};
        },
        transform);
  else
    fill<scalar_t, 4>(
        iter, [](const Words& w) { return w; }, transform);
}

#define REALS(iter, name, ...) AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, (iter).dtype(), name, [&] { __VA_ARGS__ })
#define NUMBERS(iter, name, ...) AT_DISPATCH_ALL_TYPES_AND3(at::kHalf, at::kBFloat16, at::kBool, (iter).dtype(), name, [&] { __VA_ARGS__ })

template <class>
struct Uniform {
  void operator()(TensorIteratorBase& iter, double from_, double to_, Generator) const {
    REALS(iter, "uniform_", {
      auto from = static_cast<scalar_t>(from_), to = static_cast<scalar_t>(to_);
      auto low = static_cast<Real<scalar_t>>(from), range = static_cast<Real<scalar_t>>(static_cast<scalar_t>(to - from));
      uniform_numbers<scalar_t>(iter, [=](Real<scalar_t> u) {  // (from, to] becomes [from, to)
        auto value = static_cast<scalar_t>(std::fma(u, range, low));
        return value == to ? from : value;
      });
    });
  }
};
template <class>
struct Normal {
  void operator()(const Tensor& self, double mean_, double std_, Generator) const {
    auto iter = at::TensorIterator::borrowing_nullary_op(self);
    REALS(iter, "normal_", {
      auto mean = static_cast<Real<scalar_t>>(mean_), std = static_cast<Real<scalar_t>>(std_);
      normal_numbers<scalar_t>(iter, [=](Real<scalar_t> n) { return static_cast<scalar_t>(std::fma(n, std, mean)); });
    });
  }
};
template <class>
struct LogNormal {
  void operator()(TensorIteratorBase& iter, double mean_, double std_, Generator) const {
    REALS(iter, "log_normal_", {
      auto mean = static_cast<Real<scalar_t>>(mean_), std = static_cast<Real<scalar_t>>(std_);
      normal_numbers<scalar_t>(iter, [=](Real<scalar_t> n) { return static_cast<scalar_t>(std::exp(std::fma(n, std, mean))); });
    });
  }
};
template <class>
struct Exponential {
  void operator()(TensorIteratorBase& iter, double lambda_, Generator) const {
    REALS(iter, "exponential_", {
      auto lambda = static_cast<Real<scalar_t>>(lambda_);
      uniform_numbers<scalar_t>(iter, [=](Real<scalar_t> u) { return static_cast<scalar_t>(exponential(u, lambda)); });
    });
  }
};
template <class>
struct Cauchy {
  void operator()(TensorIteratorBase& iter, double median_, double sigma_, Generator) const {
    REALS(iter, "cauchy_", {
      auto median = static_cast<Real<scalar_t>>(median_), sigma = static_cast<Real<scalar_t>>(sigma_);
      uniform_numbers<scalar_t>(
          iter, [=](Real<scalar_t> u) { return static_cast<scalar_t>(at::transformation::cauchy<Real<scalar_t>>(u, median, sigma)); });
    });
  }
};
template <class>
struct Geometric {
  void operator()(TensorIteratorBase& iter, double p, Generator) const {
    AT_DISPATCH_ALL_TYPES_AND2(at::kHalf, at::kBFloat16, iter.dtype(), "geometric_", [&] {
      auto chance = static_cast<Real<scalar_t>>(p);
      uniform_numbers<scalar_t>(iter,
                                [=](Real<scalar_t> u) { return static_cast<scalar_t>(at::transformation::geometric<Real<scalar_t>>(u, chance)); });
    });
  }
};
template <class>
struct Random {
  void operator()(TensorIteratorBase& iter, Generator) const {
    NUMBERS(iter, "random_", {
      constexpr bool kWide = std::is_same_v<scalar_t, double> || std::is_same_v<scalar_t, int64_t>;
      integers<scalar_t>(iter, kWide, [](auto v) { return at::transformation::uniform_int<scalar_t>(v); });
    });
  }
};
template <class>
struct RandomFromTo {
  static constexpr uint64_t kWideRange = uint64_t{1} << 28;  // more would skew the remainder of 32 bits
  void operator()(TensorIteratorBase& iter, uint64_t range, int64_t base, Generator) const {
    AT_DISPATCH_V2(iter.dtype(), "random_", AT_WRAP([&] {
                     integers<scalar_t>(iter, range >= kWideRange,
                                        [=](auto v) { return at::transformation::uniform_int_from_to<scalar_t>(v, range, base); });
                   }),
                   AT_EXPAND(AT_ALL_TYPES), at::kBool, at::kHalf, at::kBFloat16, AT_EXPAND(AT_BAREBONES_UNSIGNED_TYPES));
  }
  void operator()(TensorIteratorBase& iter, Generator) const {  // all 64 bits
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kLong, at::kBFloat16, iter.dtype(), "random_", [&] {
      integers<scalar_t>(iter, true, [](auto v) { return at::transformation::uniform_int_full_range<scalar_t>(v); });
    });
  }
};
template <class>
struct Bernoulli {
  void operator()(const Tensor& self, double p, Generator) const {
    auto iter = at::TensorIterator::borrowing_nullary_op(self);
    NUMBERS(iter, "bernoulli_", {
      auto chance = static_cast<Real<scalar_t>>(p);
      uniform_numbers<scalar_t>(iter, [=](Real<scalar_t> u) { return static_cast<scalar_t>(u < chance); });
    });
  }
};
// Four neighbours, in the order of their indices, share a thread and its only block of words. PyTorch reserves ten words for each thread.
template <class>
struct BernoulliOf {
  static constexpr uint64_t kWords = 10;
  void operator()(const Tensor& self, const Tensor& p_, Generator) const {
    TORCH_CHECK(at::isFloatingType(p_.scalar_type()), "expected probabilities tensor to have floating type, got ", p_.scalar_type());
    Philox state = drawing->take(kWords);
    Tensor p = p_.to(self.scalar_type() == at::kDouble ? at::kDouble : at::kFloat).expand(self.sizes());
    if (!((p >= 0).logical_and_(p <= 1)).all().item<bool>()) throw DeviceAssertion("0 <= p && p <= 1");
    Tensor draws = at::empty(self.sizes(), p.options());
    auto elements = static_cast<uint64_t>(self.numel());
    AT_DISPATCH_FLOATING_TYPES(p.scalar_type(), "bernoulli_", [&] {
      auto* out = draws.mutable_data_ptr<scalar_t>();
      parallel((elements + 3) / 4, [&](uint64_t begin, uint64_t end) {
        for (uint64_t thread = begin; thread < end; thread++) {
          Words w = state.block(thread, 0);
          for (uint64_t lane = 0; lane < 4 && thread * 4 + lane < elements; lane++) out[thread * 4 + lane] = uniform(w[lane]);
        }
      });
    });
    const_cast<Tensor&>(self).copy_(draws <= p);
  }
};

namespace templates = at::native::templates;
struct Nothing {};  // the templates' generator type, which ours does not need

const Tensor& self_of(Call& c) { return c.tensor(0); }
double real_at(Call& c, size_t i) { return c.stack[i].toDouble(); }

void uniform_in_place(Call& c) {
  Tensor self = self_of(c);
  Draws draws(c);
  templates::uniform_impl_<Uniform, Nothing>(self, real_at(c, 1), real_at(c, 2), {});
  c.returns({self});
}
void normal_in_place(Call& c) {
  Tensor self = self_of(c);
  Draws draws(c);
  templates::normal_impl_<Normal, Nothing>(self, real_at(c, 1), real_at(c, 2), {});
  c.returns({self});
}
void log_normal_in_place(Call& c) {
  Tensor self = self_of(c);
  Draws draws(c);
  templates::log_normal_impl_<LogNormal, Nothing>(self, real_at(c, 1), real_at(c, 2), {});
  c.returns({self});
}
void cauchy_in_place(Call& c) {
  Tensor self = self_of(c);
  Draws draws(c);
  templates::cauchy_impl_<Cauchy, Nothing>(self, real_at(c, 1), real_at(c, 2), {});
  c.returns({self});
}
void exponential_in_place(Call& c) {
  Tensor self = self_of(c);
  Draws draws(c);
  templates::exponential_impl_<Exponential, Nothing>(self, real_at(c, 1), {});
  c.returns({self});
}
void geometric_in_place(Call& c) {
  Tensor self = self_of(c);
  Draws draws(c);
  templates::geometric_impl_<Geometric, Nothing>(self, real_at(c, 1), {});
  c.returns({self});
}
void random_in_place(Call& c) {
  Tensor self = self_of(c);
  Draws draws(c);
  templates::random_impl<Random, Nothing>(self, {});
  c.returns({self});
}
void random_to(Call& c) {
  Tensor self = self_of(c);
  Draws draws(c);
  templates::random_from_to_impl<RandomFromTo, Nothing>(self, 0, c.stack[1].toInt(), {});
  c.returns({self});
}
void random_from_to(Call& c) {
  Tensor self = self_of(c);
  Draws draws(c);
  templates::random_from_to_impl<RandomFromTo, Nothing>(self, c.stack[1].toInt(), c.stack[2].toOptional<int64_t>(), {});
  c.returns({self});
}
void bernoulli_in_place(Call& c) {
  Tensor self = self_of(c);
  Draws draws(c);
  templates::bernoulli_impl_<Bernoulli, Nothing>(self, real_at(c, 1), {});
  c.returns({self});
}
void bernoulli_of_in_place(Call& c) {
  Tensor self = self_of(c), p = c.tensor(1);
  Draws draws(c);
  templates::bernoulli_impl_<BernoulliOf, Nothing>(self, p, {});
  c.returns({self});
}
void bernoulli_out(Call& c) {
  Tensor p = self_of(c), out = c.tensor(2);
  Draws draws(c);
  templates::bernoulli_out_impl<BernoulliOf, Nothing>(out, p, {});
  c.returns({out});
}

// normal with a tensor among mean and std
template <bool kOut, class Mean, class Std>
void normal_of(Call& c, const Mean& mean, const Std& std) {
  Draws draws(c);
  if constexpr (kOut) {
    Tensor out = c.tensor(3);
    templates::normal_out_impl<Normal, Nothing>(out, mean, std, {});
    c.returns({out});
  } else {
    c.returns({templates::normal_impl<Normal, Nothing>(mean, std, {})});
  }
}
void check_std(const Tensor& std) {
  if (std.numel() && std.min().lt(0).item<bool>()) throw DeviceAssertion("normal expects all elements of std >= 0.0");
}
template <bool kOut>
void normal_of_mean(Call& c) {
  Tensor mean = c.tensor(0);
  normal_of<kOut>(c, mean, real_at(c, 1));
}
template <bool kOut>
void normal_of_std(Call& c) {
  Tensor std = c.tensor(1);
  check_std(std);
  normal_of<kOut>(c, real_at(c, 0), std);
}
template <bool kOut>
void normal_of_both(Call& c) {
  Tensor mean = c.tensor(0), std = c.tensor(1);
  check_std(std);
  normal_of<kOut>(c, mean, std);
}

// ---- dropout ----

// The width of the vectors in which the kernel reads: as much as 16 bytes and the address allow, without a remainder.
uint64_t dropout_vector(const Tensor& x) {
  if (!x.is_non_overlapping_and_dense()) return 1;
  auto bytes = static_cast<uint64_t>(x.element_size()), address = reinterpret_cast<uint64_t>(x.const_data_ptr());
  uint64_t vector = 8;
  while (vector > 1 && (vector * bytes > 16 || address % (vector * bytes) || static_cast<uint64_t>(x.numel()) % vector)) vector /= 2;
  return vector;
}

// Which elements of x stay; 1 and 0 in a mask of x's layout. `keep` is rounded as the kernel's accumulation type has it.
template <class mask_t>
void draw_mask(const Tensor& x, Tensor& mask, double keep) {
  auto elements = static_cast<uint64_t>(x.numel());
  Launch launch(elements, 4, drawing->device);
  Philox state = drawing->take(launch.increment());
  uint64_t vector = dropout_vector(x);
  if (vector == 1) {  // the grid-stride loop over row-major indices
    Tensor rows = at::empty(x.sizes(), mask.options());
    auto* out = rows.mutable_data_ptr<mask_t>();
    parallel(launch.rounds * launch.threads, [&](uint64_t begin, uint64_t end) {
      for (uint64_t b = begin; b < end; b++) {
        uint64_t round = b / launch.threads, thread = b % launch.threads, first = round * 4 * launch.threads + thread;
        if (first >= elements) continue;
        Words w = state.block(thread, round);
        for (uint64_t lane = 0; lane < 4; lane++)
          if (uint64_t i = first + lane * launch.threads; i < elements) out[i] = uniform(w[lane]) < keep;
      }
    });
    mask.copy_(rows);
    return;
  }
  // In memory order: each thread takes `vector` neighbours, and a new block of words for every four of them.
  auto* out = mask.mutable_data_ptr<mask_t>();
  uint64_t blocks = (vector + 3) / 4, lanes = std::min<uint64_t>(vector, 4);
  parallel(elements / lanes, [&](uint64_t begin, uint64_t end) {
    for (uint64_t b = begin; b < end; b++) {
      uint64_t unit = b / blocks, round = unit / launch.threads * blocks + b % blocks;
      Words w = state.block(unit % launch.threads, round);
      for (uint64_t lane = 0; lane < lanes; lane++) out[b * lanes + lane] = uniform(w[lane]) < keep;
    }
  });
}

template <class mask_t>
void dropout(Call& c, const Tensor& x, double keep) {
  Tensor mask = at::empty_like(x, x.options().dtype(c10::CppTypeToScalarType<mask_t>::value));
  if (!x.numel()) return c.returns({x.clone(), mask});
  Draws draws(c);
  double p = x.scalar_type() == at::kDouble ? keep : static_cast<double>(static_cast<float>(keep));
  draw_mask<mask_t>(x, mask, p);
  c.returns({x.mul(mask).mul_(1.0 / p), mask});
}
// (input, p, train)
void native_dropout(Call& c) {
  Tensor x = self_of(c);
  if (x.is_nested()) return c.op.handle.callBoxed(&c.stack);  // draws through the buffer's own kernel
  double p = real_at(c, 1);
  auto mask = x.options().dtype(at::kBool);
  if (c.stack[2].isBool() && !c.stack[2].toBool()) return c.returns({x.clone(), at::ones_like(x, mask)});
  if (p == 1) return c.returns({at::zeros_like(x), at::zeros_like(x, mask)});
  dropout<bool>(c, x, 1 - p);
}
// (self, p to keep, generator); one mask, uint8
void fused_dropout(Call& c) { dropout<uint8_t>(c, Tensor(self_of(c)), real_at(c, 1)); }

// ---- permutations ----

// Sorted by the low `bits` of the keys, stably, least significant digit first.
struct Keyed {
  uint64_t key;
  int64_t value;
};
void radix_sort(std::vector<Keyed>& v, int bits) {
  constexpr int kDigit = 11;
  std::vector<Keyed> other(v.size());
  for (int shift = 0; shift < bits; shift += kDigit) {
    uint64_t digits = uint64_t{1} << std::min(kDigit, bits - shift);
    std::vector<size_t> place(digits + 1);
    for (const Keyed& k : v) place[(k.key >> shift & (digits - 1)) + 1]++;
    for (size_t d = 1; d < digits; d++) place[d] += place[d - 1];
    for (const Keyed& k : v) other[place[k.key >> shift & (digits - 1)]++] = k;
    v.swap(other);
  }
}
// Equal keys would stay in order; the first of such an island shuffles it by words of its own.
void shuffle_islands(std::vector<Keyed>& v, const Philox& state) {
  for (size_t begin = 0, end; begin < v.size(); begin = end) {
    for (end = begin + 1; end < v.size() && v[end].key == v[begin].key;) end++;
    for (uint64_t i = end - begin - 1, n = 0; i > 0; i--, n++) std::swap(v[begin + i].value, v[begin + state.word(begin, n) % (i + 1)].value);
  }
}
// Keys with so many bits that all of them differ with a probability of 0.9.
int permutation_bits(int64_t n) {
  auto d = static_cast<double>(n);
  return std::min(64, static_cast<int>(std::ceil(std::log2(d - (6 * d * d + 1) / (std::log(0.9) * 12)))));
}
// (n, generator, out)
void randperm_out(Call& c) {
  int64_t n = c.stack[0].toInt();
  Tensor out = c.tensor(2);
  out.resize_({n});
  if (!n) return c.returns({out});
  Draws draws(c);
  int bits = permutation_bits(n);
  Tensor keys = at::empty({n}, bits <= 32 ? at::kInt : at::kLong);
  auto least = bits <= 32 ? int64_t{INT32_MIN} : INT64_MIN;
  templates::random_from_to_impl<RandomFromTo, Nothing>(keys, least, bits <= 32 ? int64_t{INT32_MAX} : INT64_MAX, {});
  keys = keys.to(at::kLong);
  uint64_t mask = bits == 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1;
  uint64_t sign = bits == 32 || bits == 64 ? uint64_t{1} << (bits - 1) : 0;  // signed keys are sorted as such when their sign takes part
  std::vector<Keyed> v(static_cast<size_t>(n));
  const auto* k = keys.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < n; i++) v[static_cast<size_t>(i)] = {(static_cast<uint64_t>(k[i]) & mask) ^ sign, i};
  radix_sort(v, bits);
  shuffle_islands(v, draws.take(static_cast<uint64_t>(n)));
  Tensor permutation = at::empty({n}, at::kLong);
  for (int64_t i = 0; i < n; i++) permutation.mutable_data_ptr<int64_t>()[i] = v[static_cast<size_t>(i)].value;
  out.copy_(permutation);
  c.returns({out});
}

// ---- multinomial ----

void check_probabilities(const Tensor& p) {
  if (!(p.max().lt(INFINITY).item<bool>() && p.min().ge(0).item<bool>()))
    throw DeviceAssertion("probability tensor contains either `inf`, `nan` or element < 0");
  if (p.sum(-1).eq(0).any().item<bool>()) throw DeviceAssertion("invalid multinomial distribution (sum of probabilities <= 0)");
}
// The largest of p / q, q exponential.
Tensor without_replacement(const Tensor& p, int64_t samples) {
  Tensor q = at::empty_like(p);
  templates::exponential_impl_<Exponential, Nothing>(q, 1, {});
  at::div_out(q, p, q);
  return samples == 1 ? q.argmax(-1, true) : std::get<1>(q.topk(samples));
}
// A thread for each sample, 128 to a block, and a row of blocks for each distribution.
Tensor with_replacement(const Tensor& p, int64_t samples) {
  constexpr uint64_t kBlock = 128, kGridRows = 65535;
  Tensor rows = p.dim() == 1 ? p.unsqueeze(0) : p;
  int64_t distributions = rows.size(0), categories = rows.size(1);
  auto grid_rows = std::min(static_cast<uint64_t>(distributions), kGridRows), width = (static_cast<uint64_t>(samples) - 1) / kBlock * kBlock + kBlock;
  Philox state = drawing->take(((static_cast<uint64_t>(distributions) - 1) / grid_rows + 1) * 4);
  Tensor chances = rows / rows.sum(1, true);
  Tensor sums = chances.cumsum(1).to(at::kDouble).contiguous();
  chances = chances.to(at::kDouble).contiguous();
  Tensor result = at::empty({distributions, samples}, at::kLong);
  auto* out = result.mutable_data_ptr<int64_t>();
  auto rounded = [type = p.scalar_type()](float u) -> double {
    return type == at::kHalf ? static_cast<float>(at::Half(u)) : type == at::kBFloat16 ? static_cast<float>(at::BFloat16(u)) : u;
  };
  parallel(static_cast<uint64_t>(distributions * samples), [&](uint64_t begin, uint64_t end) {
    for (uint64_t i = begin; i < end; i++) {
      uint64_t row = i / static_cast<uint64_t>(samples), sample = i % static_cast<uint64_t>(samples);
      const double* sum = sums.const_data_ptr<double>() + row * static_cast<uint64_t>(categories);
      const double* chance = chances.const_data_ptr<double>() + row * static_cast<uint64_t>(categories);
      double u = rounded(uniform(state.block(row % grid_rows * width + sample, row / grid_rows)[0]));
      int64_t k = std::min(categories - 1, std::lower_bound(sum, sum + categories, u) - sum);
      while (k > 0 && chance[k] == 0) k--;
      out[i] = k;
    }
  });
  return p.dim() == 1 ? result.squeeze(0) : result;
}
// (self, num_samples, replacement, generator[, out])
Tensor sample(Call& c) {
  Tensor p = self_of(c);
  int64_t samples = c.stack[1].toInt();
  if (!p.numel() || !samples) return at::empty(p.dim() == 1 ? std::vector{samples} : std::vector{p.size(0), samples}, at::kLong);
  check_probabilities(p);
  Draws draws(c);
  return c.stack[2].toBool() && samples > 1 ? with_replacement(p, samples) : without_replacement(p, samples);
}
void multinomial(Call& c) { c.returns({sample(c)}); }
void multinomial_out(Call& c) {
  Tensor result = sample(c), out = c.tensor(4);
  out.resize_(result.sizes()).copy_(result);
  c.returns({out});
}

constexpr RewriteRule kRandom[] = {
    {"aten::uniform_", uniform_in_place},
    {"aten::normal_", normal_in_place},
    {"aten::log_normal_", log_normal_in_place},
    {"aten::cauchy_", cauchy_in_place},
    {"aten::exponential_", exponential_in_place},
    {"aten::geometric_", geometric_in_place},
    {"aten::random_", random_in_place},
    {"aten::random_.to", random_to},
    {"aten::random_.from", random_from_to},
    {"aten::bernoulli_.float", bernoulli_in_place},
    {"aten::bernoulli_.Tensor", bernoulli_of_in_place},
    {"aten::bernoulli.out", bernoulli_out},
    {"aten::normal.Tensor_float", normal_of_mean<false>},
    {"aten::normal.Tensor_float_out", normal_of_mean<true>},
    {"aten::normal.float_Tensor", normal_of_std<false>},
    {"aten::normal.float_Tensor_out", normal_of_std<true>},
    {"aten::normal.Tensor_Tensor", normal_of_both<false>},
    {"aten::normal.Tensor_Tensor_out", normal_of_both<true>},
    {"aten::native_dropout", native_dropout},
    {"aten::_fused_dropout", fused_dropout},
    {"aten::randperm.generator_out", randperm_out},
    {"aten::multinomial", multinomial},
    {"aten::multinomial.out", multinomial_out},
};

}  // namespace

std::span<const RewriteRule> random_rules() { return kRandom; }

}  // namespace djinn::aten

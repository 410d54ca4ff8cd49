// The CPU device's reduction of several arrays to one, element by element: what collectives between the devices of a session come to. The order of
// the operands is that of the sources; float16 and bfloat16 are computed in float and rounded once. Sources may be the destination itself.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "server/execute/cpu/blas/number.hpp"
#include "server/execute/cpu/reduce.hpp"

namespace djinn::server {

namespace {

using wire::ReduceOperation;
using wire::ReduceType;

// A block stays in the first-level cache, with its accumulators.
constexpr uint64_t kBlock = 1024;

template <class T>
constexpr bool kReduced = std::is_same_v<T, Half> || std::is_same_v<T, Bfloat>;
// What sums are computed in. Integers wrap around, as on a GPU, which only unsigned ones do in C++.
template <class T>
struct AccumulatorOf {
  using type = T;
};
template <class T>
requires kReduced<T>
struct AccumulatorOf<T> {
  using type = float;
};
template <class T>
using Accumulator = typename AccumulatorOf<T>::type;

template <class T>
Accumulator<T> load(const std::byte* p) {
  T v;
  std::memcpy(&v, p, sizeof v);
  if constexpr (kReduced<T>) return to_float(v);
  else return v;
}
template <class T>
void store(std::byte* p, Accumulator<T> a) {
  T v;
  if constexpr (kReduced<T>) from_float(a, v);
  else v = a;
  std::memcpy(p, &v, sizeof v);
}

template <class A>
A wrapping(A a, A b, auto&& f) {
  if constexpr (std::is_integral_v<A>) {
    using U = std::conditional_t<sizeof(A) < 4, uint32_t, std::make_unsigned_t<A>>;
    return static_cast<A>(f(static_cast<U>(a), static_cast<U>(b)));
  } else {
    return f(a, b);
  }
}

template <ReduceOperation O, class A>
A combine(A a, A b) {
  if constexpr (O == ReduceOperation::sum || O == ReduceOperation::average) return wrapping(a, b, [](auto x, auto y) { return x + y; });
  else if constexpr (O == ReduceOperation::product) return wrapping(a, b, [](auto x, auto y) { return x * y; });
  else if constexpr (std::is_integral_v<A>) return O == ReduceOperation::maximum ? std::max(a, b) : std::min(a, b);
  else return O == ReduceOperation::maximum ? std::fmax(a, b) : std::fmin(a, b);
}

// NCCL's average: floating-point terms are divided before they are added, integer sums after it, towards zero.
template <ReduceOperation O, class A>
A before(A a, uint64_t n) {
  if constexpr (O == ReduceOperation::average && std::is_floating_point_v<A>) return a * (A{1} / static_cast<A>(n));
  else return a;
}
template <ReduceOperation O, class A>
A after(A a, uint64_t n) {
  if constexpr (O == ReduceOperation::average && std::is_integral_v<A>) return static_cast<A>(a / static_cast<A>(n));
  else return a;
}

template <class T, ReduceOperation O>
void reduce(std::byte* to, std::span<const std::byte* const> sources, uint64_t count) {
  Accumulator<T> sums[kBlock];
  for (uint64_t first = 0; first < count; first += kBlock) {
    uint64_t n = std::min(kBlock, count - first), at = first * sizeof(T);
    for (uint64_t i = 0; i < n; i++) sums[i] = before<O>(load<T>(sources[0] + at + i * sizeof(T)), sources.size());
    for (const std::byte* s : sources.subspan(1))
      for (uint64_t i = 0; i < n; i++) sums[i] = combine<O>(sums[i], before<O>(load<T>(s + at + i * sizeof(T)), sources.size()));
    for (uint64_t i = 0; i < n; i++) store<T>(to + at + i * sizeof(T), after<O>(sums[i], sources.size()));
  }
}

using Function = void (*)(std::byte*, std::span<const std::byte* const>, uint64_t);
template <class T>
Function of_type(ReduceOperation o) {
  switch (o) {
    case ReduceOperation::sum: return reduce<T, ReduceOperation::sum>;
    case ReduceOperation::product: return reduce<T, ReduceOperation::product>;
    case ReduceOperation::maximum: return reduce<T, ReduceOperation::maximum>;
    case ReduceOperation::minimum: return reduce<T, ReduceOperation::minimum>;
    case ReduceOperation::average: return reduce<T, ReduceOperation::average>;
  }
  return nullptr;
}

Function find(ReduceType t, ReduceOperation o) {
  switch (t) {
    case ReduceType::int8: return of_type<int8_t>(o);
    case ReduceType::uint8: return of_type<uint8_t>(o);
    case ReduceType::int32: return of_type<int32_t>(o);
    case ReduceType::uint32: return of_type<uint32_t>(o);
    case ReduceType::int64: return of_type<int64_t>(o);
    case ReduceType::uint64: return of_type<uint64_t>(o);
    case ReduceType::float16: return of_type<Half>(o);
    case ReduceType::float32: return of_type<float>(o);
    case ReduceType::float64: return of_type<double>(o);
    case ReduceType::bfloat16: return of_type<Bfloat>(o);
  }
  return nullptr;
}

}  // namespace

void cpu_reduce(const wire::Reduce& r, std::span<const uint64_t> sources) {
  std::vector<const std::byte*> from;
  for (uint64_t s : sources) from.push_back(reinterpret_cast<const std::byte*>(s));
  find(r.type, r.operation)(reinterpret_cast<std::byte*>(r.destination), from, r.count);
}

}  // namespace djinn::server

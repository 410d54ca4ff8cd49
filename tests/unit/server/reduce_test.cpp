// The CPU device's reductions against plain arithmetic, for every type and operation, across block borders and in place.
#include "server/execute/cpu/reduce.hpp"

#include <cmath>
#include <functional>
#include <random>

#include "server/execute/cpu/blas/number.hpp"
#include "tests/unit/catch.hpp"

using namespace djinn;
using namespace djinn::server;
using wire::ReduceOperation;
using wire::ReduceType;

namespace {

template <class T>
double value(T v) {
  if constexpr (requires { v.bits; }) return to_float(v);
  else return static_cast<double>(v);
}
template <class T>
T number(double d) {
  T v;
  if constexpr (requires { v.bits; }) from_float(static_cast<float>(d), v);
  else v = static_cast<T>(d);
  return v;
}

double expected(ReduceOperation o, const std::vector<double>& v, bool integer) {
  double r = v[0];
  for (size_t i = 1; i < v.size(); i++) switch (o) {
      case ReduceOperation::sum:
      case ReduceOperation::average: r += v[i]; break;
      case ReduceOperation::product: r *= v[i]; break;
      case ReduceOperation::maximum: r = std::max(r, v[i]); break;
      case ReduceOperation::minimum: r = std::min(r, v[i]); break;
    }
  if (o == ReduceOperation::average) r /= static_cast<double>(v.size());
  return integer ? std::trunc(r) : r;
}

// Small whole numbers, so that every type holds every result exactly; averages of two and four.
template <class T>
void check(ReduceType type, bool is_signed) {
  std::mt19937 dice(5);
  for (size_t arrays : {1u, 2u, 4u})
    for (size_t count : {1u, 7u, 1024u, 2500u})
      for (auto o : {ReduceOperation::sum, ReduceOperation::product, ReduceOperation::maximum, ReduceOperation::minimum, ReduceOperation::average}) {
        std::vector<std::vector<T>> in(arrays, std::vector<T>(count));
        for (auto& a : in)
          for (T& v : a) v = number<T>(static_cast<int>(dice() % 4) - (is_signed ? 1 : 0));
        std::vector<T> out(count);
        std::vector<uint64_t> from;
        for (auto& a : in) from.push_back(reinterpret_cast<uint64_t>(a.data()));
        wire::Reduce r{0, reinterpret_cast<uint64_t>(out.data()), count, type, o};
        cpu_reduce(r, from);
        auto last = in.back();
        r.destination = from.back();
        cpu_reduce(r, from);  // in place
        for (size_t i = 0; i < count; i++) {
          std::vector<double> v;
          for (size_t a = 0; a + 1 < arrays; a++) v.push_back(value(in[a][i]));
          v.push_back(value(last[i]));
          INFO(int(type) << " " << int(o) << " " << arrays << " " << i);
          REQUIRE(value(out[i]) == expected(o, v, std::is_integral_v<T>));
          REQUIRE(value(in.back()[i]) == value(out[i]));
        }
      }
}

}  // namespace

TEST_CASE("reduce: every type and operation") {
  check<int8_t>(ReduceType::int8, true);
  check<uint8_t>(ReduceType::uint8, false);
  check<int32_t>(ReduceType::int32, true);
  check<uint32_t>(ReduceType::uint32, false);
  check<int64_t>(ReduceType::int64, true);
  check<uint64_t>(ReduceType::uint64, false);
  check<Half>(ReduceType::float16, true);
  check<float>(ReduceType::float32, true);
  check<double>(ReduceType::float64, true);
  check<Bfloat>(ReduceType::bfloat16, true);
}

TEST_CASE("reduce: integers wrap, halves round once, NaN loses against a number") {
  auto run = [](auto a, auto b, auto& out, ReduceType t, ReduceOperation o) {
    std::array from{reinterpret_cast<uint64_t>(&a), reinterpret_cast<uint64_t>(&b)};
    cpu_reduce({0, reinterpret_cast<uint64_t>(&out), 1, t, o}, from);
  };
  int8_t small;
  run(int8_t{100}, int8_t{100}, small, ReduceType::int8, ReduceOperation::sum);
  CHECK(small == -56);
  int64_t large;
  run(INT64_MAX, int64_t{1}, large, ReduceType::int64, ReduceOperation::sum);
  CHECK(large == INT64_MIN);
  run(INT64_MAX, int64_t{2}, large, ReduceType::int64, ReduceOperation::product);
  CHECK(large == -2);
  Half half;
  run(number<Half>(2048), number<Half>(1), half, ReduceType::float16, ReduceOperation::sum);
  CHECK(value(half) == 2048);  // a tie, to even
  run(number<Half>(2048), number<Half>(3), half, ReduceType::float16, ReduceOperation::sum);
  CHECK(value(half) == 2052);
  float f;
  run(NAN, 3.0f, f, ReduceType::float32, ReduceOperation::maximum);
  CHECK(f == 3);
  run(NAN, 3.0f, f, ReduceType::float32, ReduceOperation::sum);
  CHECK(std::isnan(f));
}

// The demo in C++: matmul, add and relu on a server, the result checked here. Started by test_phase1_remote_execution.py with the server's endpoint.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "hooks/coordinator/coordinator.hpp"

namespace {

constexpr int64_t kSide = 64;

std::vector<float> numbers(uint32_t seed) {
  std::vector<float> v(kSide * kSide);
  for (float& f : v) f = static_cast<float>((seed = seed * 1664525 + 1013904223) >> 8) / (1 << 23) - 1;
  return v;
}

float expected(const std::vector<float>& x, const std::vector<float>& y, const std::vector<float>& bias, int64_t row, int64_t column) {
  double sum = bias[row * kSide + column];
  for (int64_t k = 0; k < kSide; k++) sum += double{x[row * kSide + k]} * y[k * kSide + column];
  return static_cast<float>(std::max(sum, 0.0));
}

int run(const char* target) {
  auto x = numbers(1), y = numbers(2), bias = numbers(3);
  auto tensor = [](const std::vector<float>& v) { return djinn::HostTensor{v.data(), djinn::DType::float32, {kSide, kSide}}; };
  djinn::CoordinatorConfiguration configuration;
  configuration.node_id = "coordinator_program";
  djinn::Coordinator coordinator(configuration);
  auto product = coordinator.call("aten::matmul", {tensor(x), tensor(y)}, target);
  auto sum = coordinator.call("aten::add", {product[0], tensor(bias)}, target, {{"alpha", int64_t{1}}});
  auto result = coordinator.call("aten::relu", {sum[0]}, target);
  auto bytes = result[0].tensor().fetch();
  std::vector<float> got(kSide * kSide);
  std::memcpy(got.data(), bytes.data(), bytes.size());
  float worst = 0;
  for (int64_t row = 0; row < kSide; row++)
    for (int64_t column = 0; column < kSide; column++)
      worst = std::max(worst, std::abs(got[row * kSide + column] - expected(x, y, bias, row, column)));
  auto s = coordinator.statistics(target);
  std::printf("worst difference %g, %llu round trips, %llu inputs sent, %llu results fetched\n", static_cast<double>(worst),
              static_cast<unsigned long long>(s.round_trips), static_cast<unsigned long long>(s.inputs_sent),
              static_cast<unsigned long long>(s.results_fetched));
  return worst < 1e-4 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return argc == 2 ? run(argv[1]) : 2;
  } catch (const djinn::CoordinatorError& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 3;
  }
}

// Tensors in the caller's memory: extents, packing, and the fingerprint that recognises an equal input.
#include "hooks/coordinator/host.hpp"

#include <random>
#include <set>

#include "tests/unit/catch.hpp"

using namespace djinn::coordinator;

namespace {

std::vector<int32_t> packed(const int32_t* first, std::vector<int64_t> sizes, std::vector<int64_t> strides) {
  uint64_t n = 0;
  REQUIRE(count_elements(sizes, n));
  std::vector<int32_t> out(n, -1);
  pack(reinterpret_cast<std::byte*>(out.data()), reinterpret_cast<const std::byte*>(first), sizes, strides, sizeof(int32_t));
  return out;
}

}  // namespace

TEST_CASE("coordinator host: packing follows strides of any sign") {
  int32_t m[6] = {0, 1, 2, 3, 4, 5};
  CHECK(packed(m, {2, 3}, {3, 1}) == std::vector<int32_t>{0, 1, 2, 3, 4, 5});
  CHECK(packed(m, {3, 2}, {1, 3}) == std::vector<int32_t>{0, 3, 1, 4, 2, 5});
  CHECK(packed(m, {2, 3}, {0, 1}) == std::vector<int32_t>{0, 1, 2, 0, 1, 2});
  CHECK(packed(m + 5, {6}, {-1}) == std::vector<int32_t>{5, 4, 3, 2, 1, 0});
  CHECK(packed(m + 4, {}, {}) == std::vector<int32_t>{4});
  CHECK(packed(m, {2, 0}, {1, 1}).empty());
}

TEST_CASE("coordinator host: what is dense, and how far a tensor reaches") {
  CHECK(is_dense(std::vector<int64_t>{2, 3}, std::vector<int64_t>{3, 1}));
  CHECK(is_dense(std::vector<int64_t>{3, 2}, std::vector<int64_t>{1, 3}));
  CHECK(is_dense(std::vector<int64_t>{1, 3}, std::vector<int64_t>{77, 1}));
  CHECK_FALSE(is_dense(std::vector<int64_t>{2, 3}, std::vector<int64_t>{4, 1}));
  CHECK_FALSE(is_dense(std::vector<int64_t>{2, 3}, std::vector<int64_t>{0, 1}));
  CHECK_FALSE(is_dense(std::vector<int64_t>{3}, std::vector<int64_t>{-1}));
  uint64_t n;
  CHECK((span_bytes(std::vector<int64_t>{2, 3}, std::vector<int64_t>{4, 1}, 4, n) && n == 28));
  CHECK((span_bytes(std::vector<int64_t>{2, 0}, std::vector<int64_t>{4, 1}, 4, n) && n == 0));
  CHECK_FALSE(span_bytes(std::vector<int64_t>{2}, std::vector<int64_t>{-1}, 4, n));
  CHECK_FALSE(span_bytes(std::vector<int64_t>{INT64_MAX, 2}, std::vector<int64_t>{2, 1}, 4, n));
  CHECK_FALSE(span_bytes(std::vector<int64_t>{3}, std::vector<int64_t>{INT64_MAX}, 16, n));
  CHECK_FALSE(span_bytes(std::vector<int64_t>{(int64_t{1} << 60) + 1}, std::vector<int64_t>{0}, 16, n));
  CHECK_FALSE(packed_bytes(std::vector<int64_t>{int64_t{1} << 60}, 16, n));
  CHECK((packed_bytes(std::vector<int64_t>{3, 2}, 16, n) && n == 96));
  CHECK_FALSE(count_elements(std::vector<int64_t>{-1, 2}, n));
  CHECK_FALSE(count_elements(std::vector<int64_t>{INT64_MAX, INT64_MAX}, n));
}

TEST_CASE("coordinator host: any changed bit or length is another fingerprint") {
  std::mt19937_64 random(5);
  std::vector<std::byte> bytes(203);
  for (auto& b : bytes) b = std::byte(random());
  std::set<Fingerprint> seen;
  size_t made = 0;
  for (size_t n = 0; n <= bytes.size(); n++, made++) seen.insert(fingerprint(std::span(bytes).first(n)));
  for (size_t bit = 0; bit < bytes.size() * 8; bit++, made++) {
    bytes[bit / 8] ^= std::byte(1u << bit % 8);
    seen.insert(fingerprint(bytes));
    bytes[bit / 8] ^= std::byte(1u << bit % 8);
  }
  std::vector<std::byte> zeros(128);
  for (size_t n = 1; n <= zeros.size(); n++, made++) seen.insert(fingerprint(std::span(zeros).first(n)));
  CHECK(seen.size() == made);
  CHECK(fingerprint(bytes) == fingerprint(std::vector<std::byte>(bytes)));
  CHECK(fingerprint(bytes, {1, 2, 3, 4}) != fingerprint(bytes));
}

// Most scopes need not run the original kernel: with the same argument descriptions the outputs have the same descriptions. Key: everything that
// shape inference reads (tensor metas without addresses, integers, flags outside the arguments); value: the outputs' metas. Keys are compared whole.
// Bounded per op; off with DJINN_PERF=no_shape_cache, and tests run both ways. A hit skips PyTorch's argument checks: the server reports those.
#pragma once
#include <ATen/core/ivalue.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <span>
#include <unordered_map>
#include <vector>

namespace djinn::hook {

struct OutputMeta {
  enum class Kind : uint8_t { alias, tensor, undefined, list, host } kind = Kind::undefined;
  int argument = -1;  // alias
  c10::ScalarType dtype = c10::ScalarType::Undefined;
  c10::DeviceIndex device = 0;
  std::vector<int64_t> sizes, strides;
  std::vector<OutputMeta> list;
  at::Tensor host;  // a host result is a function of the key as well: its value
};

class ShapeCache {
 public:
  using Outputs = std::shared_ptr<const std::vector<OutputMeta>>;
  Outputs find(std::span<const uint64_t> key) const;
  void add(std::span<const uint64_t> key, std::vector<OutputMeta> outputs);

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::span<const uint64_t> k) const {
      uint64_t h = 0x9E3779B97F4A7C15ull;
      for (uint64_t v : k) h = (h ^ v) * 0xff51afd7ed558ccdull, h ^= h >> 32;
      return h;
    }
    size_t operator()(const std::vector<uint64_t>& k) const { return (*this)(std::span(k)); }
  };
  struct Equal {
    using is_transparent = void;
    bool operator()(std::span<const uint64_t> a, std::span<const uint64_t> b) const { return std::equal(a.begin(), a.end(), b.begin(), b.end()); }
  };
  mutable std::shared_mutex mutex_;
  std::unordered_map<std::vector<uint64_t>, Outputs, Hash, Equal> map_;
};

}  // namespace djinn::hook

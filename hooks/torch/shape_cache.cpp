// See shape_cache.hpp.
#include "hooks/torch/shape_cache.hpp"

namespace djinn::hook {

// Shapes that one op is likely to meet again; a program with ever new shapes stops filling the table here.
constexpr size_t kEntriesMax = 8192;

ShapeCache::Outputs ShapeCache::find(std::span<const uint64_t> key) const {
  std::shared_lock lock(mutex_);
  auto i = map_.find(key);
  return i == map_.end() ? nullptr : i->second;
}

void ShapeCache::add(std::span<const uint64_t> key, std::vector<OutputMeta> outputs) {
  std::unique_lock lock(mutex_);
  if (map_.size() >= kEntriesMax) return;
  map_.emplace(std::vector<uint64_t>(key.begin(), key.end()), std::make_shared<const std::vector<OutputMeta>>(std::move(outputs)));
}

}  // namespace djinn::hook

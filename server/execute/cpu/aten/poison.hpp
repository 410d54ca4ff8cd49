// Outputs of failed ops. Their consumers must not compute with garbage and must not report nonsense of their own: they report the op that failed. An
// upload or a copy may overwrite such memory without this library hearing of it, so a range is recognised by its content: fresh outputs are stamped
// with a pattern at every 512 bytes (the caching allocator's granularity), in-place arguments, whose content is the user's, by a checksum.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "server/execute/cpu/aten/failure.hpp"
#include "server/execute/cpu/aten/limits.hpp"

namespace djinn::aten {

class Poison {
 public:
  using Live = std::function<bool(uint64_t address, uint64_t bytes)>;
  explicit Poison(Live live) : live_(std::move(live)) {}

  bool empty() const { return ranges_.empty(); }
  // The bytes [low, high) should have been written by an op that failed. `stamp`: nobody's content is lost by marking them.
  void add(uint64_t low, uint64_t high, bool stamp, const std::shared_ptr<Failure>& origin);
  // The failure whose garbage is in [low, high), or null.
  std::shared_ptr<Failure> find(uint64_t low, uint64_t high);
  // An op has written them.
  void written(uint64_t low, uint64_t high);
  void clear() { ranges_.clear(); }
  size_t size() const { return ranges_.size(); }

 private:
  struct Range {
    uint64_t low, high;
    bool stamped;
    uint64_t checksum;
    std::shared_ptr<Failure> origin;
  };
  bool spoilt(const Range& r, uint64_t low, uint64_t high) const;

  Live live_;
  std::vector<Range> ranges_;
};

}  // namespace djinn::aten

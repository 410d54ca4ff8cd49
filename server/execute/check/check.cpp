// See check.hpp.
#include "server/execute/check/check.hpp"

#include <algorithm>

#include "semantic/module/module.hpp"
#include "semantic/wire/op.hpp"
#include "server/session/session.hpp"

namespace djinn::server::check {

// Limits of every device that we describe (compute capability 7.5 and up).
constexpr uint64_t kThreadsPerBlock = 1024, kGridX = 2147483647, kGridYZ = 65535, kBlockZ = 64;

static Failure violation(const Kernel& kernel, std::string text) { return {cuda_error::invalid_value, wire::ErrorClass::exception, kernel.name, "check: " + std::move(text)}; }

static const char* shape_problem(const wire::Launch& l) {
  for (int i = 0; i < 3; i++)
    if (!l.grid[i] || !l.block[i]) return "an empty grid or block";
  if (uint64_t{l.block[0]} * l.block[1] * l.block[2] > kThreadsPerBlock || l.block[2] > kBlockZ) return "a block of more than 1,024 threads";
  if (l.grid[0] > kGridX || l.grid[1] > kGridYZ || l.grid[2] > kGridYZ) return "a grid beyond the device's limits";
  return nullptr;
}

Failure validate_launch(Session& s, const Kernel& kernel, const wire::Launch& l, std::span<const std::byte> parameters) {
  if (auto problem = shape_problem(l)) return violation(kernel, problem);
  if (!s.streams.contains(l.stream)) return violation(kernel, "unknown stream " + std::to_string(l.stream));
  auto image = s.modules.find(kernel.module);
  if (image == s.modules.end()) return violation(kernel, "its module is not loaded");
  auto found = module::find_kernel(image->second.image, kernel.name);
  if (!found) return violation(kernel, "not in its module: " + std::string(found.error()));
  if (found->param_bytes != parameters.size())
    return violation(kernel, std::to_string(parameters.size()) + " bytes of parameters, the cubin says " + std::to_string(found->param_bytes));
  return {};
}

void ScopeCheck::begin(uint32_t id) {
  scope_ = id;
  any_ = false;
  words_.clear();
}

void ScopeCheck::saw_words(std::span<const std::byte> p) {
  if (!scope_) return;
  any_ = true;
  for (size_t i = 0; i + 8 <= p.size(); i += 8) {
    uint64_t w;
    std::memcpy(&w, p.data() + i, 8);
    words_.push_back(w);
  }
}

void ScopeCheck::define(std::span<const std::byte> payload) {
  wire::Reader r(payload);
  auto d = r.get<wire::op::TensorDefine>();
  if (r.ok() && d.id < wire::kTensorIdsMax) tensors_[d.id] = {d.address, d.address + d.storage_bytes};
}

bool ScopeCheck::carried(uint32_t tensor) const {
  auto t = tensors_.find(tensor);
  if (t == tensors_.end() || t->second.begin == t->second.end) return false;
  return std::any_of(words_.begin(), words_.end(), [&](uint64_t w) { return w >= t->second.begin && w < t->second.end; });
}

// Every tensor word of the op counts: an in-place op's output is an argument. A word of another kind that looks like one only makes the check milder.
Failure ScopeCheck::end(std::span<const std::byte> payload) {
  wire::Reader r(payload);
  auto head = r.get<wire::op::OpHead>();
  if (!r.ok() || !head.scope || head.scope != scope_ || !any_) return {};
  bool named = false;
  while (r.left() >= 8) {
    uint64_t w = r.get<uint64_t>();
    if (wire::op::tag_of(w) != wire::op::Tag::tensor) continue;
    named = true;
    if (carried(wire::op::id_of(w))) return {};
  }
  if (!named) return {};
  return {cuda_error::invalid_value, wire::ErrorClass::exception, "op scope " + std::to_string(head.scope), "check: no launch carries an address of the op's tensors"};
}

}  // namespace djinn::server::check

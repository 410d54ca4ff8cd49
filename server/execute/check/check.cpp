// See check.hpp.
#include "server/execute/check/check.hpp"

#include <algorithm>
#include <cstring>

#include "semantic/module/module.hpp"
#include "semantic/wire/op.hpp"
#include "server/session/session.hpp"

namespace djinn::server::check {

// Words of one scope's launches: a few hundred launches of at most 4,096 words. Beyond this the scope is not judged rather than remembered.
constexpr size_t kScopeWordsMax = 1 << 20;

static Failure violation(const Kernel& kernel, std::string text) {
  return {cuda_error::invalid_value, wire::ErrorClass::exception, kernel.name, "check: " + std::move(text)};
}

void describe_kernel(const Module& module, Kernel& kernel) {
  auto found = module::find_kernel(module.image, kernel.name);
  if (found) kernel.param_bytes = found->param_bytes;
  else kernel.problem = found.error();
}

Failure validate_launch(Session& s, const Kernel& kernel, const wire::Launch& l, std::span<const std::byte> parameters) {
  if (!s.known_stream(l.stream)) return violation(kernel, "unknown stream " + std::to_string(l.stream));
  if (!s.modules.count(kernel.module)) return violation(kernel, "its module is not loaded");
  if (!kernel.problem.empty()) return violation(kernel, kernel.problem);
  if (kernel.param_bytes != parameters.size())
    return violation(kernel, std::to_string(parameters.size()) + " bytes of parameters, the cubin says " + std::to_string(kernel.param_bytes));
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
  if (words_.size() + p.size() / 8 > kScopeWordsMax) {
    scope_ = 0;
    return;
  }
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

void ScopeCheck::forget(std::span<const std::byte> payload) {
  for (uint32_t id : wire::Reader(payload).get_array<uint32_t>(wire::kTensorIdsMax)) tensors_.erase(id);
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
  return {cuda_error::invalid_value, wire::ErrorClass::exception, "op scope " + std::to_string(head.scope),
          "check: no launch carries an address of the op's tensors"};
}

}  // namespace djinn::server::check

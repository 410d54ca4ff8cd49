// See classify.hpp.
#include "hooks/torch/classify.hpp"

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "hooks/torch/host.hpp"
#include "hooks/torch/meaning.hpp"

namespace djinn::hook {

namespace {

// Allocation, relabelling and transfers: no device work of their own, or work whose inner ops get scopes of their own. Some alias without declaring
// it.
const std::unordered_set<std::string>& pass_through() {
  static const auto* names = new std::unordered_set<std::string>{"aten::empty",
                                                                 "aten::empty_strided",
                                                                 "aten::empty_like",
                                                                 "aten::empty_permuted",
                                                                 "aten::new_empty",
                                                                 "aten::new_empty_strided",
                                                                 "aten::_empty_affine_quantized",
                                                                 "aten::_empty_per_channel_affine_quantized",
                                                                 "aten::empty_quantized",
                                                                 "aten::_efficientzerotensor",
                                                                 "aten::resize",
                                                                 "aten::resize_",
                                                                 "aten::_resize_output_",
                                                                 "aten::set_",
                                                                 "aten::set_data",
                                                                 "aten::record_stream",
                                                                 "aten::is_pinned",
                                                                 "aten::_pin_memory",
                                                                 "aten::lift",
                                                                 "aten::lift_fresh",
                                                                 "aten::_sparse_coo_tensor_with_dims",
                                                                 "aten::_sparse_coo_tensor_with_dims_and_tensors",
                                                                 "aten::_sparse_compressed_tensor_with_dims",
                                                                 "aten::_coalesced_",
                                                                 "aten::_coalesced",
                                                                 "aten::_local_scalar_dense",
                                                                 "aten::_nested_view_from_buffer",
                                                                 "aten::resize_as_sparse_",
                                                                 "aten::sparse_resize_",
                                                                 "aten::sparse_resize_and_clear_",
                                                                 "aten::_to_copy",
                                                                 "aten::clone",
                                                                 "aten::contiguous",
                                                                 "aten::_copy_from",
                                                                 "aten::_copy_from_and_resize",
                                                                 "aten::_cudnn_init_dropout_state",
                                                                 "aten::_unsafe_view",
                                                                 "aten::_reshape_alias",
                                                                 "aten::_conj",
                                                                 "aten::_neg_view",
                                                                 "aten::q_per_channel_scales",
                                                                 "aten::q_per_channel_zero_points",
                                                                 "aten::_nested_tensor_size",
                                                                 "aten::_nested_tensor_strides",
                                                                 "aten::_nested_tensor_storage_offsets",
                                                                 "aten::_nested_tensor_from_tensor_list"};
  return *names;
}

// Namespaces that talk between processes or devices.
bool foreign_namespace(const std::string& name) {
  for (const char* prefix : {"symm_mem::", "c10d::", "_c10d_functional::", "_c10d_functional_autograd::", "inductor_prims::", "_dtensor::"})
    if (name.rfind(prefix, 0) == 0) return true;
  return false;
}

// cuDNN's attentions keep the graph that they were building in a cache of PyTorch's when they are aborted; the next call of that shape takes it.
bool leaves_ruins(const std::string& name) { return name.find("_cudnn_attention") != std::string::npos; }

// Their results have a quantizer, of which Meta tensors know nothing.
bool quantizes(const std::string& name) { return name.rfind("aten::quantize_per_", 0) == 0; }

bool on_the_servers_list(const std::string& full_name) {
  size_t n = 0;
  const char* const* ops = host->ops(&n);
  return std::binary_search(ops, ops + n, full_name.c_str(), [](const char* a, const char* b) { return std::strcmp(a, b) < 0; });
}

// Reads the schema into `op`; false when a return aliases an argument without being written: a view.
bool read_schema(const c10::OperatorHandle& handle, Op& op) {
  const auto& schema = handle.schema();
  op.name = schema.name();
  op.overload = schema.overload_name();
  op.arguments = schema.arguments().size();
  op.returns = schema.returns().size();
  for (size_t i = 0; i < op.arguments; i++) {
    const auto& a = schema.arguments()[i];
    bool writes = a.alias_info() && a.alias_info()->isWrite();
    op.writes.push_back(writes);
    op.out.push_back(writes && a.is_out());
    op.has_writes |= writes;
    op.has_effect |= writes;
    op.random |= a.type()->str().find("Generator") != std::string::npos;
    if (a.name() == "dropout_p") op.off_switch = static_cast<int>(i);
  }
  op.has_effect |= op.returns == 0;  // what else would it be called for: _assert_async
  for (const auto& r : schema.returns()) {
    int alias = -1;
    if (r.alias_info()) {
      if (!r.alias_info()->isWrite()) return false;
      for (size_t i = 0; i < op.arguments; i++) {
        auto* info = schema.arguments()[i].alias_info();
        if (info && info->beforeSets() == r.alias_info()->beforeSets()) alias = static_cast<int>(i);
      }
    }
    op.alias.push_back(alias);
    auto kind = r.type()->kind();
    op.has_effect |= kind == c10::TypeKind::TensorType || kind == c10::TypeKind::ListType;
  }
  return true;
}

}  // namespace

c10::ArrayRef<c10::DispatchKey> device_keys() {
  static const c10::DispatchKey keys[] = {c10::DispatchKey::CUDA, c10::DispatchKey::SparseCUDA, c10::DispatchKey::SparseCsrCUDA,
                                          c10::DispatchKey::NestedTensorCUDA, c10::DispatchKey::QuantizedCUDA};
  return keys;
}

std::unique_ptr<Op> classify_call(const c10::OperatorHandle& handle, c10::DispatchKey key, const c10::SafeKernelFunction& original) {
  auto op = std::make_unique<Op>();
  if (!handle.hasKernelForDispatchKey(key) || !read_schema(handle, *op) || !op->has_effect) return nullptr;
  if (handle.hasTag(at::Tag::inplace_view) || pass_through().count(op->name) || foreign_namespace(op->name)) return nullptr;
  if (original.debug().find(".py:") != std::string::npos) return nullptr;
  op->role = meaning::role_of(op->name);
  return op;
}

std::unique_ptr<Op> classify(const c10::OperatorHandle& handle, c10::DispatchKey key, const c10::SafeKernelFunction& original) {
  auto op = std::make_unique<Op>();
  if (!read_schema(handle, *op)) return nullptr;
  if (handle.hasTag(at::Tag::inplace_view) || pass_through().count(op->name) || foreign_namespace(op->name)) return nullptr;
  if (!on_the_servers_list(op->full_name())) return nullptr;
  bool dense = key == c10::DispatchKey::CUDA, core = op->name.rfind("aten::", 0) == 0, python = original.debug().find(".py:") != std::string::npos;
  if (python && !core) return nullptr;  // a user's Python kernel is a program of ops
  bool seeded = handle.hasTag(at::Tag::nondeterministic_seeded);
  op->random |= seeded;
  // rand, randn, bernoulli …: programs of ops too, of an allocation and a draw that has its own kernel and scope
  if (op->random && core && !handle.hasKernelForDispatchKey(key)) return nullptr;
  op->copies = op->name == "aten::copy_";
  op->role = meaning::role_of(op->name);
  // aten::index has a data-dependent shape for boolean masks only; those abort by themselves
  bool data_dependent = op->name != "aten::index" && (handle.hasTag(at::Tag::dynamic_output_shape) || handle.hasTag(at::Tag::data_dependent_output));
  op->convolves = op->name == "aten::convolution" || op->name == "aten::_convolution";
  if (python || leaves_ruins(op->name)) op->mode = Mode::meta_first;
  if (data_dependent || quantizes(op->name)) op->mode = Mode::server_first;
  op->may_alert = data_dependent && !python;
  if (!dense) {  // nnz, quantiser and nested sizes come from the server; queries of metadata pass
    if (!op->has_effect) return nullptr;
    op->mode = Mode::server_first;
  }
  op->cacheable = op->mode != Mode::server_first && (!op->random || op->off_switch >= 0);
  return op;
}

}  // namespace djinn::hook

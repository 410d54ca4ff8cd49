// The op list: every op that has a CPU kernel (or a composite one that the hook scopes whole), minus what the tables below deny, plus the CUDA-only
// ops that rewrite.cpp says in other words. The tables are data with reasons, so that a review reads them and nothing else.
#include "server/execute/cpu/aten/ops.hpp"

#include <ATen/core/enum_tag.h>
#include <dlfcn.h>

#include <algorithm>
#include <map>
#include <set>
#include <sstream>
#include <unordered_map>

#include "server/execute/cpu/aten/rewrite.hpp"

namespace djinn::aten {

namespace {

struct Denied {
  std::string_view name;  // "aten::x", or a prefix that ends in '*'
  std::string_view reason;
};
// Reviewed against the list of torch 2.14; a new torch version means reading its list again.
constexpr Denied kDenied[] = {
    {"aten::from_file", "it opens a file of the server"},
    {"aten::_print", "it writes to the server's terminal"},
    {"aten::set_*", "it points a tensor at other storage"},
    {"aten::set", "it points a tensor at other storage"},
    {"aten::shallow_copy_data_", "it points a tensor at other storage"},
    {"aten::_lazy_clone", "its result shares storage with its argument"},
    {"aten::_reshape_alias_copy", "it reads whatever its strides reach, beyond the tensor too"},
    {"aten::resize*", "the client resizes its own tensors"},
    {"aten::_resize_output*", "the client resizes its own tensors"},
    {"aten::sparse_resize*", "the client resizes its own tensors"},
    {"aten::empty*", "the client allocates its own tensors"},
    {"aten::new_empty*", "the client allocates its own tensors"},
    {"aten::_empty_*", "the client allocates its own tensors"},
    {"aten::_efficientzerotensor", "the client allocates its own tensors"},
    {"aten::_pin_memory", "pinned memory is the client's"},
    {"aten::is_pinned", "pinned memory is the client's"},
    {"aten::record_stream", "streams are the client's"},
    {"aten::lift*", "it relabels a tensor of the client"},
    {"aten::_local_scalar_dense", "a readback is a copy, not an op"},
    {"aten::_copy_from*", "a transfer is a copy, not an op"},
    {"aten::_to_copy", "a transfer is a copy, not an op"},
    {"aten::_coalesced_", "it relabels a tensor of the client"},
    {"aten::_sparse_coo_tensor_with_dims*", "it relabels tensors of the client"},
    {"aten::_nested_view_from_buffer", "its result shares storage with its argument"},
    {"aten::detach_", "autograd is the client's"},
    // composites, which only op_call reaches
    {"aten::_backward", "autograd is the client's"},
    {"aten::requires_grad_", "autograd is the client's"},
    {"aten::retain_grad", "autograd is the client's"},
    {"aten::pin_memory", "pinned memory is the client's"},
    {"aten::fbgemm_*", "it packs weights into objects of the server's process"},
    {"aten::_make_dep_token", "tokens are the compiler's"},
    {"aten::_test_*", "a test of PyTorch's own"},
    {"aten::_foobar*", "a test of PyTorch's own"},
    {"aten::_mps*", "for another device"},
    {"aten::mps*", "for another device"},
    {"aten::_lstm_mps", "for another device"},
    {"aten::lstm_mps*", "for another device"},
    {"aten::miopen_depthwise*", "for another device"},
    {"aten::_mkldnn*", "it works on opaque CPU tensors, which no client can hold"},
    {"aten::mkldnn*", "it works on opaque CPU tensors, which no client can hold"},
    {"aten::to_mkldnn", "it makes an opaque CPU tensor"},
    {"aten::_nnpack*", "it works on opaque CPU tensors, which no client can hold"},
};
// Whole namespaces: collectives and symmetric memory would talk to other processes, the profiler's and the compilers' act on the server itself,
// packed parameters are objects of another process.
constexpr std::string_view kNamespaces[] = {"aten", "quantized", "torchvision"};

// Composite for the CPU (autograd decomposes them there), one kernel for CUDA: the hook scopes them whole.
constexpr std::string_view kWhole[] = {"aten::_fused_rms_norm"};

// In-place ops that never read what they write: they heal the outputs of a failed op.
constexpr std::string_view kOverwrites[] = {
    "aten::zero_",       "aten::fill_",          "aten::copy_",          "aten::normal_",      "aten::uniform_",
    "aten::random_",     "aten::bernoulli_",     "aten::cauchy_",        "aten::exponential_", "aten::geometric_",
    "aten::log_normal_", "aten::_foreach_zero_", "aten::_foreach_copy_",
};
struct NormRule {
  std::string_view base;
  Norm norm;
};
constexpr NormRule kNorms[] = {
    {"aten::native_layer_norm", Norm::forward},           {"aten::native_layer_norm_backward", Norm::backward},
    {"aten::native_batch_norm", Norm::forward},           {"aten::native_batch_norm_backward", Norm::backward},
    {"aten::_native_batch_norm_legit", Norm::forward},    {"aten::_native_batch_norm_legit_no_training", Norm::forward},
    {"aten::_batch_norm_with_update", Norm::forward},     {"aten::_batch_norm_no_update", Norm::forward},
    {"aten::batch_norm_backward", Norm::backward},        {"aten::native_group_norm", Norm::forward},
    {"aten::native_group_norm_backward", Norm::backward}, {"aten::_fused_rms_norm", Norm::forward},
    {"aten::_fused_rms_norm_backward", Norm::backward},   {"aten::cudnn_batch_norm", Norm::forward},
    {"aten::cudnn_batch_norm_backward", Norm::backward},  {"aten::miopen_batch_norm", Norm::forward},
};

bool matches(std::string_view pattern, std::string_view name) {
  if (!pattern.empty() && pattern.back() == '*') return name.substr(0, pattern.size() - 1) == pattern.substr(0, pattern.size() - 1);
  return pattern == name;
}

const Denied* denied(std::string_view base) {
  for (const Denied& d : kDenied)
    if (matches(d.name, base)) return &d;
  return nullptr;
}

bool scalar_kind(const c10::Type& type, Kind& kind) {
  switch (type.kind()) {
    case c10::TypeKind::TensorType: return kind = Kind::tensor, true;
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType:
    case c10::TypeKind::ScalarTypeType:
    case c10::TypeKind::LayoutType:
    case c10::TypeKind::MemoryFormatType: return kind = Kind::integer, true;
    case c10::TypeKind::FloatType:
    case c10::TypeKind::SymFloatType: return kind = Kind::real, true;
    case c10::TypeKind::BoolType:
    case c10::TypeKind::SymBoolType: return kind = Kind::boolean, true;
    case c10::TypeKind::ComplexType: return kind = Kind::complex, true;
    case c10::TypeKind::NumberType: return kind = Kind::number, true;
    case c10::TypeKind::StringType: return kind = Kind::string, true;
    case c10::TypeKind::DeviceObjType: return kind = Kind::device, true;
    case c10::TypeKind::GeneratorType: return kind = Kind::generator, true;
    default: return false;  // c10's enumeration: objects, storages, dictionaries … cannot travel
  }
}

bool kind_of(c10::TypePtr type, Kind& kind, bool& optional) {
  optional = false;
  if (type->kind() == c10::TypeKind::OptionalType) {
    optional = true;
    type = type->castRaw<c10::OptionalType>()->getElementType();
  }
  if (type->kind() != c10::TypeKind::ListType) return scalar_kind(*type, kind);
  auto element = type->castRaw<c10::ListType>()->getElementType();
  if (element->kind() == c10::TypeKind::OptionalType) {
    kind = Kind::optional_tensors;
    return element->castRaw<c10::OptionalType>()->getElementType()->kind() == c10::TypeKind::TensorType;
  }
  if (!scalar_kind(*element, kind)) return false;
  switch (kind) {
    case Kind::tensor: return kind = Kind::tensors, true;
    case Kind::integer: return kind = Kind::integers, true;
    case Kind::real: return kind = Kind::reals, true;
    case Kind::boolean: return kind = Kind::booleans, true;
    case Kind::number: return kind = Kind::numbers, true;
    case Kind::string: return kind = Kind::strings, true;
    case Kind::complex:
    case Kind::device:
    case Kind::generator:
    case Kind::tensors:
    case Kind::optional_tensors:
    case Kind::integers:
    case Kind::reals:
    case Kind::booleans:
    case Kind::numbers:
    case Kind::strings: return false;
  }
  return false;
}

int alias_of(const c10::FunctionSchema& schema, const c10::Argument& result) {
  if (!result.alias_info()) return -1;
  for (size_t i = 0; i < schema.arguments().size(); i++)
    if (const auto* a = schema.arguments()[i].alias_info(); a && a->beforeSets() == result.alias_info()->beforeSets()) return static_cast<int>(i);
  return -1;
}

bool describe(Op& op) {
  const auto& schema = op.handle.schema();
  op.base = schema.name();
  op.name = schema.overload_name().empty() ? op.base : op.base + "." + schema.overload_name();
  for (const auto& a : schema.arguments()) {
    Argument d{};
    if (!kind_of(a.type(), d.kind, d.optional)) return false;
    d.written = a.alias_info() && a.alias_info()->isWrite();
    d.out = d.written && a.is_out();
    op.writes |= d.written;
    if (a.name() == "half_to_float") op.half_to_float = static_cast<int>(op.arguments.size());
    if (a.name() == "input_dtype") op.input_dtype = static_cast<int>(op.arguments.size());
    op.arguments.push_back(d);
  }
  for (const auto& r : schema.returns()) {
    Return d{};
    bool optional;
    if (!kind_of(r.type(), d.kind, optional)) return false;
    d.alias = alias_of(schema, r);
    op.returns.push_back(d);
  }
  op.rewrite = find_rewrite(op.name);
  for (const auto& rule : kNorms)
    if (rule.base == op.base && schema.overload_name().find("out") == std::string::npos) op.norm = rule.norm;
  op.overwrites = std::find(std::begin(kOverwrites), std::end(kOverwrites), op.base) != std::end(kOverwrites);
  return true;
}

bool returns_view(const c10::FunctionSchema& schema) {
  for (const auto& r : schema.returns())
    if (r.alias_info() && !r.alias_info()->isWrite()) return true;
  return false;
}

bool has_own_kernel(const c10::OperatorHandle& op) {
  using c10::DispatchKey;
  for (auto key : {DispatchKey::CPU, DispatchKey::CompositeExplicitAutograd, DispatchKey::CompositeExplicitAutogradNonFunctional,
                   DispatchKey::SparseCPU, DispatchKey::SparseCsrCPU, DispatchKey::NestedTensorCPU, DispatchKey::QuantizedCPU})
    if (op.hasKernelForDispatchKey(key)) return true;
  return std::find(std::begin(kWhole), std::end(kWhole), op.operator_name().name) != std::end(kWhole);
}

// A generated "x.out" only calls x: without a CPU kernel for x it would fail, and unscoped on the client it decomposes into x, which may be
// rewritten.
bool out_of_missing(const c10::OperatorHandle& op) {
  const auto& name = op.operator_name();
  if (name.overload_name.empty() || op.hasKernelForDispatchKey(c10::DispatchKey::CPU)) return false;
  auto functional = c10::Dispatcher::singleton().findSchema({name.name, ""});
  return functional && !functional->hasComputedKernelForDispatchKey(c10::DispatchKey::CPU);
}

struct List {
  std::unordered_map<std::string, c10::OperatorHandle> handles;
  std::unordered_map<std::string, Op> described;  // on first use
  // what op_call may run, by "aten::add": overload → handle, and their descriptions, on first use
  std::unordered_map<std::string, std::map<std::string, c10::OperatorHandle>> callable;
  std::unordered_map<std::string, Op> called;
  std::vector<std::string> sorted;
  std::vector<const char*> names;
};
List& list() {
  static List* l = new List;  // ops are named by sessions until the process ends
  return *l;
}

bool executable(const c10::OperatorHandle& op, const std::set<std::string>& library_namespaces) {
  const auto& base = op.operator_name().name;
  std::string space = base.substr(0, base.find("::"));
  bool ours = std::find(std::begin(kNamespaces), std::end(kNamespaces), space) != std::end(kNamespaces);
  if ((!ours && !library_namespaces.count(space)) || denied(base)) return false;
  if (find_rewrite(c10::toString(op.operator_name()))) return true;
  if (!has_own_kernel(op) || out_of_missing(op)) return false;
  return !op.hasTag(at::Tag::inplace_view) && !returns_view(op.schema());
}

// op_call answers with copies of its results, so that a view is as good as anything else; and it has no schema on the client that a composite op
// would have been decomposed by.
bool callable(const c10::OperatorHandle& op) {
  const auto& base = op.operator_name().name;
  return base.rfind("aten::", 0) == 0 && !denied(base) && !op.hasTag(at::Tag::inplace_view);
}

std::set<std::string> namespaces_now() {
  std::set<std::string> s;
  for (const auto& name : c10::Dispatcher::singleton().getAllOpNames()) s.insert(name.name.substr(0, name.name.find("::")));
  return s;
}

// Lazily: what a CUDA build of such a library calls of CUDA is never called here (server/execute/standin).
std::string load_libraries(const char* op_library) {
  std::istringstream paths(op_library);
  for (std::string path; std::getline(paths, path, ':');)
    if (!path.empty() && !dlopen(path.c_str(), RTLD_LAZY | RTLD_LOCAL)) return "op library " + path + ": " + dlerror();
  return {};
}

}  // namespace

std::string load_ops(const char* op_library) {
  std::set<std::string> fresh;
  if (op_library && *op_library) {
    auto before = namespaces_now();
    if (auto error = load_libraries(op_library); !error.empty()) return error;
    for (auto& space : namespaces_now())
      if (!before.count(space)) fresh.insert(space);
  }
  auto& l = list();
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const auto& name : dispatcher.getAllOpNames()) {
    auto handle = dispatcher.findSchema(name);
    if (!handle) continue;
    bool listed = executable(*handle, fresh);
    Op probe{*handle, {}, {}, {}, {}};
    if ((!listed && !callable(*handle)) || !describe(probe)) continue;
    l.callable[probe.base].emplace(name.overload_name, *handle);
    if (!listed) continue;
    if (l.handles.emplace(probe.name, *handle).second) l.sorted.push_back(probe.name);
  }
  std::sort(l.sorted.begin(), l.sorted.end());
  l.names.clear();
  for (const auto& s : l.sorted) l.names.push_back(s.c_str());
  return {};
}

const std::vector<const char*>& op_names() { return list().names; }

Op* find_op(std::string_view name, std::string_view overload, std::string& reason) {
  std::string full(name);
  if (!overload.empty()) full.append(".").append(overload);
  auto& l = list();
  if (auto it = l.described.find(full); it != l.described.end()) return &it->second;
  auto handle = l.handles.find(full);
  if (handle == l.handles.end()) {
    const Denied* d = denied(name);
    reason = full + " is not executed by this server: " + std::string(d ? d->reason : "no CPU kernel computes it");
    return nullptr;
  }
  Op op{handle->second, {}, {}, {}, {}};
  describe(op);
  return &l.described.emplace(full, std::move(op)).first->second;
}

namespace {

// Why op_call has nothing under this name.
std::string why_not(const std::string& base) {
  if (const Denied* d = denied(base)) return base + " is not executed by this server: " + std::string(d->reason);
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const auto& name : dispatcher.getAllOpNames()) {
    if (name.name != base || base.rfind("aten::", 0) != 0) continue;
    auto handle = dispatcher.findSchema(name);
    bool relabels = handle && handle->hasTag(at::Tag::inplace_view);
    return base + " is not executed by this server: " +
           (relabels ? "it changes the shape of the tensor that it is given" : "its arguments or results cannot travel");
  }
  return "there is no operator " + base;
}

}  // namespace

std::vector<Op*> find_overloads(const std::string& name, std::string& reason) {
  auto& l = list();
  size_t space = name.find("::"), dot = name.find('.', space == std::string::npos ? 0 : space);
  std::string base = name.substr(0, dot);
  auto known = l.callable.find(base);
  if (known == l.callable.end()) return reason = why_not(base), std::vector<Op*>{};
  std::vector<Op*> found;
  for (const auto& [overload, handle] : known->second) {
    if (dot != std::string::npos && name.compare(dot + 1, std::string::npos, overload) != 0) continue;
    std::string unused;
    Op* op = find_op(base, overload, unused);
    if (!op) {
      auto [it, fresh] = l.called.try_emplace(base + "." + overload, Op{handle, {}, {}, {}, {}});
      if (fresh) describe(it->second);
      op = &it->second;
    }
    found.push_back(op);
  }
  if (found.empty()) reason = base + " has no overload " + name.substr(dot + 1);
  return found;
}

}  // namespace djinn::aten

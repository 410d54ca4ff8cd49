// The op scope. A wrapped kernel is called in the dispatcher's place of PyTorch's own. While the original runs inside a scope, libdjinn.so drops its
// device work and fails what would hand a device value to the host; the operator itself goes to the server. Rules, in the order in which they act
// here:
//   nested calls are part of the scope and run as they are; calls without a device tensor pass through; so do those that write a host tensor (R1, R3)
//   read-only arguments are encoded before the kernel, written ones after it (R4, R5)
//   a kernel that asked for a device value is undone and redone: in place, by the Meta kernel, or by the server first (R2)
//   the generator's seed and offsets travel with the op (R7)
// Most calls never get that far: the shape cache knows the outputs, and the original kernel does not run at all.
#include "hooks/torch/scope.hpp"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/op_registration/adaption.h>
#include <ATen/core/op_registration/op_registration.h>
#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <c10/core/DeviceGuard.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>

#include <tuple>

#include "hooks/torch/convolution.hpp"
#include "hooks/torch/each_tensor.hpp"
#include "hooks/torch/encode.hpp"
#include "hooks/torch/host.hpp"
#include "hooks/torch/meaning.hpp"
#include "hooks/torch/reply.hpp"
#include "semantic/random/launch.hpp"

namespace at::cuda {
// Of ATen/cuda/CUDAContextLight.h, which includes cuSPARSE's header and by it parts of a toolkit that the wheels do not carry.
cudaDeviceProp* getDeviceProperties(c10::DeviceIndex device);
}  // namespace at::cuda

namespace djinn::hook {

using c10::IValue;
using torch::jit::Stack;

namespace {

thread_local bool redoing = false;  // inside Meta kernels and allocations of ours: nothing of it is a scope
thread_local Encoder encoder;

bool strided(const at::Tensor& t) { return t.layout() == c10::kStrided && !t.is_nested() && !t.is_quantized() && t.has_storage(); }

// The dispatch state of a thread without autograd, autocast and modes: what our own calls of operators need.
struct PlainState {
  c10::impl::ForceDispatchKeyGuard guard{state()};
  static c10::impl::LocalDispatchKeySet state() {
    c10::impl::PODLocalDispatchKeySet p{};
    p.set_included(c10::default_included_set);
    p.set_excluded(c10::default_excluded_set | c10::autograd_dispatch_keyset_with_ADInplaceOrView | c10::autocast_dispatch_keyset);
    return c10::impl::LocalDispatchKeySet(p);
  }
};
// The same, and nothing of it is a scope. libdjinn.so takes the thread for one that runs an original kernel: a Meta kernel that asks a library
// (cuDNN's recurrent weights) is refused without a word.
struct PlainDispatch : PlainState {
  bool before = redoing;
  PlainDispatch() { redoing = true, ++scope().depth; }
  ~PlainDispatch() { redoing = before, --scope().depth; }
};

bool several_devices() {
  static const bool several = c10::cuda::device_count() > 1;
  return several;
}

// What the arguments say about the call as a whole.
struct Arguments {
  bool device = false, host = false, writes_host = false, stays_on_host = false;
  std::optional<c10::Device> where;
};

Arguments look(const Op& op, const IValue* args) {
  Arguments a;
  for (size_t i = 0; i < op.arguments; i++) {
    if (args[i].isDevice()) {
      if (args[i].toDevice().is_cuda()) a.device = true, a.where = args[i].toDevice();
      else a.stays_on_host |= args[i].toDevice().is_cpu();
    }
    each_tensor(args[i], [&](const at::Tensor& t) {
      if (t.is_cuda()) {
        a.device = true;
        if (!a.where) a.where = t.device();
      } else if (t.is_cpu()) {
        a.host = true;
        a.writes_host |= op.writes[i] != 0;
      }
    });
  }
  if (a.device && !a.where->has_index()) a.where = c10::Device(c10::kCUDA, c10::cuda::current_device());
  return a;
}

// What the original kernels check before anything else, for calls that never run them.
void check_one_device(const Op& op, const c10::FunctionSchema& schema, const IValue* args) {
  std::optional<c10::Device> first;
  for (size_t i = 0; i < op.arguments; i++)
    each_tensor(args[i], [&](const at::Tensor& t) {
      if (!t.is_cuda()) return;
      if (!first) first = t.device();
      if (t.device() != *first) c10::impl::common_device_check_failure(*first, t, op.name.c_str(), schema.arguments()[i].name().c_str());
    });
}

// Written arguments as they were, so that an aborted kernel can be undone.
struct Snapshot {
  at::Tensor tensor;
  c10::Storage storage;
  std::vector<int64_t> sizes, strides;
  int64_t offset;
  size_t bytes;
  explicit Snapshot(const at::Tensor& t)
      : tensor(t),
        storage(t.storage()),
        sizes(t.sizes().vec()),
        strides(t.strides().vec()),
        offset(t.storage_offset()),
        bytes(t.storage().nbytes()) {}
  bool moved() const {
    return tensor.storage().unsafeGetStorageImpl() != storage.unsafeGetStorageImpl() || tensor.sizes() != c10::IntArrayRef(sizes) ||
           tensor.storage().nbytes() != bytes;
  }
  void restore() const {
    auto* impl = tensor.unsafeGetTensorImpl();
    impl->set_storage_keep_dtype(storage);
    impl->set_sizes_and_strides(sizes, strides, offset);
  }
};

// CUDA graphs: does the device's current stream capture? An op then becomes a node of its graph instead of being executed.
bool in_capture(c10::Device device) {
  return __atomic_load_n(host->captures, __ATOMIC_RELAXED) && host->stream_capturing(c10::cuda::getCurrentCUDAStream(device.index()).stream());
}

// Which generator the op draws from, and where it stood. In a capture the state is what the program will write into device memory before each launch,
// and a place in the graph; PyTorch keeps count of the places, so that nothing is rewound there.
class Random {
 public:
  Random(const Op& op, const IValue* args, c10::Device device) {
    if (!op.random) return;
    for (size_t i = 0; i < op.arguments; i++)
      if (args[i].isGenerator() && args[i].toGenerator().device().is_cuda()) generator_ = args[i].toGenerator();
    if (!generator_.defined()) generator_ = at::cuda::detail::getDefaultCUDAGenerator(device.index());
    captured_ = in_capture(device);
    std::lock_guard lock(generator_.mutex());
    if (captured_) {
      in_memory_.intragraph = place();
    } else {
      state_.seed = impl()->current_seed();
      state_.offset = impl()->philox_offset_per_thread();
    }
  }
  void rewind() {
    if (!generator_.defined() || captured_) return;
    std::lock_guard lock(generator_.mutex());
    impl()->set_philox_offset_per_thread(state_.offset);
  }
  // When the original kernel did not run: by what one launch over the op's largest tensor takes.
  void advance(const std::vector<IValue>& args) {
    if (!generator_.defined()) return;
    std::lock_guard lock(generator_.mutex());
    if (captured_ ? place() != in_memory_.intragraph : impl()->philox_offset_per_thread() != state_.offset) return;
    uint64_t elements = 1, unroll = 4;
    for (const IValue& a : args)
      each_tensor(a, [&](const at::Tensor& t) {
        if (auto n = static_cast<uint64_t>(t.numel()); n >= elements) elements = n, unroll = t.scalar_type() == at::kDouble ? 2 : 4;
      });
    const cudaDeviceProp* p = at::cuda::getDeviceProperties(generator_.device().index());
    random::DeviceShape shape{static_cast<uint32_t>(p->multiProcessorCount), static_cast<uint32_t>(p->maxThreadsPerMultiProcessor)};
    uint64_t increment = random::Launch(elements, unroll, shape).increment();
    if (captured_) {
      impl()->philox_cuda_state(increment);
    } else {
      impl()->set_philox_offset_per_thread(state_.offset + increment);
    }
  }
  uint32_t flags() const {
    return (generator_.defined() ? uint32_t{wire::op::kHasGenerator} : 0) | (captured_ ? uint32_t{wire::op::kGeneratorInMemory} : 0);
  }
  void encode(Encoder& e) {
    if (!generator_.defined()) return;
    std::lock_guard lock(generator_.mutex());
    if (captured_) {
      in_memory_.intragraph_after = place();
      return e.generator(in_memory_);
    }
    state_.offset_after = impl()->philox_offset_per_thread();
    e.generator(state_);
  }

 private:
  at::CUDAGeneratorImpl* impl() { return generator_.get<at::CUDAGeneratorImpl>(); }
  uint64_t place() {
    at::PhiloxCudaState s = impl()->philox_cuda_state(0);
    in_memory_.seed_address = reinterpret_cast<uint64_t>(s.seed_.ptr);
    in_memory_.offset_address = reinterpret_cast<uint64_t>(s.offset_.ptr);
    return s.offset_intragraph_;
  }
  at::Generator generator_;
  wire::op::Generator state_{};
  bool captured_ = false;
  wire::op::GeneratorInMemory in_memory_{};
};

// Flags of PyTorch's global state that results depend on.
uint32_t global_flags() {
  auto& c = at::globalContext();
  uint32_t flags = 0;
  if (c.deterministicAlgorithms()) flags |= wire::op::kDeterministic;
  if (c.deterministicFillUninitializedMemory()) flags |= wire::op::kFillUninitialised;
  // not float32MatmulPrecision(): it throws when the program sets the precision through the newer API
  if (c.float32Precision(at::Float32Backend::CUDA, at::Float32Op::MATMUL) == at::Float32Precision::TF32) flags |= wire::op::kAllowTf32;
  return flags;
}

at::Tensor allocate_here(const OutputMeta& m) {
  static c10::Allocator* allocator = c10::GetAllocator(c10::kCUDA);
  return at::detail::empty_strided_generic(m.sizes, m.strides, allocator, c10::DispatchKeySet(c10::DispatchKey::CUDA), m.dtype);
}
// The allocator gives memory of the current device, which PyTorch's own kernel would have set.
at::Tensor allocate(const OutputMeta& m) {
  if (!several_devices()) return allocate_here(m);
  c10::DeviceGuard guard(c10::Device(c10::kCUDA, m.device));
  return allocate_here(m);
}

// A dense output that begins its own storage: such can be made again from its description.
bool describe(const at::Tensor& t, const std::vector<IValue>& args, OutputMeta& m) {
  if (!t.defined()) return m.kind = OutputMeta::Kind::undefined, true;
  if (t.is_cpu()) return m.kind = OutputMeta::Kind::host, m.host = t.clone(), t.numel() <= 16;
  if (!strided(t) || t.storage_offset() || t.is_conj() || t.is_neg()) return false;
  m.kind = OutputMeta::Kind::tensor;
  m.device = t.device().index();
  m.dtype = t.scalar_type();
  m.sizes = t.sizes().vec();
  m.strides = t.strides().vec();
  int64_t span = t.numel() ? 1 : 0;
  for (int64_t i = 0; span && i < t.dim(); i++) span += (t.size(i) - 1) * t.stride(i);
  if (t.storage().nbytes() != static_cast<size_t>(span) * t.itemsize()) return false;
  bool aliases = false;
  for (const IValue& a : args)
    each_tensor(a, [&](const at::Tensor& u) {
      aliases |= u.has_storage() && t.numel() && u.storage().unsafeGetStorageImpl() == t.storage().unsafeGetStorageImpl();
    });
  return !aliases;
}

bool describe(const IValue& v, const std::vector<IValue>& args, OutputMeta& m) {
  if (v.isTensor()) return describe(v.toTensor(), args, m);
  if (!v.isTensorList()) return false;
  m.kind = OutputMeta::Kind::list;
  for (const auto& e : v.toListRef()) {
    m.list.emplace_back();
    if (!describe(e.toTensor(), args, m.list.back()) || m.list.back().kind != OutputMeta::Kind::tensor) return false;
  }
  return true;
}

class OpScope final : public c10::OperatorKernel {
 public:
  OpScope(c10::SafeKernelFunction original, std::unique_ptr<Op> op)
      : original_(std::move(original)), op_(std::move(op)), checks_(host->checks() != 0) {
    cached_ = op_->cacheable && !checks_ && host->perf("shape_cache");
  }

  void operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet keys, Stack* stack) {
    if (redoing) return original_.callBoxed(handle, keys, stack);
    if (newcomers.load(std::memory_order_relaxed)) scan();
    const size_t base = stack->size() - op_->arguments;
    if (scope().depth > 0 && op_->mode != Mode::meta_first) return original_.callBoxed(handle, keys, stack);
    Arguments about = look(*op_, stack->data() + base);
    if (scope().depth > 0) return inside(stack, base, handle, keys, about);
    bool transfer = about.writes_host || about.stays_on_host || (about.host && op_->copies);
    if (!about.device || transfer) return original_.callBoxed(handle, keys, stack);
    if (several_devices() && op_->mode != Mode::client_first && !op_->copies) check_one_device(*op_, handle.schema(), stack->data() + base);
    define(*op_);
    make_room();
    Random random(*op_, stack->data() + base, *about.where);
    if (op_->mode == Mode::server_first && !(op_->may_alert && at::globalContext().deterministicAlgorithms()))
      return server_first(stack, base, *about.where, random);
    encode_arguments(stack->data() + base);
    Key key;
    if (cached_ && may_cache(stack->data() + base)) {
      if (answer_from_cache(stack, base, about, random)) return;
      key.emplace(encoder.key().begin(), encoder.key().end());
    }
    if (op_->mode == Mode::meta_first) {
      std::vector<IValue> args(stack->begin() + static_cast<ptrdiff_t>(base), stack->end());
      return redo(handle, args, stack, base, about, random, key);
    }
    client_first(handle, keys, stack, base, about, random, key);
  }

 private:
  enum class Path : uint8_t { cached, original, redone };  // where the outputs come from
  using Key = std::optional<std::vector<uint64_t>>;        // of the shape cache; none: this call is not for it

  void encode_arguments(const IValue* args) {
    encoder.start();
    starts_.clear();
    for (size_t i = 0; i < op_->arguments; i++) {
      starts_.push_back(encoder.position());
      encoder.value(args[i]);
    }
    starts_.push_back(encoder.position());
  }

  // PyTorch refuses to write where it reads; only its kernel knows when, so such calls always run it.
  bool writes_what_it_reads(const IValue* args) const {
    for (size_t i = 0; i < op_->arguments; i++) {
      if (!op_->writes[i] || !args[i].isTensor() || !args[i].toTensor().has_storage()) continue;
      const c10::StorageImpl* written = args[i].toTensor().storage().unsafeGetStorageImpl();
      for (size_t j = 0; j < op_->arguments; j++) {
        bool shared = false;
        if (j != i) each_tensor(args[j], [&](const at::Tensor& t) { shared |= t.has_storage() && t.storage().unsafeGetStorageImpl() == written; });
        if (shared) return true;
      }
    }
    return false;
  }

  // What shape inference reads outside the arguments is not cached away: deterministic mode fills outputs.
  bool may_cache(const IValue* args) const {
    if (op_->has_writes && writes_what_it_reads(args)) return false;
    if (op_->off_switch >= 0) {
      const IValue& p = args[op_->off_switch];
      if (!p.isDouble() || p.toDouble() != 0) return false;
      encoder.add_to_key(17);
    }
    encoder.add_to_key(static_cast<uint64_t>(c10::typeMetaToScalarType(c10::get_default_dtype())));  // sin(int) and the like
    return encoder.keyed() && !at::globalContext().deterministicAlgorithms();
  }

  // What is posted meanwhile is of this module, for errors: in the backward autograd knows it, and no module is being called.
  class OfPlace {
   public:
    explicit OfPlace(std::pair<uint32_t, uint32_t> place) : before_{scope().module, scope().line} { std::tie(scope().module, scope().line) = place; }
    ~OfPlace() { std::tie(scope().module, scope().line) = before_; }
    OfPlace(const OfPlace&) = delete;
    OfPlace& operator=(const OfPlace&) = delete;

   private:
    std::pair<uint32_t, uint32_t> before_;
  };

  // The module that the op is of, and the line if it is known here.
  std::pair<uint32_t, uint32_t> finish(Random& random, std::span<const IValue> args, std::span<const IValue> results, uint32_t scope_id = 0) {
    random.encode(encoder);
    uint32_t flags = global_flags() | random.flags();
    std::pair place{scope().module, scope().line};
    if (meaning::on()) {
      auto told = meaning::note(*op_, args, results);
      place = {told.module, told.line};
      if (told.context.context) {
        encoder.context(told.context);
        flags |= wire::op::kContextGiven;
      }
    }
    encoder.finish({op_->id, static_cast<uint16_t>(op_->arguments), static_cast<uint16_t>(op_->returns), flags, scope_id});
    return place;
  }

  void send(Random& random, const Arguments& about, Path path, std::span<const IValue> args, std::span<const IValue> results, uint32_t scope_id = 0) {
    OfPlace place(finish(random, args, results, scope_id));
    char text[2048];
    TORCH_CHECK(!host->sticky_error(text, sizeof text), "CUDA error: ", text);
    if (__atomic_load_n(host->captures, __ATOMIC_RELAXED)) {
      int recorded = 0;
      C10_CUDA_CHECK(static_cast<cudaError_t>(
          host->post_op(c10::cuda::getCurrentCUDAStream(about.where->index()).stream(), encoder.data(), encoder.bytes(), &recorded)));
      if (recorded) return;  // executed, and counted, when the graph is launched
    } else {
      post(wire::Opcode::op_run, encoder.data(), encoder.bytes());
    }
    host->count_op(path == Path::cached, path == Path::redone, 0);
    // CUDA_LAUNCH_BLOCKING=1: the error of this very op, at its line
    TORCH_CHECK(!host->blocking_error(text, sizeof text), "CUDA error: ", text);
  }

  bool answer_from_cache(Stack* stack, size_t base, const Arguments& about, Random& random) {
    auto outputs = op_->cache.find(encoder.key());
    if (!outputs) return false;
    c10::SmallVector<IValue, 4> results;
    for (const OutputMeta& m : *outputs) {
      switch (m.kind) {
        case OutputMeta::Kind::alias:
          encoder.alias(static_cast<size_t>(m.argument));
          results.push_back((*stack)[base + static_cast<size_t>(m.argument)]);
          break;
        case OutputMeta::Kind::undefined:
          encoder.output(at::Tensor());
          results.emplace_back(at::Tensor());
          break;
        case OutputMeta::Kind::host:
          encoder.output(at::Tensor());
          results.emplace_back(m.host.clone());
          break;
        case OutputMeta::Kind::tensor:
          results.emplace_back(allocate(m));
          encoder.output(results.back());
          break;
        case OutputMeta::Kind::list: {
          c10::List<at::Tensor> list;
          list.reserve(m.list.size());
          for (const OutputMeta& e : m.list) list.push_back(allocate(e));
          results.emplace_back(std::move(list));
          encoder.output(results.back());
          break;
        }
      }
    }
    send(random, about, Path::cached, {stack->data() + base, op_->arguments}, results);
    stack->erase(stack->begin() + static_cast<ptrdiff_t>(base), stack->end());
    for (auto& r : results) stack->push_back(std::move(r));
    return true;
  }

  uint32_t begin_scope() {
    djinn_scope& s = scope();
    s.abort = 0;
    s.why = "";
    s.op = op_->name.c_str();
    if (!checks_) return ++s.depth, 0;
    static std::atomic<uint32_t> next{0};
    uint32_t id = ++next;
    wire::op::Scope announced{id, op_->id};
    post(wire::Opcode::scope, &announced, sizeof announced);  // may throw: not yet inside
    ++s.depth;
    s.id = id;
    return id;
  }
  static void end_scope() {
    djinn_scope& s = scope();
    --s.depth;
    s.id = 0;
  }

  void client_first(const c10::OperatorHandle& handle, c10::DispatchKeySet keys, Stack* stack, size_t base, const Arguments& about, Random& random,
                    const Key& cache_key) {
    std::vector<IValue> args(stack->begin() + static_cast<ptrdiff_t>(base), stack->end());
    std::vector<Snapshot> snapshots;
    for (size_t i = 0; i < op_->arguments; i++)
      if (op_->writes[i])
        each_tensor(args[i], [&](const at::Tensor& t) {
          if (strided(t)) snapshots.emplace_back(t);
        });
    // the kernel may run ops of its own through the encoder of this thread: what is encoded so far is kept aside
    std::vector<uint64_t> before(encoder.words().begin(), encoder.words().end());
    std::vector<size_t> starts = starts_;
    std::exception_ptr error;
    uint32_t id = begin_scope();
    try {
      original_.callBoxed(handle, keys, stack);
    } catch (...) {
      error = std::current_exception();
    }
    end_scope();
    bool composite = !error && !scope().abort && returns_composite(*stack, base);
    if (scope().abort || composite) {
      for (auto& s : snapshots) s.restore();
      random.rewind();
      stack->resize(base);
      // members of a sparse result are made of values that only the server has
      if (composite) return server_first_with(args, stack, *about.where, random);
      restore_encoding(before, starts);
      return redo(handle, args, stack, base, about, random, cache_key);
    }
    if (error) std::rethrow_exception(error);  // PyTorch's own error about the arguments
    if (!op_->has_effect) return;              // a query of metadata: nothing to send
    restore_encoding(before, starts);
    bool moved = reencode_written(args, snapshots);
    for (size_t i = 0; i < op_->returns; i++) {
      if (op_->alias[i] >= 0) encoder.alias(static_cast<size_t>(op_->alias[i]));
      else encoder.output((*stack)[base + i]);
    }
    send(random, about, Path::original, args, {stack->data() + base, op_->returns}, id);
    if (!moved) remember(cache_key, args, stack, base);
  }

  bool returns_composite(const Stack& stack, size_t base) const {
    bool any = false;
    for (size_t i = 0; i < op_->returns; i++)
      if (op_->alias[i] < 0) each_tensor(stack[base + i], [&](const at::Tensor& t) { any |= t.is_cuda() && !strided(t); });
    return any;
  }

  void restore_encoding(const std::vector<uint64_t>& words, const std::vector<size_t>& starts) {
    encoder.start();
    encoder.append(std::span(words).subspan(encoder.position()));
    starts_ = starts;
  }

  // R5: out= arguments have their size by now. An in-place argument that its kernel resized goes as it was: the server needs its old contents.
  bool reencode_written(const std::vector<IValue>& args, const std::vector<Snapshot>& snapshots) {
    if (!op_->has_writes) return false;
    bool moved_any = false;
    std::vector<uint64_t> before(encoder.words().begin(), encoder.words().end());
    std::vector<size_t> starts = starts_;
    encoder.start();
    size_t k = 0;
    for (size_t i = 0; i < op_->arguments; i++) {
      bool moved = false;
      if (op_->writes[i])
        each_tensor(args[i], [&](const at::Tensor& t) {
          if (strided(t)) moved |= snapshots[k++].moved();
        });
      moved_any |= moved;
      if (op_->writes[i] && (!moved || op_->out[i])) encoder.value(args[i]);
      else encoder.append(std::span(before).subspan(starts[i], starts[i + 1] - starts[i]));
    }
    return moved_any;
  }

  void remember(const Key& key, const std::vector<IValue>& args, Stack* stack, size_t base) {
    if (!key) return;
    std::vector<OutputMeta> metas(op_->returns);
    for (size_t i = 0; i < op_->returns; i++) {
      if (op_->alias[i] >= 0) {
        metas[i].kind = OutputMeta::Kind::alias;
        metas[i].argument = op_->alias[i];
      } else if (!describe((*stack)[base + i], args, metas[i])) {
        return;
      }
    }
    op_->cache.add(*key, std::move(metas));
  }

  // ---- the kernel wanted a device value (or must not run): in place, Meta, server ----

  void redo(const c10::OperatorHandle& handle, const std::vector<IValue>& args, Stack* stack, size_t base, const Arguments& about, Random& random,
            const Key& key) {
    if (op_->mode == Mode::meta_first) stack->resize(base);
    if (in_place(args, stack, about, random) || by_meta(handle, args, stack, about, random)) return remember(key, args, stack, base);
    server_first_with(args, stack, *about.where, random);
  }

  bool plain(const std::vector<IValue>& args) const {
    bool all = true;
    for (const IValue& a : args) each_tensor(a, [&](const at::Tensor& t) { all &= strided(t); });
    return all;
  }

  // No new outputs: nothing to know, post it.
  bool in_place(const std::vector<IValue>& args, Stack* stack, const Arguments& about, Random& random) {
    for (uint8_t out : op_->out)
      if (out) return false;
    for (int a : op_->alias)
      if (a < 0) return false;
    if (!op_->has_writes || !plain(args)) return false;
    for (int a : op_->alias) encoder.alias(static_cast<size_t>(a));
    random.advance(args);
    send(random, about, Path::redone, args, {});
    for (int a : op_->alias) stack->push_back(args[static_cast<size_t>(a)]);
    return true;
  }

  // The Meta kernel knows shapes, strides and types of the outputs: allocate, post.
  bool by_meta(const c10::OperatorHandle& handle, const std::vector<IValue>& args, Stack* stack, const Arguments& about, Random& random) {
    if (op_->has_writes || !op_->has_effect || !plain(args)) return false;
    std::vector<IValue> outputs;
    if (!meta_outputs(handle, args, *about.where, outputs)) return false;
    for (const IValue& o : outputs) encoder.output(o);
    random.advance(args);
    send(random, about, Path::redone, args, outputs);
    for (auto& o : outputs) stack->push_back(std::move(o));
    return true;
  }

  // False: there is no Meta kernel, or it refuses these arguments: the server will say what is wrong.
  bool meta_outputs(const c10::OperatorHandle& handle, std::span<const IValue> args, c10::Device where, std::vector<IValue>& outputs) const {
    PlainDispatch dispatch;
    try {
      Stack meta;
      for (const IValue& a : args) meta.push_back(to_meta(a));
      handle.callBoxed(&meta);
      if (op_->convolves) meta[0] = in_backend_format(meta[0].toTensor(), args);
      for (const IValue& v : meta) outputs.push_back(from_meta(v, where));
      return true;
    } catch (const std::exception&) {
      return false;
    }
  }

  // A Python kernel (torch's own Triton kernels) inside another op's original kernel: it would compile for a GPU that is not here. Its outputs are
  // made and left empty, like all that is dropped here.
  void inside(Stack* stack, size_t base, const c10::OperatorHandle& handle, c10::DispatchKeySet keys, const Arguments& about) {
    std::vector<IValue> args(stack->begin() + static_cast<ptrdiff_t>(base), stack->end()), outputs;
    if (!about.device || op_->has_writes || !plain(args) || !meta_outputs(handle, args, *about.where, outputs))
      return original_.callBoxed(handle, keys, stack);
    stack->resize(base);
    for (auto& o : outputs) stack->push_back(std::move(o));
  }

  static IValue to_meta(const IValue& v) {
    auto one = [](const at::Tensor& t) {
      return t.defined() && t.is_cuda() ? at::empty_strided(t.sizes(), t.strides(), t.options().device(c10::kMeta)) : t;
    };
    if (v.isDevice()) return c10::Device(c10::kMeta);
    if (v.isGenerator()) return IValue();
    return map(v, one);
  }
  static IValue from_meta(const IValue& v, c10::Device device) {
    return map(v, [&](const at::Tensor& t) {
      if (!t.defined() || !t.is_meta()) return t;
      TORCH_CHECK(strided(t) && !c10::isQIntType(t.scalar_type()), "not a dense result");
      OutputMeta m;  // not at::empty_strided: in deterministic mode it fills, and nothing here is a scope
      m.device = device.index();
      m.dtype = t.scalar_type();
      m.sizes = t.sizes().vec();
      m.strides = t.strides().vec();
      return allocate(m);
    });
  }
  template <class F>
  static IValue map(const IValue& v, F f) {
    if (v.isTensor()) return f(v.toTensor());
    if (v.isTensorList()) {
      c10::List<at::Tensor> out;
      for (const auto& e : v.toListRef()) out.push_back(f(e.toTensor()));
      return out;
    }
    if (v.isList() && v.toList().elementType()->kind() == c10::TypeKind::OptionalType) {
      c10::List<std::optional<at::Tensor>> out;
      for (const auto& e : v.toListRef()) out.push_back(e.isTensor() ? std::optional(f(e.toTensor())) : std::nullopt);
      return out;
    }
    return v;
  }

  void server_first(Stack* stack, size_t base, c10::Device device, Random& random) {
    std::vector<IValue> args(stack->begin() + static_cast<ptrdiff_t>(base), stack->end());
    stack->resize(base);
    server_first_with(args, stack, device, random);
  }

  void server_first_with(const std::vector<IValue>& args, Stack* stack, c10::Device device, Random& random) {
    // the kernel would wait for a device value here; PyTorch's error is the one of that wait
    if (in_capture(device)) c10::cuda::getCurrentCUDAStream(device.index()).synchronize();
    encoder.start();
    for (size_t i = 0; i < op_->arguments; i++) {
      if (op_->out[i] && args[i].isTensor()) encoder.empty_output_argument(args[i].toTensor());
      else encoder.value(args[i]);
    }
    for (size_t i = 0; i < op_->returns; i++) encoder.none();
    random.advance(args);
    OfPlace place(finish(random, args, {}));
    host->count_op(0, 0, 1);
    PlainState plain;
    auto results = query(*op_, encoder, args, device);
    if (meaning::on()) meaning::made(*op_, args, results);
    for (auto& r : results) stack->push_back(std::move(r));
  }

  c10::SafeKernelFunction original_;
  std::unique_ptr<Op> op_;
  bool checks_, cached_ = false;
  static thread_local std::vector<size_t> starts_;
};

thread_local std::vector<size_t> OpScope::starts_;

// Call level: the original kernel does its work, and the calls in which it does it are said to be the op's. Ops inside of ops are part of them.
class Annotation final : public c10::OperatorKernel {
 public:
  Annotation(c10::SafeKernelFunction original, std::unique_ptr<Op> op) : original_(std::move(original)), op_(std::move(op)) {}

  void operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet keys, Stack* stack) {
    djinn_scope& s = scope();
    if (s.annotation) return original_.callBoxed(handle, keys, stack);
    if (newcomers.load(std::memory_order_relaxed)) scan();
    const size_t base = stack->size() - op_->arguments;
    std::vector<IValue> args(stack->begin() + static_cast<ptrdiff_t>(base), stack->end());
    define(*op_);
    auto told = meaning::note(*op_, args, {});
    {
      Annotated now(op_->id, told.context);
      original_.callBoxed(handle, keys, stack);
    }
    meaning::made(*op_, args, {stack->data() + base, op_->returns});
  }

 private:
  struct Annotated {
    Annotated(uint32_t op, const wire::op::OpContext& c) {
      static std::atomic<uint32_t> last{0};
      scope().annotation = op + 1;
      scope().run = ++last;
      scope().context = c.context;
      scope().step = c.step;
    }
    ~Annotated() { scope().annotation = scope().run = scope().context = scope().step = 0; }
    Annotated(const Annotated&) = delete;
    Annotated& operator=(const Annotated&) = delete;
  };
  c10::SafeKernelFunction original_;
  std::unique_ptr<Op> op_;
};

}  // namespace

void define(Op& op) {
  if (op.defined.load(std::memory_order_acquire)) return;
  std::vector<std::byte> payload;
  wire::Writer w(payload);
  w.put(wire::op::OpDefine{op.id});
  w.put_string(op.name);
  w.put_string(op.overload);
  // twice by two threads at once is harmless: the definition is the same, and each is before its own use
  post(wire::Opcode::op_define, payload.data(), payload.size());
  op.defined.store(true, std::memory_order_release);
}

c10::KernelFunction make_annotation(c10::SafeKernelFunction original, std::unique_ptr<Op> op) {
  return c10::KernelFunction::makeFromBoxedFunctor(std::make_unique<Annotation>(std::move(original), std::move(op)));
}

c10::KernelFunction make_scope(c10::SafeKernelFunction original, std::unique_ptr<Op> op) {
  return c10::KernelFunction::makeFromBoxedFunctor(std::make_unique<OpScope>(std::move(original), std::move(op)));
}

}  // namespace djinn::hook

// See encode.hpp.
#include "hooks/torch/encode.hpp"

#include <ATen/NestedTensorImpl.h>
#include <ATen/SparseCsrTensorUtils.h>
#include <ATen/native/SparseTensorUtils.h>
#include <ATen/quantized/QTensorImpl.h>
#include <ATen/quantized/Quantizer.h>

#include <c10/cuda/CUDAFunctions.h>

#include <atomic>
#include <cstring>
#include <mutex>

#include "hooks/torch/host.hpp"
#include "semantic/wire/limits.hpp"

namespace djinn::hook {

using wire::op::ListKind;
using wire::op::Tag;
using wire::op::word;

namespace {

// A host tensor travels inside the op; what is larger than this belongs on the device.
constexpr size_t kHostTensorMax = 2u << 20;
// Contents of a host tensor that the shape cache's key holds; an op with a larger one is not cached.
constexpr size_t kKeyedBytesMax = 512;
// Descriptions that one thread keeps before it forgets them all and begins anew.
constexpr size_t kInternedMax = 1u << 15;
constexpr size_t kSlotsAtFirst = 1u << 9;  // of its hash table, a power of two

uint16_t flags_of(const c10::TensorImpl* t) {
  using namespace wire::op;
  return static_cast<uint16_t>((t->is_wrapped_number() ? kWrappedNumber : 0) | (t->is_conj() ? kConjugate : 0) | (t->is_neg() ? kNegative : 0) |
                               (t->key_set().has(c10::DispatchKey::QuantizedCUDA) ? kQuantized : 0));
}

uint64_t mix(uint64_t h, uint64_t v) {
  h = (h ^ v) * 0x9E3779B97F4A7C15ull;
  return h ^ (h >> 29);
}

// Ids are the process's, because the server's table is the session's.
struct Ids {
  std::mutex mutex;
  uint32_t next = 0;
  std::vector<uint32_t> free;
  uint32_t take() {
    std::lock_guard lock(mutex);
    if (free.empty()) {
      TORCH_CHECK(next < wire::kTensorIdsMax, "Djinn: more than ", wire::kTensorIdsMax, " tensor descriptions are alive");
      return next++;
    }
    uint32_t id = free.back();
    free.pop_back();
    return id;
  }
  void give(const std::vector<uint32_t>& ids) {
    std::lock_guard lock(mutex);
    free.insert(free.end(), ids.begin(), ids.end());
  }
};
Ids& ids() {
  static Ids* i = new Ids;
  return *i;
}

// Open addressing over whole keys. A key is {storage, bytes, offset, dtype|flags|rank, sizes…, strides…}.
class InternTable {
 public:
  ~InternTable() {
    if (!ids_.empty()) forget();
  }
  void make_room() {
    if (ids_.size() >= kInternedMax) forget();
  }
  uint32_t id(const at::Tensor& t) {
    make_key(t);
    uint64_t h = 1;
    for (uint64_t v : key_) h = mix(h, v);
    if (2 * ids_.size() >= slots_.size()) grow();
    size_t mask = slots_.size() - 1, i = h & mask;
    for (; slots_[i].used; i = (i + 1) & mask)
      if (slots_[i].hash == h && same(slots_[i])) return slots_[i].id;
    // never forgotten here: ids of this table already stand in the op that is being encoded
    TORCH_CHECK(ids_.size() < kInternedMax + kInternedMax / 2, "Djinn: one operator with more than ", kInternedMax / 2, " new tensors");
    uint32_t id = ids().take();
    define(id, t);
    slots_[i] = {h, id, static_cast<uint32_t>(keys_.size()), static_cast<uint32_t>(key_.size()), true};
    keys_.insert(keys_.end(), key_.begin(), key_.end());
    ids_.push_back(id);
    return id;
  }

 private:
  struct Slot {
    uint64_t hash = 0;
    uint32_t id = 0, key_at = 0, key_size = 0;
    bool used = false;
  };
  // Small at first: DataParallel starts threads at each step.
  void grow() {
    std::vector<Slot> before = std::move(slots_);
    slots_.assign(before.empty() ? kSlotsAtFirst : 2 * before.size(), Slot{});
    for (const Slot& s : before) {
      size_t mask = slots_.size() - 1, i = s.hash & mask;
      while (s.used && slots_[i].used) i = (i + 1) & mask;
      if (s.used) slots_[i] = s;
    }
  }
  bool same(const Slot& s) const { return s.key_size == key_.size() && !std::memcmp(&keys_[s.key_at], key_.data(), key_.size() * sizeof(uint64_t)); }
  void make_key(const at::Tensor& t) {
    auto* impl = t.unsafeGetTensorImpl();
    auto sizes = t.sizes(), strides = t.strides();
    key_.clear();
    key_.push_back(reinterpret_cast<uint64_t>(t.storage().data()));
    key_.push_back(t.storage().nbytes());
    key_.push_back(static_cast<uint64_t>(t.storage_offset()));
    key_.push_back(static_cast<uint64_t>(t.scalar_type()) | uint64_t{flags_of(impl)} << 8 | sizes.size() << 32);
    for (int64_t n : sizes) key_.push_back(static_cast<uint64_t>(n));
    for (int64_t n : strides) key_.push_back(static_cast<uint64_t>(n));
  }
  void define(uint32_t id, const at::Tensor& t) {
    wire::op::TensorDefine d{id,
                             static_cast<uint8_t>(t.dim()),
                             static_cast<uint8_t>(t.scalar_type()),
                             flags_of(t.unsafeGetTensorImpl()),
                             key_[0],
                             key_[1],
                             t.storage_offset()};
    TORCH_CHECK(t.dim() <= static_cast<int64_t>(wire::kRankMax), "Djinn: tensors of more than ", wire::kRankMax, " dimensions are not supported");
    define_.resize(sizeof d / 8 + 2 * static_cast<size_t>(t.dim()));
    std::memcpy(define_.data(), &d, sizeof d);
    std::memcpy(define_.data() + sizeof d / 8, key_.data() + 4, 2 * static_cast<size_t>(t.dim()) * 8);
    post(wire::Opcode::tensor_define, define_.data(), define_.size() * 8);
  }
  void forget() {
    std::vector<std::byte> payload;
    wire::Writer w(payload);
    w.put_array(std::span<const uint32_t>(ids_));
    host->post(static_cast<uint32_t>(wire::Opcode::tensor_forget), 0, payload.data(), payload.size());
    ids().give(ids_);
    ids_.clear();
    keys_.clear();
    std::fill(slots_.begin(), slots_.end(), Slot{});
  }
  std::vector<Slot> slots_;
  std::vector<uint64_t> keys_, key_, define_;
  std::vector<uint32_t> ids_;
};

}  // namespace

static InternTable& table() {
  static thread_local InternTable t;
  return t;
}
uint32_t intern(const at::Tensor& t) { return table().id(t); }
void make_room() { table().make_room(); }

void Encoder::start() {
  words_.assign(sizeof(wire::op::OpHead) / 8, 0);
  key_.clear();
  after_tensor_ = false;
  keyed_ = true;
}

void Encoder::finish(const wire::op::OpHead& head) { std::memcpy(words_.data(), &head, sizeof head); }

void Encoder::alias(size_t argument) { words_.push_back(word(Tag::alias, 0, 0, static_cast<uint32_t>(argument))); }

void Encoder::empty_output_argument(const at::Tensor& t) {
  words_.insert(words_.end(), {word(Tag::host_tensor, 1, static_cast<uint16_t>(t.scalar_type())), 0, 0});
}

void Encoder::tensor(const at::Tensor& t) {
  after_tensor_ = true;
  if (!t.defined()) {
    words_.push_back(word(Tag::undefined));
    key_.push_back(3);
    return;
  }
  if (t.is_cpu()) return host_tensor(t);
  if (t.layout() != c10::kStrided || t.is_nested() || t.is_quantized()) return composite(t);
  TORCH_CHECK(t.is_cuda(), "Djinn: a tensor on ", t.device(), " cannot be an argument of a CUDA operator");
  key_.push_back(static_cast<uint64_t>(t.scalar_type()) | uint64_t{flags_of(t.unsafeGetTensorImpl())} << 8 | static_cast<uint64_t>(t.dim()) << 32 |
                 uint64_t{t.storage_offset() != 0} << 40 | static_cast<uint64_t>(t.get_device()) << 48 |
                 uint64_t{1} << 63);  // unlike any other kind of argument
  for (int64_t n : t.sizes()) key_.push_back(static_cast<uint64_t>(n));
  for (int64_t n : t.strides()) key_.push_back(static_cast<uint64_t>(n));
  if (t._is_zerotensor() || !t.has_storage() || (!t.storage().data() && t.numel()))
    TORCH_CHECK_NOT_IMPLEMENTED(false, "Djinn: a tensor without storage cannot be sent");
  words_.push_back(word(Tag::tensor, 0, 0, intern(t)));
}

// By value, with the flag that type promotion needs.
void Encoder::host_tensor(const at::Tensor& t) {
  at::Tensor c = t.layout() == c10::kStrided ? t.resolve_conj().resolve_neg().contiguous() : t;
  TORCH_CHECK_NOT_IMPLEMENTED(t.layout() == c10::kStrided && !t.is_nested() && !t.is_quantized(), "Djinn: a host tensor of layout ", t.layout(),
                              " in a CUDA operator is not supported yet");
  TORCH_CHECK(c.nbytes() <= kHostTensorMax, "Djinn: a host tensor of ", c.nbytes(),
              " bytes in a CUDA operator is too large; move it to the device first");
  uint16_t flags = t.unsafeGetTensorImpl()->is_wrapped_number() ? wire::op::kWrappedNumber : 0;
  uint64_t head = word(Tag::host_tensor, static_cast<uint8_t>(c.dim()), static_cast<uint16_t>(static_cast<uint16_t>(c.scalar_type()) | flags << 8));
  words_.push_back(head);
  words_.push_back(c.nbytes());
  key_.push_back(head | uint64_t{1} << 62);
  for (int64_t n : c.sizes()) {
    words_.push_back(static_cast<uint64_t>(n));
    key_.push_back(static_cast<uint64_t>(n));
  }
  size_t at = words_.size();
  words_.resize(at + (c.nbytes() + 7) / 8);
  if (c.nbytes()) std::memcpy(words_.data() + at, c.const_data_ptr(), c.nbytes());
  // Masks and indices decide shapes by their values; a lone number decides values only.
  bool decides_shape = c.dim() > 0 || c.scalar_type() == c10::kBool || c.scalar_type() == c10::kByte;
  if (decides_shape && c.nbytes() <= kKeyedBytesMax) key_.insert(key_.end(), words_.begin() + static_cast<ptrdiff_t>(at), words_.end());
  else if (decides_shape) keyed_ = false;
}

// Sparse, nested and quantised tensors travel as their members. They take part in server-first ops only, so the shape cache never sees them.
void Encoder::composite(const at::Tensor& t) {
  auto sizes = [&] {
    for (int64_t n : t.sizes()) words_.push_back(static_cast<uint64_t>(n));
  };
  auto dtype = static_cast<uint16_t>(t.scalar_type());
  if (t.is_sparse()) {
    words_.push_back(word(Tag::sparse_tensor, t.is_coalesced(), dtype, static_cast<uint32_t>(t.dim())));
    sizes();
    auto* s = at::sparse::get_sparse_impl(t);
    tensor(s->indices());
    tensor(s->values());
  } else if (at::sparse_csr::is_sparse_compressed(t)) {
    words_.push_back(word(Tag::compressed_tensor, static_cast<uint8_t>(t.layout()), dtype, static_cast<uint32_t>(t.dim())));
    sizes();
    auto* s = at::sparse_csr::get_sparse_csr_impl(t);
    tensor(s->compressed_indices());
    tensor(s->plain_indices());
    tensor(s->values());
  } else if (t.is_nested()) {
    auto* n = at::native::get_nested_tensor_impl(t);
    words_.push_back(word(Tag::nested_tensor, 0, dtype));
    tensor(n->get_unsafe_storage_as_tensor());
    host_tensor(n->get_nested_sizes());
    host_tensor(n->get_nested_strides());
    host_tensor(n->get_storage_offsets());
  } else if (t.is_quantized() && t.layout() == c10::kStrided) {
    quantized(t);
  } else {
    TORCH_CHECK_NOT_IMPLEMENTED(false, "Djinn: tensors of layout ", t.layout(), " and type ", t.scalar_type(), " are not supported yet");
  }
}

// The integers, then what the quantizer knows: scale and zero point, or those of each channel and its axis.
void Encoder::quantized(const at::Tensor& t) {
  const auto& quantizer = at::get_qtensorimpl(t)->quantizer();
  bool channels = quantizer->qscheme() == at::kPerChannelAffine;
  TORCH_CHECK_NOT_IMPLEMENTED(channels || quantizer->qscheme() == at::kPerTensorAffine, "Djinn: tensors quantized as ",
                              at::toString(quantizer->qscheme()), " are not supported yet");
  words_.push_back(word(Tag::quantized_tensor, channels, static_cast<uint16_t>(t.scalar_type())));
  words_.push_back(word(Tag::tensor, 0, 0, intern(t)));
  if (channels) {
    auto* each = static_cast<const at::PerChannelAffineQuantizer*>(quantizer.get());
    tensor(each->scales());
    tensor(each->zero_points());
    value(each->axis());
  } else {
    auto* all = static_cast<const at::PerTensorAffineQuantizer*>(quantizer.get());
    value(all->scale());
    value(all->zero_point());
  }
}

void Encoder::put_real(double d) {
  uint64_t bits;
  std::memcpy(&bits, &d, sizeof bits);
  words_.push_back(bits);
}

// A real number after the first tensor (lr, eps, a bias correction that changes each step) decides values, not shapes.
void Encoder::real(double d, bool in_list) {
  put_real(d);
  key_.push_back(after_tensor_ && !in_list ? 9 : words_.back());
}

void Encoder::value(const c10::IValue& v) {
  if (v.isTensor()) return tensor(v.toTensor());
  if (v.isNone()) {
    words_.push_back(word(Tag::none));
    key_.push_back(1);
  } else if (v.isInt()) {
    words_.insert(words_.end(), {word(Tag::integer), static_cast<uint64_t>(v.toInt())});
    key_.insert(key_.end(), {4, static_cast<uint64_t>(v.toInt())});
  } else if (v.isSymInt()) {
    value(v.toSymInt().guard_int(__FILE__, __LINE__));
  } else if (v.isDouble()) {
    words_.push_back(word(Tag::real));
    real(v.toDouble(), false);
  } else if (v.isBool()) {
    words_.push_back(word(Tag::boolean, v.toBool()));
    key_.push_back(11 + v.toBool());
  } else if (v.isComplexDouble()) {
    words_.push_back(word(Tag::complex));
    put_real(v.toComplexDouble().real());
    put_real(v.toComplexDouble().imag());
    key_.push_back(5);
  } else if (v.isString()) {
    const std::string& s = v.toStringRef();
    words_.push_back(word(Tag::string, 0, 0, static_cast<uint32_t>(s.size())));
    size_t at = words_.size();
    words_.resize(at + (s.size() + 7) / 8);
    std::memcpy(words_.data() + at, s.data(), s.size());
    key_.insert(key_.end(), words_.begin() + static_cast<ptrdiff_t>(at) - 1, words_.end());
  } else if (v.isDevice()) {
    c10::Device d = v.toDevice();
    // "cuda" means the current one, which the key must say
    auto index = !d.is_cuda() ? 0 : d.has_index() ? d.index() : c10::cuda::current_device();
    words_.push_back(word(Tag::device, d.is_cuda(), static_cast<uint16_t>(index)));
    key_.push_back(words_.back());
  } else if (v.isGenerator()) {
    words_.push_back(word(Tag::generator));
    key_.push_back(13);
  } else if (v.isList()) {
    list(v);
  } else {
    TORCH_CHECK_NOT_IMPLEMENTED(false, "Djinn: an argument of type ", v.tagKind(), " is not supported yet");
  }
}

void Encoder::list(const c10::IValue& v) {
  auto begin = [&](ListKind kind, size_t n) {
    TORCH_CHECK(n <= wire::kListMax, "Djinn: a list of ", n, " elements is too long");
    words_.push_back(word(Tag::list, static_cast<uint8_t>(kind), 0, static_cast<uint32_t>(n)));
    key_.push_back(words_.back());
  };
  auto elements = v.toListRef();
  auto kind = v.toList().elementType()->kind();
  switch (kind) {
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType:
      begin(ListKind::integers, elements.size());
      for (auto& e : elements) {
        int64_t n = e.isInt() ? e.toInt() : e.toSymInt().guard_int(__FILE__, __LINE__);
        words_.push_back(static_cast<uint64_t>(n));
        key_.push_back(static_cast<uint64_t>(n));
      }
      return;
    case c10::TypeKind::FloatType:
      begin(ListKind::reals, elements.size());
      for (auto& e : elements) real(e.toDouble(), true);
      return;
    case c10::TypeKind::BoolType:
      begin(ListKind::booleans, elements.size());
      for (auto& e : elements) {
        words_.push_back(e.toBool());
        key_.push_back(e.toBool());
      }
      return;
    case c10::TypeKind::TensorType:
      begin(ListKind::tensors, elements.size());
      for (auto& e : elements) tensor(e.toTensor());
      return;
    case c10::TypeKind::OptionalType:
      begin(ListKind::optional_tensors, elements.size());
      for (auto& e : elements) {
        if (e.isTensor()) tensor(e.toTensor());
        else value(e);
      }
      return;
    case c10::TypeKind::StringType:
      begin(ListKind::strings, elements.size());
      for (auto& e : elements) value(e);
      return;
    default:  // numbers (Scalar[]), a type of PyTorch's, not ours
      begin(ListKind::numbers, elements.size());
      for (auto& e : elements) value(e);
  }
}

void Encoder::output(const c10::IValue& v) {
  auto one = [&](const at::Tensor& t) {
    if (t.defined() && t.is_cuda() && t.numel()) tensor(t);
    else words_.push_back(word(Tag::undefined));
  };
  if (v.isTensor()) return one(v.toTensor());
  if (!v.isTensorList()) return none();
  auto elements = v.toListRef();
  words_.push_back(word(Tag::list, static_cast<uint8_t>(ListKind::tensors), 0, static_cast<uint32_t>(elements.size())));
  for (auto& e : elements) one(e.toTensor());
}

}  // namespace djinn::hook

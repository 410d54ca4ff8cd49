// A client's side of the op level for tests: an arena, tensors in it, and op records made from IValues. It plays hooks/torch and the session at once.
#pragma once
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/InferenceMode.h>
#include <dlfcn.h>
#include <sys/mman.h>

#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "semantic/abi/executor.h"
#include "semantic/wire/codec.hpp"
#include "semantic/wire/command.hpp"
#include "semantic/wire/op.hpp"

namespace djinn::aten_test {

using at::Tensor;
using c10::IValue;
using namespace wire::op;

inline const djinn_executor& library() {
  static const djinn_executor* table = [] {
    void* so = dlopen(DJINN_ATEN_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!so) throw std::runtime_error(dlerror());
    char error[256] = "";
    auto load = reinterpret_cast<djinn_executor_load_fn>(dlsym(so, "djinn_executor_load"));
    const auto* t = load("", error, sizeof error);
    if (!t) throw std::runtime_error(error);
    return t;
  }();
  return *table;
}

struct Result {
  int code;
  uint32_t error_class;
  std::string operation, text;
  std::vector<std::byte> reply;
};

// Where a result goes: a tensor of the arena, a list of them, an alias, or nothing.
struct Out {
  std::vector<Tensor> tensors;
  bool list = false;
  int alias = -1;
  Out() = default;
  Out(Tensor t) : tensors{std::move(t)} {}
  Out(std::vector<Tensor> t) : tensors(std::move(t)), list(true) {}
  static Out aliases(int argument) {
    Out o;
    o.alias = argument;
    return o;
  }
};

class Client {
 public:
  static constexpr uint64_t kArena = 512ull << 20;

  explicit Client(int threads = 1) {
    base_ = static_cast<char*>(mmap(nullptr, kArena, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    host_ = {DJINN_EXECUTOR_VERSION, sizeof host_, this, &Client::live, &Client::epoch, address(base_), kArena, nullptr, 4, 1536};
    live_end_ = kArena;
    self_ = library().open(&host_, threads);
    if (!self_) throw std::runtime_error("the executor does not open");
  }
  ~Client() {
    library().close(self_);
    munmap(base_, kArena);
  }

  // Memory of the session beyond this offset dies.
  void shrink(uint64_t end) { live_end_ = end, epoch_++; }

  Tensor empty(at::IntArrayRef sizes, at::ScalarType type) { return strided(sizes, c10::contiguous_strides(sizes), type); }
  Tensor strided(at::IntArrayRef sizes, at::IntArrayRef strides, at::ScalarType type) {
    size_t bytes = at::detail::computeStorageNbytes(sizes, strides, c10::elementSize(type));
    char* p = base_ + next_;
    next_ += (bytes + 511) / 512 * 512;
    if (next_ > kArena) throw std::runtime_error("test arena is full");
    return at::from_blob(p, sizes, strides, at::TensorOptions().dtype(type));
  }
  Tensor like(const Tensor& t) { return strided(t.sizes(), t.strides(), t.scalar_type()); }
  Tensor put(const Tensor& t) {
    Tensor d = t.is_non_overlapping_and_dense() ? like(t) : empty(t.sizes(), t.scalar_type());
    d.copy_(t);
    return d;
  }

  Result execute(wire::Opcode opcode, const std::vector<std::byte>& payload) {
    djinn_executor_result r{};
    library().execute(self_, static_cast<uint32_t>(opcode), ++ticket_, payload.data(), payload.size(), &r);
    return result(r);
  }
  Result graph_add(uint64_t graph, const std::vector<std::byte>& payload) {
    djinn_executor_result r{};
    library().graph_add(self_, graph, payload.data(), payload.size(), &r);
    return result(r);
  }
  Result graph_run(uint64_t graph, uint64_t index) {
    djinn_executor_result r{};
    library().graph_run(self_, graph, index, &r);
    return result(r);
  }
  void graph_drop(uint64_t graph) { library().graph_drop(self_, graph); }
  static Result result(const djinn_executor_result& r) {
    auto* reply = static_cast<const std::byte*>(r.reply);
    return {r.code, r.error_class, r.operation ? r.operation : "", r.text ? r.text : "", {reply, reply + r.reply_size}};
  }

  void raw(wire::Opcode opcode, const std::vector<std::byte>& payload, djinn_executor_result& r) {
    library().execute(self_, static_cast<uint32_t>(opcode), ++ticket_, payload.data(), payload.size(), &r);
  }

  uint32_t define(const std::string& name, const std::string& overload) {
    auto [it, fresh] = ops_.emplace(name + "." + overload, ops_.size());
    if (fresh) {
      std::vector<std::byte> b;
      wire::Writer w(b);
      w.put(OpDefine{it->second});
      w.put_string(name), w.put_string(overload);
      if (auto r = execute(wire::Opcode::op_define, b); r.code) throw std::runtime_error(r.text);
    }
    return it->second;
  }
  std::vector<std::byte> definition(const Tensor& t, uint32_t id) {
    std::vector<std::byte> b;
    wire::Writer w(b);
    uint16_t flags =
        (t.unsafeGetTensorImpl()->is_wrapped_number() ? kWrappedNumber : 0) | (t.is_conj() ? kConjugate : 0) | (t.is_neg() ? kNegative : 0);
    uint64_t storage = address(t.storage().data());
    w.put(TensorDefine{id, static_cast<uint8_t>(t.dim()), static_cast<uint8_t>(t.scalar_type()), flags, storage, t.storage().nbytes(),
                       t.storage_offset()});
    for (auto s : t.sizes()) w.put(s);
    for (auto s : t.strides()) w.put(s);
    return b;
  }
  uint32_t define(const Tensor& t) {
    uint32_t id = next_id_++ % 4096;
    if (auto r = execute(wire::Opcode::tensor_define, definition(t, id)); r.code) throw std::runtime_error(r.text);
    return id;
  }

  // {op head, arguments, outputs, generator}
  std::vector<std::byte> record(const std::string& name, const std::string& overload, const std::vector<IValue>& arguments,
                                const std::vector<Out>& outputs, uint32_t flags = 0, Generator g = {}) {
    uint32_t op = define(name, overload);
    std::vector<std::byte> b;
    wire::Writer w(b);
    w.put(OpHead{op, static_cast<uint16_t>(arguments.size()), static_cast<uint16_t>(outputs.size()), flags, 0});
    for (auto& a : arguments) value(w, a);
    for (auto& o : outputs) {
      if (o.list) w.put(word(Tag::list, static_cast<uint8_t>(ListKind::tensors), 0, static_cast<uint32_t>(o.tensors.size())));
      if (o.alias >= 0) w.put(word(Tag::alias, 0, 0, static_cast<uint32_t>(o.alias)));
      if (o.alias < 0 && !o.list && o.tensors.empty()) w.put(word(Tag::none));
      for (auto& t : o.tensors) w.put(t.defined() ? word(Tag::tensor, 0, 0, define(t)) : word(Tag::undefined));
    }
    if (flags & kHasGenerator) w.put(g);
    return b;
  }
  Result run(const std::string& name, const std::string& overload, const std::vector<IValue>& arguments, const std::vector<Out>& outputs,
             uint32_t flags = 0, Generator g = {}) {
    return execute(wire::Opcode::op_run, record(name, overload, arguments, outputs, flags, g));
  }
  Result query(const std::string& name, const std::string& overload, const std::vector<IValue>& arguments, size_t outputs) {
    return execute(wire::Opcode::op_query, record(name, overload, arguments, std::vector<Out>(outputs)));
  }

  bool inside(const Tensor& t) const {
    auto* p = static_cast<const char*>(t.storage().data());
    return p >= base_ && p < base_ + kArena;
  }
  char* base() const { return base_; }

  // One argument, as words.
  void value(wire::Writer& w, const IValue& v) {
    if (v.isTensor()) return tensor(w, v.toTensor());
    if (v.isNone()) return w.put(word(Tag::none));
    if (v.isBool()) return w.put(word(Tag::boolean, v.toBool()));
    if (v.isInt()) return w.put(word(Tag::integer)), w.put(v.toInt());
    if (v.isDouble()) return w.put(word(Tag::real)), w.put(v.toDouble());
    if (v.isDevice()) return w.put(word(Tag::device, 1));
    if (v.isGenerator()) return w.put(word(Tag::generator));
    if (v.isString()) {
      auto s = v.toStringRef();
      w.put(word(Tag::string, 0, 0, static_cast<uint32_t>(s.size())));
      return static_cast<void>(std::memcpy(w.grow(wire::align8(s.size())), s.data(), s.size()));
    }
    if (v.isTensorList()) {
      list(w, ListKind::tensors, v.toTensorList().size());
      for (const Tensor& t : v.toTensorList()) tensor(w, t);
      return;
    }
    if (v.isOptionalTensorList()) {
      list(w, ListKind::optional_tensors, v.toOptionalTensorList().size());
      for (std::optional<Tensor> t : v.toOptionalTensorList()) t ? tensor(w, *t) : w.put(word(Tag::none));
      return;
    }
    if (v.isIntList()) {
      list(w, ListKind::integers, v.toIntVector().size());
      for (int64_t i : v.toIntVector()) w.put(i);
      return;
    }
    if (v.isDoubleList()) {
      list(w, ListKind::reals, v.toDoubleVector().size());
      for (double d : v.toDoubleVector()) w.put(d);
      return;
    }
    if (v.isBoolList()) {
      list(w, ListKind::booleans, v.toBoolList().size());
      for (bool b : v.toBoolList()) w.put<uint64_t>(b);
      return;
    }
    throw std::runtime_error("test: a value that this client cannot encode");
  }

 private:
  static uint64_t address(const void* p) { return reinterpret_cast<uint64_t>(p); }
  static int live(void* self, uint64_t a, uint64_t n) {
    auto* c = static_cast<Client*>(self);
    uint64_t low = address(c->base_), high = low + c->live_end_;
    return a >= low && a <= high && n <= high - a;
  }
  static uint64_t epoch(void* self) { return static_cast<Client*>(self)->epoch_; }

  void tensor(wire::Writer& w, const Tensor& t) {
    if (!t.defined()) return w.put(word(Tag::undefined));
    if (t.is_sparse()) {
      w.put(word(Tag::sparse_tensor, t.is_coalesced(), static_cast<uint16_t>(t.scalar_type()), static_cast<uint32_t>(t.dim())));
      for (auto s : t.sizes()) w.put(s);
      return tensor(w, t._indices()), tensor(w, t._values());
    }
    if (inside(t)) return w.put(word(Tag::tensor, 0, 0, define(t)));
    Tensor c = t.contiguous();
    uint16_t flags = t.unsafeGetTensorImpl()->is_wrapped_number() ? kWrappedNumber : 0;
    w.put(word(Tag::host_tensor, static_cast<uint8_t>(t.dim()), static_cast<uint16_t>(static_cast<uint8_t>(t.scalar_type()) | flags << 8)));
    w.put<uint64_t>(c.nbytes());
    for (auto s : t.sizes()) w.put(s);
    if (c.nbytes()) std::memcpy(w.grow(wire::align8(c.nbytes())), c.const_data_ptr(), c.nbytes());
  }
  void list(wire::Writer& w, ListKind kind, size_t n) { w.put(word(Tag::list, static_cast<uint8_t>(kind), 0, static_cast<uint32_t>(n))); }
  char* base_;
  uint64_t next_ = 0, live_end_ = 0, epoch_ = 1, ticket_ = 0;
  uint32_t next_id_ = 0;
  djinn_executor_host host_{};
  void* self_;
  std::map<std::string, uint64_t> ops_;
};

inline IValue ints(std::initializer_list<int64_t> v) { return IValue(std::vector<int64_t>(v)); }
inline IValue tensors(std::initializer_list<Tensor> v) { return IValue(c10::List<Tensor>(v)); }
inline IValue bools(std::initializer_list<bool> v) { return IValue(c10::List<bool>(v)); }
inline bool close(const Tensor& a, const Tensor& b, double tolerance = 1e-5) {
  return a.sizes() == b.sizes() && at::allclose(a.to(at::kDouble), b.to(at::kDouble), tolerance, tolerance);
}

}  // namespace djinn::aten_test

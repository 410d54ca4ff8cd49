// Handles and descriptors of the CUDA libraries (cuBLAS, cuDNN …): minted here, never translated, never sent. All libraries share one space of ids,
// since PyTorch passes a cuBLAS handle where a cuBLASLt handle is wanted. What a handle's state means to the server travels by value inside the calls
// that use it. The generated entry points (semantic/api) are written in terms of this file. Mirror: server/decode/library.cpp, which knows no
// handles.
#pragma once
#include <concepts>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "interpose/client.hpp"
#include "interpose/encode/graph.hpp"
#include "semantic/api/values.hpp"

// An absent function yields to a hand-written one of the same name; a test compares symbols and ledger.
#define DJINN_ABSENT extern "C" __attribute__((visibility("default"), weak))

namespace djinn::library {

// ---- the ledger, for questions at run time ----
enum class Mode : uint8_t { post, local, custom, absent };
struct Function {
  std::string_view name;
  Mode mode;
  uint32_t opcode;  // 0: none of its own
};
std::span<const Function> functions();  // in order of name
const Function* find_function(std::string_view name);

// ---- objects ----
// A kind is a hash of the handle's C type, or of a setter's name: FNV-1a, so that it is a constant wherever it is written.
constexpr uint32_t kind(std::string_view name) {
  uint32_t hash = 2166136261u;
  for (char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
  return hash;
}

struct Object {
  explicit Object(uint32_t k) : kind(k) {}
  virtual ~Object() = default;
  const uint32_t kind;
};

// Ids are positive and fit into an int (cufftHandle is one). A destroyed id is not minted again before the generation counter has gone round.
uint64_t insert(Object* object);           // takes it over; 0 when there are too many
Object* find(uint64_t id, uint32_t kind);  // null unless the id lives and is of that kind
bool erase(uint64_t id, uint32_t kind);

template <class H>
uint64_t id_of(H handle) {
  if constexpr (std::is_pointer_v<H>) return reinterpret_cast<uint64_t>(handle);
  else return static_cast<uint64_t>(handle);
}
template <class H>
H handle_of(uint64_t id) {
  if constexpr (std::is_pointer_v<H>) return reinterpret_cast<H>(id);
  else return static_cast<H>(id);
}

// What setters have been given, byte for byte: for objects of which nothing but their own getters ever reads it.
struct Plain final : Object {
  using Object::Object;
  template <class... V>
  void keep(uint32_t word, const V&... values) {
    std::vector<std::byte>& bytes = slot(word);
    bytes.resize((sizeof values + ...));
    std::byte* p = bytes.data();
    ((std::memcpy(p, &values, sizeof values), p += sizeof values), ...);
  }
  template <class T>
  void recall(uint32_t word, T& out) const {
    std::memset(&out, 0, sizeof out);
    for (const auto& [w, bytes] : kept_)
      if (w == word) std::memcpy(&out, bytes.data(), bytes.size() < sizeof out ? bytes.size() : sizeof out);
  }

 private:
  std::vector<std::byte>& slot(uint32_t word) {
    for (auto& [w, bytes] : kept_)
      if (w == word) return bytes;
    return kept_.emplace_back(word, std::vector<std::byte>{}).second;
  }
  std::vector<std::pair<uint32_t, std::vector<std::byte>>> kept_;
};

template <class H>
bool mint(H* out, uint32_t kind) {
  uint64_t id = out ? insert(new Plain(kind)) : 0;
  if (id) *out = handle_of<H>(id);
  return id != 0;
}
template <class H>
Plain* plain(H handle, uint32_t kind) {
  return static_cast<Plain*>(find(id_of(handle), kind));
}
template <class H>
bool forget(H handle, uint32_t kind) {
  return erase(id_of(handle), kind);
}

// ---- cuBLAS handles (entry/cublas.cpp) ----
inline constexpr uint32_t kBlasKind = kind("cublasHandle_t");
inline constexpr uint32_t kPointersOnHost = 0, kPointersOnDevice = 1;  // cublasPointerMode_t

struct Blas final : Object {
  Blas() : Object(kBlasKind) {}
  uint64_t stream = 0;
  uint32_t pointer_mode = kPointersOnHost, math_mode = 0, atomics_mode = 0;
  int32_t multiprocessors = 0;
  void* workspace = nullptr;
  size_t workspace_bytes = 0;

  api::HandleState state() const { return {stream, math_mode, static_cast<uint32_t>(multiprocessors)}; }
  api::Scalar scalar(const void* p, size_t bytes) const;
};
template <class H>
Blas* blas(H handle) {
  return static_cast<Blas*>(find(id_of(handle), kBlasKind));
}
// Bytes of alpha and beta for a cublasComputeType_t and, where that leaves it open (complex), the output's cudaDataType.
size_t scalar_bytes(int compute_type, int output_type);

// ---- for generated code ----
// True when device work is dropped here, because the op of this thread's scope computes it.
bool dropped(const char* name);
// A parameter of type T may travel as W: same size, and both signed, or both not, or an enum as its number.
template <class T, class W>
constexpr bool travels_as = sizeof(T) == sizeof(W) &&
                            (std::is_enum_v<T> ? std::is_same_v<W, uint32_t> : std::is_arithmetic_v<T> && std::is_signed_v<T> == std::is_signed_v<W>);
inline uint64_t address(const void* p) { return reinterpret_cast<uint64_t>(p); }
// The wire's name of a stream: the three names of the default stream are one.
uint64_t stream_id(const void* stream);

template <class C>
bool post(const C& c, Work work, uint64_t stream) {
  std::vector<std::byte>& buffer = scratch();
  wire::Writer w(buffer);
  c.encode(w);
  return fail(post_on(stream, cudaGraphNodeTypeKernel, C::kOpcode, work == Work::scoped ? uint16_t{wire::kFlagScoped} : uint16_t{0}, buffer)) ==
         cudaSuccess;
}

}  // namespace djinn::library

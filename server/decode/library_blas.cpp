// What the BLAS commands mean: each becomes one Product (server/execute/blas.hpp), after everything that a stranger could get wrong in it has been
// checked: enums, dimensions, leading dimensions, and that each matrix, with all its batches, lies in live memory. What the device cannot compute is
// refused by name. Mirror: semantic/api/cublas.py, interpose/entry/cublaslt.cpp.
#include "server/decode/library_blas.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

namespace djinn::server {

namespace {

using wire::ErrorClass;

// Batches of one command; PyTorch's largest bmm has some thousands. More would keep the executor busy for one command without end.
constexpr int64_t kBatchMax = 1 << 20;

Failure invalid(std::string why) { return {cuda_error::invalid_value, ErrorClass::refused, "", std::move(why)}; }
Failure refused(std::string why) { return {cuda_error::not_supported, ErrorClass::refused, "", std::move(why)}; }

std::optional<Type> type_of(uint32_t number) {
  auto t = static_cast<Type>(number);
  return bytes_of(t) ? std::optional(t) : std::nullopt;
}
std::optional<Transpose> transpose_of(uint32_t number) {
  return number <= static_cast<uint32_t>(Transpose::conjugate) ? std::optional(static_cast<Transpose>(number)) : std::nullopt;
}

// The type of alpha and beta, from cublasComputeType_t and the output's type.
std::optional<Type> scale_of(uint32_t compute_type, Type output) {
  bool complex = output == Type::complex64 || output == Type::complex128;
  switch (compute_type) {
    case 64:
    case 65: return Type::float16;
    case 68:
    case 69:
    case 74:
    case 75:
    case 77: return complex ? Type::complex64 : Type::float32;
    case 70:
    case 71: return complex ? Type::complex128 : Type::float64;
  }
  return std::nullopt;  // integers, and what later versions add
}

// Bytes from a matrix's first element to the end of its last batch; nullopt when that overflows.
std::optional<uint64_t> extent(const Operand& o, int64_t batches) {
  uint64_t inner = static_cast<uint64_t>(o.row_major ? o.columns : o.rows), outer = static_cast<uint64_t>(o.row_major ? o.rows : o.columns);
  if (!inner || !outer || !batches) return 0;
  uint64_t columns, strides, elements, bytes;
  if (__builtin_mul_overflow(outer - 1, static_cast<uint64_t>(o.leading), &columns) ||
      __builtin_mul_overflow(static_cast<uint64_t>(batches - 1), static_cast<uint64_t>(o.batch_stride), &strides) ||
      __builtin_add_overflow(columns, strides, &elements) || __builtin_add_overflow(elements, inner, &elements) ||
      __builtin_mul_overflow(elements, bytes_of(o.type), &bytes))
    return std::nullopt;
  return bytes;
}

Failure check_matrix(const LibraryContext& x, const Operand& o, int64_t batches, const char* name) {
  int64_t inner = o.row_major ? o.columns : o.rows;
  if (o.rows < 0 || o.columns < 0 || o.batch_stride < 0) return invalid(fmt::format("{}: a negative dimension", name));
  if (o.leading < std::max<int64_t>(inner, 1)) return invalid(fmt::format("{}: leading dimension {} for {} elements", name, o.leading, inner));
  auto bytes = extent(o, batches);
  if (!bytes) return invalid(fmt::format("{}: its size overflows", name));
  if (!x.live(o.address, *bytes))
    return {cuda_error::illegal_address, ErrorClass::sticky, "",
            fmt::format("{}: {} bytes at {:#x} are not all inside live device memory", name, *bytes, o.address)};
  return {};
}

Failure check_scalar(const LibraryContext& x, const api::Scalar& s, Type type, const char* name) {
  if (!s.address || x.live(s.address, bytes_of(type))) return {};
  return {cuda_error::illegal_address, ErrorClass::sticky, "", fmt::format("{}: {:#x} is not in live device memory", name, s.address)};
}

bool is_zero(const api::Scalar& s) { return !s.address && !s.value[0] && !s.value[1]; }

Failure check_bias(const LibraryContext& x, const Product& p) {
  if (!p.epilogue.bias) return {};
  Operand column{p.epilogue.bias, p.epilogue.bias_type, false, p.d.rows, 1, std::max<int64_t>(p.d.rows, 1), p.epilogue.bias_batch_stride};
  return check_matrix(x, column, p.batch_count, "bias");
}

// Checks what all products share, and computes.
Failure multiply(LibraryContext& x, uint64_t stream, const Product& p) {
  if (!x.known_stream(stream)) return {cuda_error::invalid_resource_handle, ErrorClass::refused, "", fmt::format("there is no stream {}", stream)};
  if (p.batch_count < 0 || p.batch_count > kBatchMax) return invalid(fmt::format("a batch of {}", p.batch_count));
  for (auto [operand, name] : {std::pair{&p.a, "A"}, {&p.b, "B"}, {&p.d, "D"}})
    if (Failure f = check_matrix(x, *operand, p.batch_count, name)) return f;
  // with beta 0, C is not read and need not exist
  if (!is_zero(p.beta))
    if (Failure f = check_matrix(x, p.c, p.batch_count, "C")) return f;
  if (Failure f = check_scalar(x, p.alpha, p.scale, "alpha")) return f;
  if (Failure f = check_scalar(x, p.beta, p.scale, "beta")) return f;
  if (Failure f = check_bias(x, p)) return f;
  if (x.validate_only) return {};
  if (std::string why = x.blas().multiply(p); !why.empty()) return refused(why);
  return {};
}

#if DJINN_API_HAS_CUBLAS
// Every gemm of cuBLAS. A field that a command does not have is one that all its kind agree on: no type means the function's own, no batch means one.
template <class C>
Failure gemm(LibraryContext& x, const C& c, Type own) {
  Product p;
  auto ta = transpose_of(c.transa), tb = transpose_of(c.transb);
  if (!ta || !tb) return invalid("an unknown operation");
  p.transpose_a = *ta;
  p.transpose_b = *tb;
  p.a.type = p.b.type = p.d.type = p.scale = own;
  if constexpr (requires { c.Atype; }) {
    auto a = type_of(c.Atype), b = type_of(c.Btype), d = type_of(c.Ctype);
    if (!a || !b || !d) return refused(fmt::format("the CPU device has no product of cudaDataType {}, {} → {}", c.Atype, c.Btype, c.Ctype));
    p.a.type = *a, p.b.type = *b, p.d.type = *d;
  }
  if constexpr (requires { c.computeType; }) {
    auto scale = scale_of(c.computeType, p.d.type);
    if (!scale) return refused(fmt::format("the CPU device has no product with cublasComputeType {}", c.computeType));
    p.scale = *scale;
  }
  int64_t m = c.m, n = c.n, k = c.k;
  bool a_plain = p.transpose_a == Transpose::no, b_plain = p.transpose_b == Transpose::no;
  p.a = {c.A, p.a.type, false, a_plain ? m : k, a_plain ? k : m, c.lda, 0};
  p.b = {c.B, p.b.type, false, b_plain ? k : n, b_plain ? n : k, c.ldb, 0};
  p.d = {c.C, p.d.type, false, m, n, c.ldc, 0};
  if constexpr (requires { c.batchCount; }) {
    p.batch_count = c.batchCount;
    p.a.batch_stride = c.strideA, p.b.batch_stride = c.strideB, p.d.batch_stride = c.strideC;
  }
  p.c = p.d;
  p.alpha = c.alpha;
  p.beta = c.beta;
  return multiply(x, c.handle.stream, p);
}
#endif

// cublasLtEpilogue_t: the bits that this device knows.
constexpr uint32_t kDefault = 1, kRelu = 2, kBias = 4, kGelu = 32;

Failure read_epilogue(const api::MatmulDescription& desc, Epilogue& e) {
  if (desc.epilogue == kDefault) return {};
  bool activation_twice = (desc.epilogue & kRelu) && (desc.epilogue & kGelu);
  if (!desc.epilogue || desc.epilogue & ~(kRelu | kBias | kGelu) || activation_twice)
    return refused(fmt::format("the CPU device has no cublasLtEpilogue {}", desc.epilogue));
  e.relu = desc.epilogue & kRelu;
  e.gelu = desc.epilogue & kGelu;
  if (!(desc.epilogue & kBias)) return {};
  auto type = type_of(desc.bias_type);
  if (!type || !desc.bias) return invalid("an epilogue with a bias, and no bias");
  if (*type == Type::float64 || *type == Type::complex64 || *type == Type::complex128)
    return refused("the CPU device adds a bias of float, half or bfloat16 only");
  e.bias = desc.bias;
  e.bias_type = *type;
  e.bias_batch_stride = desc.bias_batch_stride;
  return {};
}

// cublasLtOrder_t
constexpr uint32_t kRowMajor = 1;

Failure read_matrix(const api::Matrix& m, Operand& o, const char* name) {
  auto type = type_of(m.type);
  if (!type) return refused(fmt::format("{}: the CPU device has no product of cudaDataType {}", name, m.type));
  if (m.order > kRowMajor) return refused(fmt::format("{}: the CPU device has no cublasLtOrder {}", name, m.order));
  if (m.rows > INT64_MAX || m.columns > INT64_MAX) return invalid(fmt::format("{}: its size overflows", name));
  o = {m.address, *type, m.order == kRowMajor, static_cast<int64_t>(m.rows), static_cast<int64_t>(m.columns), m.leading, m.batch_stride};
  return {};
}

bool shapes_agree(const Product& p) {
  bool a_plain = p.transpose_a == Transpose::no, b_plain = p.transpose_b == Transpose::no;
  int64_t m = a_plain ? p.a.rows : p.a.columns, k = a_plain ? p.a.columns : p.a.rows;
  int64_t k2 = b_plain ? p.b.rows : p.b.columns, n = b_plain ? p.b.columns : p.b.rows;
  return k == k2 && p.c.rows == m && p.d.rows == m && p.c.columns == n && p.d.columns == n;
}

}  // namespace

Failure run(LibraryContext& x, const api::cublasLtMatmul& c) {
  Product p;
  auto ta = transpose_of(c.desc.transpose_a), tb = transpose_of(c.desc.transpose_b);
  auto scale = type_of(c.desc.scale_type);
  if (!ta || !tb || !scale) return invalid("an unknown operation or scale type");
  p.transpose_a = *ta, p.transpose_b = *tb, p.scale = *scale;
  for (auto [from, to, name] : {std::tuple{&c.a, &p.a, "A"}, {&c.b, &p.b, "B"}, {&c.c, &p.c, "C"}, {&c.d, &p.d, "D"}})
    if (Failure f = read_matrix(*from, *to, name)) return f;
  if (!scale_of(c.desc.compute_type, p.d.type))
    return refused(fmt::format("the CPU device has no product with cublasComputeType {}", c.desc.compute_type));
  if (!shapes_agree(p)) return invalid("the matrices' shapes do not agree");
  if (c.a.batch_count != c.d.batch_count || c.b.batch_count != c.d.batch_count || c.c.batch_count != c.d.batch_count || c.d.batch_count > kBatchMax)
    return invalid("batch counts that differ");
  p.batch_count = static_cast<int64_t>(c.d.batch_count);
  if (Failure f = read_epilogue(c.desc, p.epilogue)) return f;
  p.alpha = c.alpha;
  p.beta = c.beta;
  return multiply(x, c.stream, p);
}

#if DJINN_API_HAS_CUBLAS
#define PRODUCTS(suffix)                                                                                                   \
  Failure run(LibraryContext& x, const api::cublasSgemm_v2##suffix& c) { return gemm(x, c, Type::float32); }               \
  Failure run(LibraryContext& x, const api::cublasDgemm_v2##suffix& c) { return gemm(x, c, Type::float64); }               \
  Failure run(LibraryContext& x, const api::cublasCgemm_v2##suffix& c) { return gemm(x, c, Type::complex64); }             \
  Failure run(LibraryContext& x, const api::cublasZgemm_v2##suffix& c) { return gemm(x, c, Type::complex128); }            \
  Failure run(LibraryContext& x, const api::cublasSgemmStridedBatched##suffix& c) { return gemm(x, c, Type::float32); }    \
  Failure run(LibraryContext& x, const api::cublasDgemmStridedBatched##suffix& c) { return gemm(x, c, Type::float64); }    \
  Failure run(LibraryContext& x, const api::cublasCgemmStridedBatched##suffix& c) { return gemm(x, c, Type::complex64); }  \
  Failure run(LibraryContext& x, const api::cublasZgemmStridedBatched##suffix& c) { return gemm(x, c, Type::complex128); } \
  /* the types are in the command; the scalars of SgemmEx are float, whatever the matrices are */                          \
  Failure run(LibraryContext& x, const api::cublasSgemmEx##suffix& c) { return gemm(x, c, Type::float32); }                \
  Failure run(LibraryContext& x, const api::cublasGemmEx##suffix& c) { return gemm(x, c, Type::float32); }                 \
  Failure run(LibraryContext& x, const api::cublasGemmStridedBatchedEx##suffix& c) { return gemm(x, c, Type::float32); }
PRODUCTS()
PRODUCTS(_64)
#undef PRODUCTS
#endif

}  // namespace djinn::server

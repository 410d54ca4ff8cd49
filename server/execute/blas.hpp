// What a session asks of a device's BLAS: one product, said once for all the entry points that mean it (gemm, GemmEx, strided batches, cuBLASLt with
// its epilogues). The CPU device fills the table from a library on this machine (execute/cpu/blas). Everything here has been validated by the
// decoder: shapes agree, and every extent lies in live memory of the session. Numbers of types and operations are cuBLAS's (asserted in
// interpose/entry/cublas.cpp).
#pragma once
#include <cstdint>
#include <string>

#include "semantic/api/values.hpp"

namespace djinn::server {

// cudaDataType
enum class Type : uint32_t { float32 = 0, float64 = 1, float16 = 2, complex64 = 4, complex128 = 5, bfloat16 = 14 };
// cublasOperation_t
enum class Transpose : uint32_t { no = 0, yes = 1, conjugate = 2 };

struct Operand {
  uint64_t address = 0;
  Type type = Type::float32;
  bool row_major = false;
  int64_t rows = 0, columns = 0, leading = 0;  // as stored; elements
  int64_t batch_stride = 0;                    // elements; 0 = the same matrix for every product of the batch
};

struct Epilogue {
  bool relu = false, gelu = false;  // gelu in its tanh form, as cuBLASLt's
  uint64_t bias = 0;                // as many elements as D has rows; 0 = none
  Type bias_type = Type::float32;
  int64_t bias_batch_stride = 0;
};

// D = epilogue(alpha · op(A) · op(B) + beta · C), batch_count times. C and D may be the same matrix.
struct Product {
  Operand a, b, c, d;
  Transpose transpose_a = Transpose::no, transpose_b = Transpose::no;
  Type scale = Type::float32;   // of alpha and beta
  api::Scalar alpha{}, beta{};  // on the device: read when the product is computed
  int64_t batch_count = 1;
  Epilogue epilogue;
};

struct Blas {
  // Empty when done, else why this device cannot compute that product.
  std::string (*multiply)(const Product&);
  void (*set_threads)(unsigned n);
};

// 0 for a type that no product of ours has.
constexpr uint64_t bytes_of(Type t) {
  switch (t) {
    case Type::float16:
    case Type::bfloat16: return 2;
    case Type::float32: return 4;
    case Type::float64:
    case Type::complex64: return 8;
    case Type::complex128: return 16;
  }
  return 0;
}

const Blas& cpu_blas();

}  // namespace djinn::server

// Structs that library calls put on the wire besides plain numbers: the state of a handle, a scalar that may lie on the device, a matrix, and the
// description of a cuBLASLt product. Enums keep the vendor's numbers (interpose/entry/cublas.cpp asserts those that the server reads). Both sides
// include this file; semantic/api's generator finds the structs here by name.
#pragma once
#include <cstdint>

#include "semantic/wire/codec.hpp"

namespace djinn::api {

// What a call needs of its library handle: it travels by value, so that creating and changing handles needs no message.
struct HandleState {
  uint64_t stream;
  uint32_t math_mode;
  uint32_t multiprocessors;  // cublasSetSmCountTarget; 0 = all
  friend bool operator==(const HandleState&, const HandleState&) = default;
};

// alpha or beta: on the device at `address`, or, with address 0, here (as many bytes of `value` as the scalar type has, the others 0).
struct Scalar {
  uint64_t address;
  uint64_t value[2];
  friend bool operator==(const Scalar&, const Scalar&) = default;
};

// Column-major unless order says row-major (cublasLtOrder_t). Strides and leading dimensions are in elements.
struct Matrix {
  uint64_t address;
  uint32_t type;   // cudaDataType
  uint32_t order;  // cublasLtOrder_t
  uint64_t rows, columns;
  int64_t leading;
  int64_t batch_stride;
  uint64_t batch_count;
  friend bool operator==(const Matrix&, const Matrix&) = default;
};

struct MatmulDescription {
  uint32_t compute_type;              // cublasComputeType_t
  uint32_t scale_type;                // cudaDataType
  uint32_t transpose_a, transpose_b;  // cublasOperation_t
  uint32_t epilogue;                  // cublasLtEpilogue_t
  uint32_t bias_type;                 // cudaDataType
  uint64_t bias;                      // device address, or 0
  int64_t bias_batch_stride;
  friend bool operator==(const MatmulDescription&, const MatmulDescription&) = default;
};

template <class T>
constexpr bool kValueLayout = std::is_trivially_copyable_v<T> && sizeof(T) % 8 == 0 && std::has_unique_object_representations_v<T>;
static_assert(kValueLayout<HandleState> && sizeof(HandleState) == 16);
static_assert(kValueLayout<Scalar> && sizeof(Scalar) == 24);
static_assert(kValueLayout<Matrix> && sizeof(Matrix) == 56);
static_assert(kValueLayout<MatmulDescription> && sizeof(MatmulDescription) == 40);

}  // namespace djinn::api

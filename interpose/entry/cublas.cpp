// Exported: cuBLAS's handle state. None of it is a message; the products that use a handle carry its state (semantic/api/cublas.py).
// Mirror: server/decode/library_blas.cpp.
#if __has_include(<cublas_v2.h>)
#include <cublas_v2.h>

#include "djinn_api/commands.hpp"
#include "interpose/entry/library.hpp"

using djinn::library::Blas;

// The server reads these numbers without NVIDIA's headers (server/execute/blas.hpp).
static_assert(CUDA_R_32F == 0 && CUDA_R_64F == 1 && CUDA_R_16F == 2 && CUDA_C_32F == 4 && CUDA_C_64F == 5 && CUDA_R_16BF == 14);
static_assert(CUBLAS_OP_N == 0 && CUBLAS_OP_T == 1 && CUBLAS_OP_C == 2);
static_assert(CUBLAS_COMPUTE_16F == 64 && CUBLAS_COMPUTE_32F == 68 && CUBLAS_COMPUTE_64F == 70 && CUBLAS_COMPUTE_32I == 72);
static_assert(CUBLAS_COMPUTE_16F_PEDANTIC == 65 && CUBLAS_COMPUTE_32F_PEDANTIC == 69 && CUBLAS_COMPUTE_64F_PEDANTIC == 71 &&
              CUBLAS_COMPUTE_32I_PEDANTIC == 73);
static_assert(CUBLAS_COMPUTE_32F_FAST_16F == 74 && CUBLAS_COMPUTE_32F_FAST_16BF == 75 && CUBLAS_COMPUTE_32F_FAST_TF32 == 77);
static_assert(CUBLAS_POINTER_MODE_HOST == djinn::library::kPointersOnHost && CUBLAS_POINTER_MODE_DEVICE == djinn::library::kPointersOnDevice);

namespace djinn::library {

api::Scalar Blas::scalar(const void* p, size_t bytes) const {
  if (pointer_mode == kPointersOnDevice) return {address(p), {}};
  api::Scalar s{};
  std::memcpy(s.value, p, bytes < sizeof s.value ? bytes : sizeof s.value);
  return s;
}

// cuBLAS's table of types: alpha has the compute type, and is complex when the output is.
size_t scalar_bytes(int compute_type, int output_type) {
  bool complex = output_type == CUDA_C_32F || output_type == CUDA_C_64F;
  switch (compute_type) {
    case CUBLAS_COMPUTE_16F:
    case CUBLAS_COMPUTE_16F_PEDANTIC: return 2;
    case CUBLAS_COMPUTE_64F:
    case CUBLAS_COMPUTE_64F_PEDANTIC: return complex ? 16 : 8;
    default: return complex ? 8 : 4;  // the vendor's enum, which grows: all others compute in 32 bits
  }
}

}  // namespace djinn::library

DJINN_EXPORT cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
  if (!handle) return CUBLAS_STATUS_INVALID_VALUE;
  if (!djinn::open_session()) return CUBLAS_STATUS_NOT_INITIALIZED;
  uint64_t id = djinn::library::insert(new Blas);
  if (!id) return CUBLAS_STATUS_ALLOC_FAILED;
  *handle = reinterpret_cast<cublasHandle_t>(id);
  return CUBLAS_STATUS_SUCCESS;
}
DJINN_EXPORT cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
  return djinn::library::forget(handle, djinn::library::kBlasKind) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED;
}

// Every setter and getter: the handle first, then what it is about.
template <class Change>
static cublasStatus_t with(cublasHandle_t handle, bool valid, Change&& change) {
  Blas* blas = djinn::library::blas(handle);
  if (!blas) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (!valid) return CUBLAS_STATUS_INVALID_VALUE;
  change(*blas);
  return CUBLAS_STATUS_SUCCESS;
}

DJINN_EXPORT cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
  // a change of stream gives the handle cuBLAS's own workspace back
  return with(handle, true, [&](Blas& b) { b.stream = djinn::library::stream_id(stream), b.workspace = nullptr, b.workspace_bytes = 0; });
}
DJINN_EXPORT cublasStatus_t cublasGetStream_v2(cublasHandle_t handle, cudaStream_t* stream) {
  return with(handle, stream, [&](Blas& b) { *stream = reinterpret_cast<cudaStream_t>(b.stream); });
}
DJINN_EXPORT cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t mode) {
  return with(handle, mode == CUBLAS_POINTER_MODE_HOST || mode == CUBLAS_POINTER_MODE_DEVICE, [&](Blas& b) { b.pointer_mode = mode; });
}
DJINN_EXPORT cublasStatus_t cublasGetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t* mode) {
  return with(handle, mode, [&](Blas& b) { *mode = static_cast<cublasPointerMode_t>(b.pointer_mode); });
}
DJINN_EXPORT cublasStatus_t cublasSetAtomicsMode(cublasHandle_t handle, cublasAtomicsMode_t mode) {
  return with(handle, mode == CUBLAS_ATOMICS_ALLOWED || mode == CUBLAS_ATOMICS_NOT_ALLOWED, [&](Blas& b) { b.atomics_mode = mode; });
}
DJINN_EXPORT cublasStatus_t cublasGetAtomicsMode(cublasHandle_t handle, cublasAtomicsMode_t* mode) {
  return with(handle, mode, [&](Blas& b) { *mode = static_cast<cublasAtomicsMode_t>(b.atomics_mode); });
}
DJINN_EXPORT cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
  // one of the modes 0 to 4 and 8; the flag forbids reductions in reduced precision
  uint32_t base = static_cast<uint32_t>(mode) & ~uint32_t{CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION};
  return with(handle, base <= CUBLAS_FP32_EMULATED_BF16X9_MATH || base == CUBLAS_FP64_EMULATED_FIXEDPOINT_MATH,
              [&](Blas& b) { b.math_mode = static_cast<uint32_t>(mode); });
}
DJINN_EXPORT cublasStatus_t cublasGetMathMode(cublasHandle_t handle, cublasMath_t* mode) {
  return with(handle, mode, [&](Blas& b) { *mode = static_cast<cublasMath_t>(b.math_mode); });
}
DJINN_EXPORT cublasStatus_t cublasSetSmCountTarget(cublasHandle_t handle, int count) {
  return with(handle, count >= 0, [&](Blas& b) { b.multiprocessors = count; });
}
DJINN_EXPORT cublasStatus_t cublasGetSmCountTarget(cublasHandle_t handle, int* count) {
  return with(handle, count, [&](Blas& b) { *count = b.multiprocessors; });
}
DJINN_EXPORT cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void* workspace, size_t bytes) {
  // cuBLAS wants 256-byte alignment
  return with(handle, djinn::library::address(workspace) % 256 == 0, [&](Blas& b) { b.workspace = workspace, b.workspace_bytes = bytes; });
}
#endif

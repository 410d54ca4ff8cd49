// The BLAS of this machine, as a plug-in: dlopened with RTLD_LOCAL when the first product needs it, because libtorch calls sgemm_ through its PLT and
// a BLAS in the global scope would capture torch.mm. Fortran's interface is the one that all of them have.
#pragma once
#include <complex>
#include <string>

namespace djinn::server {

template <class T>
using Gemm = void (*)(const char* transpose_a, const char* transpose_b, const int* m, const int* n, const int* k, const T* alpha, const T* a,
                      const int* lda, const T* b, const int* ldb, const T* beta, T* c, const int* ldc);

struct BlasLibrary {
  std::string name;   // of the file; empty if there is none
  std::string error;  // then
  Gemm<float> sgemm = nullptr;
  Gemm<double> dgemm = nullptr;
  Gemm<std::complex<float>> cgemm = nullptr;
  Gemm<std::complex<double>> zgemm = nullptr;
  void (*set_threads)(int) = nullptr;  // OpenBLAS's; another library's threads are its own affair
};

const BlasLibrary& blas_library();

}  // namespace djinn::server

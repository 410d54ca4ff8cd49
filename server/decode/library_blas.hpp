// What each library command means. One overload a command; a command without one does not compile (library_table.cpp).
#pragma once
#include "server/decode/library.hpp"

namespace djinn::server {

#if DJINN_API_HAS_CUBLAS
Failure run(LibraryContext&, const api::cublasSgemm_v2&);
Failure run(LibraryContext&, const api::cublasSgemmStridedBatched&);
Failure run(LibraryContext&, const api::cublasDgemm_v2&);
Failure run(LibraryContext&, const api::cublasDgemmStridedBatched&);
Failure run(LibraryContext&, const api::cublasCgemm_v2&);
Failure run(LibraryContext&, const api::cublasCgemmStridedBatched&);
Failure run(LibraryContext&, const api::cublasZgemm_v2&);
Failure run(LibraryContext&, const api::cublasZgemmStridedBatched&);
Failure run(LibraryContext&, const api::cublasSgemmEx&);
Failure run(LibraryContext&, const api::cublasGemmEx&);
Failure run(LibraryContext&, const api::cublasGemmStridedBatchedEx&);
Failure run(LibraryContext&, const api::cublasSgemm_v2_64&);
Failure run(LibraryContext&, const api::cublasSgemmStridedBatched_64&);
Failure run(LibraryContext&, const api::cublasDgemm_v2_64&);
Failure run(LibraryContext&, const api::cublasDgemmStridedBatched_64&);
Failure run(LibraryContext&, const api::cublasCgemm_v2_64&);
Failure run(LibraryContext&, const api::cublasCgemmStridedBatched_64&);
Failure run(LibraryContext&, const api::cublasZgemm_v2_64&);
Failure run(LibraryContext&, const api::cublasZgemmStridedBatched_64&);
Failure run(LibraryContext&, const api::cublasSgemmEx_64&);
Failure run(LibraryContext&, const api::cublasGemmEx_64&);
Failure run(LibraryContext&, const api::cublasGemmStridedBatchedEx_64&);
#endif
Failure run(LibraryContext&, const api::cublasLtMatmul&);

}  // namespace djinn::server

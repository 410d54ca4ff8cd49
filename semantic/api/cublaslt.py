"""cuBLASLt: descriptors are local state whose attributes travel by value inside the product that uses them."""
from .generator.vocabulary import Api

api = Api("cublasLt", "cublasLt.h", "cublasLt", "cublasStatus_t", success="CUBLAS_STATUS_SUCCESS", unsupported="CUBLAS_STATUS_NOT_SUPPORTED",
          invalid="CUBLAS_STATUS_INVALID_VALUE", lost="CUBLAS_STATUS_NOT_INITIALIZED",
          returns={"size_t": "0", "unsigned": "0", "const char *": '"not supported by Djinn"'})

api.local("cublasLtCreate cublasLtDestroy", "ids of the same space as cuBLAS's: PyTorch uses one as the other")
api.answer("cublasLtGetVersion", "CUBLAS_VERSION")
api.answer("cublasLtGetCudartVersion", "CUDART_VERSION")
api.version_property("cublasLtGetProperty", "CUBLAS_VER_MAJOR", "CUBLAS_VER_MINOR", "CUBLAS_VER_PATCH")
api.text("cublasLtGetStatusName cublasLtGetStatusString")
api.local("cublasLtMatmulDesc{Create,Destroy,SetAttribute,GetAttribute} cublasLtMatrixLayout{Create,Destroy,SetAttribute,GetAttribute}"
          " cublasLtMatmulPreference{Create,Destroy,SetAttribute,GetAttribute}", "attribute bytes (interpose/entry/cublaslt.cpp)")
api.local("cublasLtMatmulAlgoGetHeuristic", "one answer: the server chooses, no workspace")
api.custom("cublasLtMatmul", "descriptors travel by value")
api.message("cublasLtMatmul", stream="uint64_t", desc="MatmulDescription", alpha="Scalar", beta="Scalar", a="Matrix", b="Matrix", c="Matrix", d="Matrix")
api.rest("not used with an algorithm that the server chooses")

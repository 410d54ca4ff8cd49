"""cuBLAS: handles are local state; matrix products are posted; the rest of BLAS is dropped inside an op scope and absent outside of one."""
from .generator.vocabulary import Api, gpu, ignored, library, scalar

api = Api("cublas", "cublas_v2.h", "cublas(?!Lt)", "cublasStatus_t", success="CUBLAS_STATUS_SUCCESS", unsupported="CUBLAS_STATUS_NOT_SUPPORTED",
          invalid="CUBLAS_STATUS_INVALID_VALUE", lost="CUBLAS_STATUS_NOT_INITIALIZED", pointer=gpu,
          returns={"void": "", "size_t": "0", "const char *": '"not supported by Djinn"'})

api.local("cublasCreate_v2 cublasDestroy_v2 cublas{Set,Get}Stream_v2 cublas{Set,Get}PointerMode_v2 cublas{Set,Get}AtomicsMode"
          " cublas{Set,Get}MathMode cublas{Set,Get}SmCountTarget cublasSetWorkspace_v2", "the handle's state (interpose/entry/cublas.cpp)")
api.answer("cublasGetVersion_v2", "CUBLAS_VERSION")
api.answer("cublasGetCudartVersion", "CUDART_VERSION")
api.version_property("cublasGetProperty", "CUBLAS_VER_MAJOR", "CUBLAS_VER_MINOR", "CUBLAS_VER_PATCH")
api.text("cublasGetStatusName cublasGetStatusString")

for t, c in dict(S="float", D="double", C="cuComplex", Z="cuDoubleComplex").items():
    for w in ("", "_64"):
        api.post(f"cublas{t}gemm_v2{w}", handle=library, alpha=scalar(f"sizeof({c})"), beta=scalar(f"sizeof({c})"))
        api.post(f"cublas{t}gemmStridedBatched{w}", handle=library, alpha=scalar(f"sizeof({c})"), beta=scalar(f"sizeof({c})"))
for w in ("", "_64"):
    api.post(f"cublasSgemmEx{w}", handle=library, alpha=scalar("sizeof(float)"), beta=scalar("sizeof(float)"))
    api.post(f"cublasGemmEx{w} cublasGemmStridedBatchedEx{w}", handle=library, algo=ignored,
             alpha=scalar("djinn::library::scalar_bytes(computeType, Ctype)"), beta=scalar("djinn::library::scalar_bytes(computeType, Ctype)"))

# With host pointers these return a value to the caller.
api.absent("cublas{S,D}dot_v2{,_64} cublas{C,Z}dot{u,c}_v2{,_64} cublasDot{,c}Ex{,_64} cublas{S,D,Sc,Dz}nrm2_v2{,_64} cublasNrm2Ex{,_64}"
           " cublas{S,D,Sc,Dz}asum_v2{,_64} cublasAsumEx{,_64} cublasI{s,d,c,z}a{max,min}_v2{,_64} cublasIa{max,min}Ex{,_64}"
           " cublas{S,D,C,Z}rotg_v2 cublas{S,D}rotmg_v2 cublasRotgEx cublasRotmgEx", "its result may be wanted on the host")
api.absent("cublas{S,D,C,Z}gelsBatched cublas{S,D,C,Z}geqrfBatched cublas{S,D,C,Z}getrsBatched", "writes its info to the host")
api.absent("cublas{Set,Get}{Vector,Matrix}{,Async}{,_64}", "copies between host and device")
api.absent("cublas{Get,Set}LoggerCallback cublasLoggerConfigure", "there is no log of cuBLAS's to configure")
api.rest("the CPU device has no such routine yet", scope="drop")

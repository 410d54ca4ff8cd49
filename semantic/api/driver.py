"""The CUDA driver: what the wire speaks. Programs reach it directly (PyTorch: contexts, NVRTC's kernels) or through our runtime."""
from .generator.vocabulary import Api

api = Api("driver", "cuda.h", "cu[A-Z]", "CUresult", success="CUDA_SUCCESS", unsupported="CUDA_ERROR_NOT_SUPPORTED",
          invalid="CUDA_ERROR_INVALID_VALUE", lost="CUDA_ERROR_UNKNOWN", optional=False)

api.local("cuInit cuDeviceGet cuDeviceGetAttribute", "the device's description came with the session")
api.local("cuCtxGetCurrent cuCtxSetCurrent cuDevicePrimaryCtxGetState cuDevicePrimaryCtxRetain", "the primary context is this process's session")
api.local("cuGetErrorString cuPointerGetAttribute")
api.absent("cuModule{Load,LoadData,LoadDataEx,Unload,GetFunction} cuLaunchKernel cuLaunchCooperativeKernel cuLink{Create,AddData}_v2 cuLinkComplete"
           " cuFuncGetAttribute cuFuncSetAttribute cuFuncSetCacheConfig cuOccupancyMaxActiveBlocksPerMultiprocessor",
           "code that is loaded at run time has nowhere to run yet")
api.rest("not needed by the op level; a later issue completes the call level")

"""The CUDA driver: what the wire speaks. Programs reach it directly (PyTorch: contexts, NVRTC's kernels) or through our runtime."""
from .generator.vocabulary import Api

api = Api("driver", "cuda.h", "cu[A-Z]", "CUresult", success="CUDA_SUCCESS", unsupported="CUDA_ERROR_NOT_SUPPORTED",
          invalid="CUDA_ERROR_INVALID_VALUE", lost="CUDA_ERROR_UNKNOWN", optional=False)

api.local("cuInit cuDeviceGet cuDeviceGetCount cuDeviceGetAttribute cuDeviceCanAccessPeer cuDeviceGetP2PAttribute",
          "the devices' descriptions came with the session")
api.local("cuCtxGetCurrent cuCtxSetCurrent cuCtxGetDevice cuCtx{Enable,Disable}PeerAccess cuDevicePrimaryCtxGetState cuDevicePrimaryCtxRetain",
          "the primary contexts are this process's session")
api.local("cuMemAddressReserve cuMemAddressFree cuMemGetAllocationGranularity cuMemGetAllocationPropertiesFromHandle cuMemRetainAllocationHandle"
          " cuMemGetAccess cuMemGetAddressRange_v2", "reservations are parts of the session's range; handles are the client's")
api.custom("cuMemCreate cuMemRelease cuMemMap cuMemUnmap cuMemSetAccess", "virtual memory: memory_create … memory_access")
api.custom("cuMemsetD32Async cuStreamWriteValue32_v2", "fill")
api.custom("cuMem{ExportTo,ImportFrom}ShareableHandle", "memory_share and memory_import: the file of a handle holds its secret")
api.local("cuGetErrorString cuPointerGetAttribute cuFunc{Get,Set}Attribute cuFuncSetCacheConfig cuOccupancyMaxActiveBlocksPerMultiprocessor")
api.custom("cuModule{Load,LoadData,LoadDataEx,Unload,GetFunction}", "a module travels when a kernel of it is first launched")
api.custom("cuMemcpyPeer{,Async}", "a copy on the server: its devices' memory is one")
api.custom("cuLaunchKernel cuLaunchCooperativeKernel", "parameter sizes come from the kernel's own metadata")
api.absent("cuLink{Create,AddData}_v2 cuLinkComplete", "linking device code at run time is a later issue")
api.rest("not needed by the op level; a later issue completes the call level")

"""cuFile: GPUDirect Storage between a disk and a device that is elsewhere."""
from .generator.vocabulary import Api

api = Api("cufile", "cufile.h", "cuFile", "CUfileError_t", success="CUfileError_t{CU_FILE_SUCCESS, CUDA_SUCCESS}",
          unsupported="CUfileError_t{CU_FILE_PLATFORM_NOT_SUPPORTED, CUDA_SUCCESS}", invalid="CUfileError_t{CU_FILE_INVALID_VALUE, CUDA_SUCCESS}",
          lost="CUfileError_t{CU_FILE_DRIVER_NOT_INITIALIZED, CUDA_SUCCESS}", needs=["cuda.h"],
          returns={"void": "", "ssize_t": "-CU_FILE_PLATFORM_NOT_SUPPORTED", "long": "0"})

api.rest("there is no path from the disk to a device that is elsewhere")

"""NVRTC: compiling CUDA C++ at run time needs NVIDIA's own compiler; kernels that carry PTX are a later issue."""
from .generator.vocabulary import Api

api = Api("nvrtc", "nvrtc.h", "nvrtc", "nvrtcResult", success="NVRTC_SUCCESS", unsupported="NVRTC_ERROR_INTERNAL_ERROR", invalid="NVRTC_ERROR_INVALID_INPUT",
          lost="NVRTC_ERROR_INTERNAL_ERROR")

api.answer("nvrtcVersion", "CUDART_VERSION / 1000", "CUDART_VERSION % 1000 / 10")
api.text("nvrtcGetErrorString")
api.rest("kernels compiled at run time have nowhere to run yet")

"""cuFFT: plans are local ids; planning (it returns a size) and executing are refused, and in an op scope the op goes to the server instead."""
from .generator.vocabulary import Api

api = Api("cufft", "cufft.h cufftXt.h", "cufft", "cufftResult", success="CUFFT_SUCCESS", unsupported="CUFFT_NOT_SUPPORTED",
          invalid="CUFFT_INVALID_VALUE", lost="CUFFT_SETUP_FAILED")

api.create("cufftCreate", session=True)
api.destroy("cufftDestroy")
api.set("cufftSetStream cufftSetAutoAllocation cufftSetWorkArea")
api.answer("cufftGetVersion", "CUFFT_VERSION")
api.version_property("cufftGetProperty", "CUFFT_VER_MAJOR", "CUFFT_VER_MINOR", "CUFFT_VER_PATCH")
api.rest("cuFFT runs in an op scope only, as its op")

"""cuDNN: handles and descriptors are local state. What computes is refused: inside an op scope the op goes to the server instead."""
from .generator.vocabulary import Api

api = Api("cudnn", "cudnn.h", "cudnn", "cudnnStatus_t", success="CUDNN_STATUS_SUCCESS", unsupported="CUDNN_STATUS_NOT_SUPPORTED",
          invalid="CUDNN_STATUS_BAD_PARAM", lost="CUDNN_STATUS_NOT_INITIALIZED",
          returns={"size_t": "0", "void": "", "const char *": '"not supported by Djinn"'})

api.create("cudnnCreate", session=True)
api.create("cudnnCreate{Activation,CTCLoss,Convolution,Dropout,Filter,Pooling,RNNData,RNN,SpatialTransformer,Tensor}Descriptor")
api.destroy("cudnnDestroy cudnnDestroy{Activation,CTCLoss,Convolution,Dropout,Filter,Pooling,RNNData,RNN,SpatialTransformer,Tensor}Descriptor")
api.set("cudnnSetStream cudnnSetConvolutionGroupCount cudnnSetConvolutionMathType")
api.get("cudnnGetStream", of="cudnnSetStream")
api.local("cudnnGetVersion", "that of the library which the program brought along")
api.answer("cudnnGetCudartVersion", "CUDART_VERSION")
version = "static_cast<int>(cudnnGetVersion())"
api.version_property("cudnnGetProperty", f"{version} / 10000", f"{version} / 100 % 100", f"{version} % 100")
api.text("cudnnGetErrorString")
api.local("cudnnGetLastErrorString", "nothing is known beyond the code")
# Nothing reads these back, since whatever would compute with them is refused; so they keep nothing of the arrays that they are given.
api.rest("cuDNN runs in an op scope only, as its op")

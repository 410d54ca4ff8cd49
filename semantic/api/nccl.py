"""NCCL among the devices of one process: collectives are lowered to copies and reductions (interpose/encode/collective.cpp). Across processes they are
refused, when a communicator of several is made."""
from .generator.vocabulary import Api

api = Api("nccl", "nccl.h", "nccl", "ncclResult_t", success="ncclSuccess", unsupported="ncclInvalidUsage", invalid="ncclInvalidArgument",
          lost="ncclSystemError", returns={"void": "", "const char *": '"not supported by Djinn"'})

api.local("ncclCommInitAll ncclGetUniqueId ncclCommInitRank{,Config} ncclCommFinalize ncclCommDestroy ncclCommAbort ncclCommCount ncclCommCuDevice"
          " ncclCommUserRank ncclCommGetAsyncError ncclGetLastError ncclGroupStart", "communicators are the client's: who talks to whom")
api.custom("ncclBroadcast ncclBcast ncclReduce ncclAllReduce ncclReduceScatter ncclAllGather ncclAlltoAll ncclGather ncclScatter ncclSend ncclRecv"
           " ncclGroupEnd", "copies and reductions, when every rank has called")
api.answer("ncclGetVersion", "NCCL_VERSION_CODE")
api.text("ncclGetErrorString")
api.absent("ncclRedOp{CreatePreMulSum,Destroy}", "PyTorch scales in process groups only, whose ranks are in other processes")
api.absent("ncclComm{Split,Shrink,Grow,InitRankScalable,GetUniqueId,Revoke,Suspend,Resume,MemStats}", "communicators are not made from others, nor changed")
api.absent("ncclComm{Register,Deregister,WindowRegister,WindowDeregister} ncclMem{Alloc,Free} ncclWinGetUserPtr ncclPutSignal ncclSignal ncclWaitSignal",
           "there is no network to register memory with: collectives are the server's own copies")
api.internal("absent", "ncclDevComm{Create,Destroy} ncclGet{LsaMultimem,Peer}DevicePointer", "kernels that communicate run on real GPUs only")
api.rest("not used by PyTorch among the devices of one process")

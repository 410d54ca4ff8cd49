"""NCCL: one device needs no collectives; several are a later issue. Groups are refused as a whole, so that none begins and does not end."""
from .generator.vocabulary import Api

api = Api("nccl", "nccl.h", "nccl", "ncclResult_t", success="ncclSuccess", unsupported="ncclInvalidUsage", invalid="ncclInvalidArgument",
          lost="ncclSystemError", returns={"void": "", "const char *": '"not supported by Djinn"'})

api.internal("absent", "ncclDevComm{Create,Destroy} ncclGet{LsaMultimem,Peer}DevicePointer", "collectives across processes are a later issue")
api.answer("ncclGetVersion", "NCCL_VERSION_CODE")
api.answer("ncclGetLastError", '"Djinn has no collectives yet"')
api.text("ncclGetErrorString")
api.rest("collectives across processes are a later issue")

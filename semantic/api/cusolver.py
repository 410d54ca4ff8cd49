"""cuSOLVER: handles are local; factorisations are refused, and in an op scope the op goes to the server instead."""
from .generator.vocabulary import Api

api = Api("cusolver", "cusolverDn.h cusolverSp.h", "cusolver", "cusolverStatus_t", success="CUSOLVER_STATUS_SUCCESS",
          unsupported="CUSOLVER_STATUS_NOT_SUPPORTED", invalid="CUSOLVER_STATUS_INVALID_VALUE", lost="CUSOLVER_STATUS_NOT_INITIALIZED")

api.create("cusolverDnCreate cusolverSpCreate", session=True)
api.create("cusolverDnCreateGesvdjInfo cusolverDnCreateSyevjInfo cusolverDnCreateParams")
api.destroy("cusolverDnDestroy cusolverSpDestroy cusolverDnDestroyGesvdjInfo cusolverDnDestroySyevjInfo cusolverDnDestroyParams")
api.set("cusolver{Dn,Sp}SetStream cusolverDnX{gesvdj,syevj}Set{MaxSweeps,SortEig,Tolerance}")
api.get("cusolverDnGetStream", of="cusolverDnSetStream")
api.get("cusolverSpGetStream", of="cusolverSpSetStream")
api.answer("cusolverGetVersion", "CUSOLVER_VERSION")
api.version_property("cusolverGetProperty", "CUSOLVER_VER_MAJOR", "CUSOLVER_VER_MINOR", "CUSOLVER_VER_PATCH")
api.rest("cuSOLVER runs in an op scope only, as its op")

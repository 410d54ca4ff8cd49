"""cuSPARSE: handles and descriptors are local; what computes is refused, and in an op scope the op goes to the server instead."""
from .generator.vocabulary import Api

api = Api("cusparse", "cusparse.h", "cusparse(?!Lt)", "cusparseStatus_t", success="CUSPARSE_STATUS_SUCCESS", unsupported="CUSPARSE_STATUS_NOT_SUPPORTED",
          invalid="CUSPARSE_STATUS_INVALID_VALUE", lost="CUSPARSE_STATUS_NOT_INITIALIZED",
          returns={"const char *": '"not supported by Djinn"', "cusparseMatrixType_t": "CUSPARSE_MATRIX_TYPE_GENERAL",
                   "cusparseFillMode_t": "CUSPARSE_FILL_MODE_LOWER", "cusparseDiagType_t": "CUSPARSE_DIAG_TYPE_NON_UNIT",
                   "cusparseIndexBase_t": "CUSPARSE_INDEX_BASE_ZERO"},
          same_kind={"cusparseConstSpMatDescr_t": "cusparseSpMatDescr_t", "cusparseConstDnMatDescr_t": "cusparseDnMatDescr_t",
                     "cusparseConstDnVecDescr_t": "cusparseDnVecDescr_t"})

api.create("cusparseCreate", session=True)
api.create("cusparseCreate{Bsrsm2Info,Bsrsv2Info,MatDescr,Coo,Csr,DnMat,DnVec} cusparseSp{GEMM,SM,SV}_createDescr")
api.destroy("cusparseDestroy cusparseDestroy{Bsrsm2Info,Bsrsv2Info,MatDescr,SpMat,DnMat,DnVec} cusparseSp{GEMM,SM,SV}_destroyDescr")
api.set("cusparseSetStream cusparseSetPointerMode cusparseSetMat{DiagType,FillMode,IndexBase,Type}")
api.set("cusparseCsrSetPointers cusparseCsrSetStridedBatch cusparseDnMatSetStridedBatch")
api.get("cusparseGetStream", of="cusparseSetStream")
api.get("cusparseGetPointerMode", of="cusparseSetPointerMode")
api.answer("cusparseGetVersion", "CUSPARSE_VERSION")
api.version_property("cusparseGetProperty", "CUSPARSE_VER_MAJOR", "CUSPARSE_VER_MINOR", "CUSPARSE_VER_PATCH")
api.text("cusparseGetErrorName cusparseGetErrorString")
api.rest("cuSPARSE runs in an op scope only, as its op")

"""cuSPARSELt: semi-structured sparsity. Its structs are the caller's and link to each other by address; all of it is absent."""
from .generator.vocabulary import Api

api = Api("cusparselt", "cusparseLt.h", "cusparseLt", "cusparseStatus_t", success="CUSPARSE_STATUS_SUCCESS", unsupported="CUSPARSE_STATUS_NOT_SUPPORTED",
          invalid="CUSPARSE_STATUS_INVALID_VALUE", lost="CUSPARSE_STATUS_NOT_INITIALIZED", returns={"const char *": '"not supported by Djinn"'})

api.rest("semi-structured sparsity has no counterpart on the CPU device")

"""CUPTI as torch.profiler uses it: activity records (interpose/shadow/activity). The rest of CUPTI measures hardware."""
from .generator.vocabulary import Api

api = Api("cupti", "cupti.h", "cupti[A-Z]", "CUptiResult", success="CUPTI_SUCCESS", unsupported="CUPTI_ERROR_NOT_SUPPORTED",
          invalid="CUPTI_ERROR_INVALID_PARAMETER", lost="CUPTI_ERROR_UNKNOWN")

api.custom("cuptiActivity{Enable,Disable}", "the server reports times, or no longer")
api.local("cuptiActivityRegister{Callbacks,TimestampCallback} cuptiGetTimestamp cuptiActivityEnable{RuntimeApi,DriverApi,CudaEventDeviceTimestamps}"
          " cuptiActivitySetAttribute cuptiActivityFlushAll cuptiActivityGet{NumDroppedRecords,NextRecord}"
          " cuptiActivity{Push,Pop}ExternalCorrelationId cuptiFinalize", "records are kept here")
api.local("cuptiSubscribe cuptiUnsubscribe cuptiEnableCallback cuptiEnableDomain", "one subscriber, who is told of contexts only")
api.local("cuptiGetVersion cuptiGetCallbackName cuptiGetResultString")
api.rest("measures hardware, or is not what torch.profiler uses")

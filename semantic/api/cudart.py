"""The CUDA runtime: client code over the driver-level commands (interpose/runtime, interpose/entry). No cuda* function has an opcode."""
from .generator.vocabulary import Api

api = Api("cudart", "cuda_runtime_api.h", "cuda[A-Z]", "cudaError_t", success="cudaSuccess", unsupported="djinn::fail(cudaErrorNotSupported)",
          invalid="djinn::fail(cudaErrorInvalidValue)", lost="djinn::session_error()", optional=False,
          returns={"const char *": '"not supported by Djinn"', "struct cudaChannelFormatDesc": "cudaChannelFormatDesc{}"})

api.internal("custom", "__cudaRegisterFatBinary __cudaRegisterFatBinaryEnd __cudaRegisterFunction __cudaRegisterVar __cudaUnregisterFatBinary"
             " __cudaInitModule __cudaGetKernel __cudaLaunchKernel", "module registration and launches of code that nvcc compiled")
api.internal("local", "__cudaPushCallConfiguration __cudaPopCallConfiguration", "this thread's launch configuration")
api.internal("local", "cudaProfiler{Start,Stop}", "nobody profiles: CUDA says success without a profiler, too")

api.local("cudaGetDevice cudaSetDevice cudaGetDeviceCount cudaGetDeviceProperties cudaDeviceGetAttribute cudaDeviceGetPCIBusId"
          " cudaDeviceCanAccessPeer cudaDevice{Enable,Disable}PeerAccess cudaDeviceGetP2PAttribute cudaDeviceGetStreamPriorityRange cudaDriverGetVersion cudaRuntimeGetVersion",
          "the devices' descriptions came with the session")
api.local("cudaGetLastError cudaPeekAtLastError cudaGetErrorName cudaGetErrorString", "this thread's last error")
api.local("cudaGetDriverEntryPointByVersion", "names of this library")
api.local("cudaPointerGetAttributes cudaStreamGetPriority cudaStreamGetDevice"
          " cudaOccupancyMaxActiveBlocksPerMultiprocessor{,WithFlags} cudaFuncGetAttributes cudaFuncSetAttribute cudaKernelSetAttributeForDevice cudaEventElapsedTime"
          " cudaEventQuery cudaHostAlloc cudaMallocHost cudaHostRegister cudaHostUnregister cudaFreeHost")
api.custom("cudaMalloc cudaFree cudaMemGetInfo", "the client's arena; granules are mapped as it grows")
api.custom("cudaMemcpy{,Async} cudaMemcpy2D{,Async} cudaMemcpyPeer{,Async}", "the direction decides which side owns each buffer")
api.custom("cudaMemset{,Async} cudaMemset2DAsync", "fill")
api.custom("cudaStreamCreate{,WithFlags,WithPriority} cudaStreamDestroy cudaStreamSynchronize cudaStreamQuery cudaStreamWaitEvent cudaDeviceSynchronize",
           "stream commands")
api.custom("cudaEventCreate{,WithFlags} cudaEventDestroy cudaEventRecord{,WithFlags} cudaEventSynchronize", "event commands")
api.custom("cudaLaunchKernel{,ExC} cudaLaunchCooperativeKernel", "parameter sizes come from the kernel's own metadata")
api.local("cudaStreamBeginCapture cudaStreamEndCapture cudaStreamIsCapturing cudaStreamGetCaptureInfo cudaStreamUpdateCaptureDependencies"
          " cudaThreadExchangeStreamCaptureMode", "captures are the client's; what they record is sent as it comes")
api.local("cudaGraphInstantiate{,WithFlags,WithParams} cudaGraphExec{GetFlags,Update} cudaGraphUpload cudaGraphGet{Nodes,RootNodes,Edges}"
          " cudaGraphNodeGet{Dependencies,DependentNodes,Type} cudaGraphDebugDotPrint cudaUserObject{Create,Retain,Release} cudaGraphRetainUserObject",
          "nodes and edges are the client's")
api.custom("cudaGraphLaunch cudaGraphDestroy cudaGraphExecDestroy", "graph commands")
api.absent("cudaGraphCreate cudaGraphAddNode cudaStreamBeginCaptureToGraph", "graphs come from captures; nodes cannot be added by hand yet")
api.absent("cudaGraphConditionalHandleCreate", "conditional nodes need kernels that decide on the device")
api.absent("cudaDevice{Get,Set}GraphMemAttribute", "graphs do not allocate")
api.custom("cuda{Malloc,Free}Async", "the client's arena, counted as the device's default pool")
api.local("cudaDeviceGetDefaultMemPool cudaMemPoolGetAttribute cudaMemPoolSetA{ccess,ttribute} cudaMemPoolTrimTo", "what the pool has counted")
api.custom("cudaIpc{GetMem,OpenMem,CloseMem}Handle", "memory_share, memory_import and virtual memory")
api.local("cudaIpc{Get,Open}EventHandle", "an event between processes is complete when its record returns")
api.absent("cudaLaunchHostFunc cudaStreamAddCallback", "callbacks from a stream are a later issue")
api.absent("cudaLibrary{GetKernel,LoadData,Unload}", "code that is loaded at run time has nowhere to run yet")
api.absent("cudaGetSymbolAddress cudaMemcpyToSymbol", "device variables are a later issue")
api.rest("not needed by the op level; a later issue completes the call level")

// Exported: the driver API's modules and functions. A CUmodule is a LoadedModule, a CUfunction the handle of one of its kernels; launches take the
// same way as the runtime's (encode/launch.cpp).
#include <cstdio>

#include "interpose/encode/launch.hpp"
#include "interpose/runtime/module.hpp"
#include "interpose/shadow/device.hpp"
#include "interpose/shadow/error.hpp"

using namespace djinn;

static LoadedModule* module_of(CUmodule m) { return reinterpret_cast<LoadedModule*>(m); }

DJINN_EXPORT CUresult cuModuleLoadData(CUmodule* m, const void* image) {
  if (!m || !image) return CUDA_ERROR_INVALID_VALUE;
  if (cudaError_t e = need_context()) return to_driver(e);
  cudaError_t code = cudaSuccess;
  LoadedModule* loaded = load_module(image, code);
  if (!loaded) return to_driver(code);
  *m = reinterpret_cast<CUmodule>(loaded);
  return CUDA_SUCCESS;
}
// The options tune a compiler that is not asked: images are machine code.
DJINN_EXPORT CUresult cuModuleLoadDataEx(CUmodule* m, const void* image, unsigned, CUjit_option*, void**) { return cuModuleLoadData(m, image); }
DJINN_EXPORT CUresult cuModuleLoad(CUmodule* m, const char* path) {
  if (!m || !path) return CUDA_ERROR_INVALID_VALUE;
  FILE* f = fopen(path, "rb");
  if (!f) return CUDA_ERROR_FILE_NOT_FOUND;
  std::vector<std::byte> image(4096);
  size_t size = 0;
  while (size_t n = fread(image.data() + size, 1, image.size() - size, f)) {
    size += n;
    if (size == image.size()) image.resize(2 * size);
  }
  fclose(f);
  return size < 64 ? CUDA_ERROR_INVALID_IMAGE : cuModuleLoadData(m, image.data());  // shorter than any image's header
}
DJINN_EXPORT CUresult cuModuleUnload(CUmodule m) { return unload_module(module_of(m)) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE; }
DJINN_EXPORT CUresult cuModuleGetFunction(CUfunction* function, CUmodule m, const char* name) {
  if (!function || !name) return CUDA_ERROR_INVALID_VALUE;
  const void* handle = module_function(module_of(m), name);
  if (!handle) return CUDA_ERROR_NOT_FOUND;
  *function = reinterpret_cast<CUfunction>(const_cast<void*>(handle));
  return CUDA_SUCCESS;
}

static CUresult launch_function(CUfunction f, dim3 grid, dim3 block, unsigned shared, CUstream stream, void** params, void** extra, bool cooperative,
                                const char* name) {
  LaunchRequest r{f, grid, block, params, nullptr, 0, shared, stream, cooperative};
  size_t bytes = 0;
  for (void** e = params ? nullptr : extra; e && *e != CU_LAUNCH_PARAM_END; e += 2) {
    if (*e == CU_LAUNCH_PARAM_BUFFER_POINTER) r.packed = e[1];
    else if (*e == CU_LAUNCH_PARAM_BUFFER_SIZE) bytes = *static_cast<size_t*>(e[1]);
    else return CUDA_ERROR_INVALID_VALUE;
  }
  r.packed_bytes = bytes;
  return to_driver(launch(r, name));
}
DJINN_EXPORT CUresult cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                                     CUstream stream, void** params, void** extra) {
  return launch_function(f, {gx, gy, gz}, {bx, by, bz}, shared, stream, params, extra, false, "cuLaunchKernel");
}
DJINN_EXPORT CUresult cuLaunchCooperativeKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                                                unsigned shared, CUstream stream, void** params) {
  return launch_function(f, {gx, gy, gz}, {bx, by, bz}, shared, stream, params, nullptr, true, "cuLaunchCooperativeKernel");
}

// As cudaFuncGetAttributes: launch shapes are derived from these, never results.
DJINN_EXPORT CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction f) {
  if (!value) return CUDA_ERROR_INVALID_VALUE;
  cudaFuncAttributes a;
  if (cudaError_t e = cudaFuncGetAttributes(&a, f)) return to_driver(e);
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = a.maxThreadsPerBlock; return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: *value = static_cast<int>(a.sharedSizeBytes); return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES: *value = static_cast<int>(a.constSizeBytes); return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES: *value = static_cast<int>(a.localSizeBytes); return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_NUM_REGS: *value = a.numRegs; return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION: *value = a.ptxVersion; return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION: *value = a.binaryVersion; return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: *value = a.maxDynamicSharedSizeBytes; return CUDA_SUCCESS;
    default: *value = 0; return CUDA_SUCCESS;  // clusters, cache modes: none
  }
}
DJINN_EXPORT CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute attribute, int value) {
  return to_driver(cudaFuncSetAttribute(f, static_cast<cudaFuncAttribute>(attribute), value));
}
DJINN_EXPORT CUresult cuFuncSetCacheConfig(CUfunction f, CUfunc_cache) { return find_kernel(f).name ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE; }
DJINN_EXPORT CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction f, int threads, size_t shared) {
  return to_driver(cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, f, threads, shared));
}

/* Op libraries (torchvision, an extension) of a CUDA build name libraries that a worker on the CPU device neither has nor wants: CUDA's runtime, the
 * CUDA half of libtorch, Python's bindings. One empty library for each of those sonames stands in, so that the loader is content; their functions
 * are bound when they are called, which the CPU kernels never do. All that is called is the registration of device code, by constructors: it is
 * forgotten here. An address of theirs that is needed at load still fails, with the loader's own words. */
#ifdef DJINN_STANDIN_RUNTIME
#define DJINN_STANDIN __attribute__((visibility("default")))
typedef void* handle;
static char forgotten;

DJINN_STANDIN handle* __cudaRegisterFatBinary(void* image) { return image ? (handle*)&forgotten : 0; }
DJINN_STANDIN void __cudaRegisterFatBinaryEnd(handle* fatbin) { (void)fatbin; }
DJINN_STANDIN void __cudaUnregisterFatBinary(handle* fatbin) { (void)fatbin; }
DJINN_STANDIN char __cudaInitModule(handle* fatbin) { return fatbin != 0; }
DJINN_STANDIN void __cudaRegisterFunction(void) {}
DJINN_STANDIN void __cudaRegisterVar(void) {}
#endif

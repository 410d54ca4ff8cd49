// What nvcc makes of this is read by nvcc_test.cpp: parameters of all sizes, none, more than 14 bits can count, a template, and a device function.
struct Mixed {
  double* p;
  int n;
  char c;
};
struct Big {
  char data[3000];
};
__device__ __noinline__ float helper(float x) { return x > 3 ? helper(x - 1) * 2 : x; }

extern "C" __global__ void none() {}
extern "C" __global__ void __launch_bounds__(256) mixed(Mixed m, float f, char c, double d) { m.p[threadIdx.x] = helper(f) + c + d * m.n; }
extern "C" __global__ void big(Big b, int* out) { out[threadIdx.x] = b.data[threadIdx.x]; }
template <class T>
__global__ void assign(T* a, T b) {
  *a = b;
}
template __global__ void assign<long>(long*, long);
#if defined(__CUDACC_VER_MAJOR__) && __CUDACC_VER_MAJOR__ >= 13
struct Huge {
  char data[30000];
};
extern "C" __global__ void huge(Huge h, int* out) { out[threadIdx.x] = h.data[threadIdx.x]; }
#endif

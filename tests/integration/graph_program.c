/* CUDA graphs without torch and without kernels: memsets, copies and cuBLAS products captured from streams, replayed on new data, and what a capture
 * refuses. Compares with the host; prints one line, any error is its exit status. */
#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 24, BYTES = N * N * sizeof(float), REPLAYS = 5 };

#define CUDA(call) expect((call), cudaSuccess, #call)
#define REFUSED(code, call) expect((call), (code), #call)
#define BLAS(call) check((call) == CUBLAS_STATUS_SUCCESS, #call)

static void check(int ok, const char* what) {
  if (ok) return;
  fprintf(stderr, "%s failed (last CUDA error: %s)\n", what, cudaGetErrorString(cudaPeekAtLastError()));
  exit(1);
}
static void expect(cudaError_t got, cudaError_t wanted, const char* what) {
  if (got == wanted) return;
  fprintf(stderr, "%s: %s instead of %s\n", what, cudaGetErrorName(got), cudaGetErrorName(wanted));
  exit(1);
}

static float* on_device(void) {
  void* p;
  CUDA(cudaMalloc(&p, BYTES));
  CUDA(cudaMemset(p, 0, BYTES));
  return p;
}

static void fill(float* m, float first) {
  for (int i = 0; i < N * N; i++) m[i] = first + (float)(i % 7) * 0.25f;
}
static double largest_error(const float* a, const float* b, const float* result) { /* of A B, column-major */
  double worst = 0;
  for (int j = 0; j < N; j++)
    for (int i = 0; i < N; i++) {
      double sum = 0;
      for (int k = 0; k < N; k++) sum += (double)a[k * N + i] * b[j * N + k];
      worst = fmax(worst, fabs(sum - result[j * N + i]));
    }
  return worst;
}

static size_t nodes_of(cudaGraph_t graph) {
  size_t n = 0;
  CUDA(cudaGraphGetNodes(graph, NULL, &n));
  return n;
}

/* Host to device, a product that forks to a second stream, device to host: the host's memory is read and written at each launch. */
static double replay_products(cublasHandle_t blas, cudaStream_t stream, cudaStream_t side) {
  float *a = malloc(BYTES), *pinned, *b = malloc(BYTES), *result, *da = on_device(), *db = on_device(), *dc = on_device(), *dd = on_device();
  CUDA(cudaMallocHost((void**)&pinned, BYTES));
  CUDA(cudaMallocHost((void**)&result, BYTES));
  float one = 1, zero = 0;
  cudaEvent_t forked, done;
  CUDA(cudaEventCreateWithFlags(&forked, cudaEventDisableTiming));
  CUDA(cudaEventCreateWithFlags(&done, cudaEventDisableTiming));
  fill(pinned, 0.5f);
  memcpy(b, pinned, BYTES);

  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  CUDA(cudaMemcpyAsync(db, pinned, BYTES, cudaMemcpyHostToDevice, stream));
  CUDA(cudaMemcpyAsync(da, a, BYTES, cudaMemcpyHostToDevice, stream)); /* pageable: read at each launch, too */
  CUDA(cudaEventRecord(forked, stream));
  CUDA(cudaStreamWaitEvent(side, forked, 0));
  BLAS(cublasSetStream(blas, side));
  BLAS(cublasSgemm(blas, CUBLAS_OP_N, CUBLAS_OP_N, N, N, N, &one, da, N, db, N, &zero, dc, N));
  CUDA(cudaEventRecord(done, side));
  CUDA(cudaMemsetAsync(dd, 0xff, BYTES, stream));
  CUDA(cudaStreamWaitEvent(stream, done, 0));
  CUDA(cudaMemcpyAsync(dd, dc, BYTES, cudaMemcpyDeviceToDevice, stream));
  CUDA(cudaMemcpyAsync(result, dd, BYTES, cudaMemcpyDeviceToHost, stream));
  CUDA(cudaStreamEndCapture(stream, &graph));
  check(nodes_of(graph) == 6, "six nodes");
  REFUSED(cudaErrorCapturedEvent, cudaEventQuery(done));
  cudaGetLastError();
  CUDA(cudaGraphInstantiate(&exec, graph, 0));
  CUDA(cudaGraphDestroy(graph)); /* the executable graph is its own */

  double worst = 0;
  for (int n = 0; n < REPLAYS; n++) {
    fill(a, (float)n);
    CUDA(cudaGraphLaunch(exec, stream));
    CUDA(cudaStreamSynchronize(stream));
    worst = fmax(worst, largest_error(a, b, result));
  }
  CUDA(cudaGraphExecDestroy(exec));
  CUDA(cudaFree(da)), CUDA(cudaFree(db)), CUDA(cudaFree(dc)), CUDA(cudaFree(dd));
  CUDA(cudaFreeHost(pinned)), CUDA(cudaFreeHost(result));
  CUDA(cudaEventDestroy(forked)), CUDA(cudaEventDestroy(done));
  free(a), free(b);
  return worst;
}

/* What is refused invalidates the capture; other streams go on; afterwards the stream works again. */
static void refusals(cudaStream_t stream, cudaStream_t other) {
  float *d = on_device(), *e = on_device(), value = 1;
  cudaGraph_t graph;
  enum cudaStreamCaptureStatus status;
  CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  REFUSED(cudaErrorIllegalState, cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  CUDA(cudaMemsetAsync(d, 1, BYTES, stream));
  CUDA(cudaMemsetAsync(e, 2, BYTES, other));
  CUDA(cudaStreamSynchronize(other));
  REFUSED(cudaErrorStreamCaptureUnsupported, cudaStreamSynchronize(stream));
  CUDA(cudaStreamIsCapturing(stream, &status));
  check(status == cudaStreamCaptureStatusInvalidated, "the capture is invalidated");
  REFUSED(cudaErrorStreamCaptureInvalidated, cudaMemsetAsync(d, 1, BYTES, stream));
  REFUSED(cudaErrorStreamCaptureInvalidated, cudaStreamEndCapture(stream, &graph));
  check(graph == NULL, "no graph of an invalidated capture");
  CUDA(cudaMemcpy(&value, d, sizeof value, cudaMemcpyDeviceToHost));
  check(value == 0, "nothing ran during the capture");

  CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  void* p;
  REFUSED(cudaErrorStreamCaptureUnsupported, cudaMalloc(&p, 100));
  REFUSED(cudaErrorStreamCaptureInvalidated, cudaStreamEndCapture(stream, &graph));
  CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
  enum cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  CUDA(cudaThreadExchangeStreamCaptureMode(&mode));
  CUDA(cudaMalloc(&p, 100));
  CUDA(cudaFree(p));
  CUDA(cudaThreadExchangeStreamCaptureMode(&mode));
  CUDA(cudaStreamEndCapture(stream, &graph));
  check(nodes_of(graph) == 0, "an empty graph");
  CUDA(cudaGraphDestroy(graph));
  REFUSED(cudaErrorInvalidValue, cudaGraphDestroy(graph));
  REFUSED(cudaErrorStreamCaptureUnsupported, cudaStreamBeginCapture(NULL, cudaStreamCaptureModeGlobal));
  cudaGetLastError();
  CUDA(cudaMemsetAsync(d, 0, BYTES, stream));
  CUDA(cudaStreamSynchronize(stream));
  CUDA(cudaFree(d)), CUDA(cudaFree(e));
}

/* A launch of a graph whose memory is gone is an illegal address, as on a GPU; last, because that is sticky. */
static void memory_gone(cudaStream_t stream) {
  void* d;
  CUDA(cudaMalloc(&d, 8 << 20));
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  CUDA(cudaMemsetAsync(d, 1, 8 << 20, stream));
  CUDA(cudaStreamEndCapture(stream, &graph));
  CUDA(cudaGraphInstantiate(&exec, graph, 0));
  CUDA(cudaGraphLaunch(exec, stream));
  CUDA(cudaStreamSynchronize(stream));
  CUDA(cudaFree(d));
  CUDA(cudaGraphLaunch(exec, stream));
  REFUSED(cudaErrorIllegalAddress, cudaStreamSynchronize(stream));
}

int main(void) {
  cudaStream_t stream, side;
  cublasHandle_t blas;
  CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  CUDA(cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking));
  BLAS(cublasCreate(&blas));
  double error = replay_products(blas, stream, side);
  refusals(stream, side);
  BLAS(cublasDestroy(blas));
  CUDA(cudaDeviceSynchronize());
  memory_gone(stream);
  int good = error < 1e-3;
  printf("%s: largest error of %d replays %.1e\n", good ? "ok" : "WRONG", REPLAYS, error);
  return good ? 0 : 1;
}

/* The thin thread through the call level: a plain C program, no torch and no nvcc, that multiplies matrices on whatever device CUDA finds. It compares
 * cublasSgemm and cublasLtMatmul (bias and ReLU epilogue, a strided batch) with a host reference and prints one line; any error is its exit status. */
#include <cublasLt.h>
#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { M = 37, N = 29, K = 53, BATCH = 3 };

#define CUDA(call) check((call) == cudaSuccess, #call)
#define BLAS(call) check((call) == CUBLAS_STATUS_SUCCESS, #call)

static void check(int ok, const char* what) {
  if (ok) return;
  fprintf(stderr, "%s failed (last CUDA error: %s)\n", what, cudaGetErrorString(cudaPeekAtLastError()));
  exit(1);
}

static float next(unsigned* state) {
  *state = *state * 1664525u + 1013904223u;
  return (float)(*state >> 8) / (1 << 23) - 1.0f;
}

static float* random_matrix(size_t n, unsigned seed) {
  float* m = malloc(n * sizeof *m);
  for (size_t i = 0; i < n; i++) m[i] = next(&seed);
  return m;
}

static float* to_device(const float* host, size_t n) {
  void* device;
  CUDA(cudaMalloc(&device, n * sizeof *host));
  CUDA(cudaMemcpy(device, host, n * sizeof *host, cudaMemcpyHostToDevice));
  return device;
}

/* D = alpha A B + beta C, column-major; with a bias for each row, and ReLU, when bias is given. */
static double largest_error(const float* a, const float* b, const float* c, const float* bias, float alpha, float beta, const float* result) {
  double worst = 0;
  for (int j = 0; j < N; j++)
    for (int i = 0; i < M; i++) {
      double sum = 0;
      for (int k = 0; k < K; k++) sum += (double)a[k * M + i] * b[j * K + k];
      sum = alpha * sum + beta * c[j * M + i];
      if (bias) sum = fmax(sum + bias[i], 0);
      worst = fmax(worst, fabs(sum - result[j * M + i]));
    }
  return worst;
}

static double run_sgemm(cublasHandle_t handle, cudaStream_t stream) {
  float *a = random_matrix(M * K, 1), *b = random_matrix(K * N, 2), *c = random_matrix(M * N, 3), *result = malloc(M * N * sizeof *result);
  float *da = to_device(a, M * K), *db = to_device(b, K * N), *dc = to_device(c, M * N);
  float alpha = 1.5f, beta = -0.5f;
  BLAS(cublasSetStream(handle, stream));
  BLAS(cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, M, N, K, &alpha, da, M, db, K, &beta, dc, M));
  CUDA(cudaStreamSynchronize(stream));
  CUDA(cudaMemcpy(result, dc, M * N * sizeof *result, cudaMemcpyDeviceToHost));
  double error = largest_error(a, b, c, NULL, alpha, beta, result);
  CUDA(cudaFree(da));
  CUDA(cudaFree(db));
  CUDA(cudaFree(dc));
  free(a), free(b), free(c), free(result);
  return error;
}

static cublasLtMatrixLayout_t layout(uint64_t rows, uint64_t columns) {
  cublasLtMatrixLayout_t l;
  int32_t batch = BATCH;
  int64_t stride = (int64_t)(rows * columns);
  BLAS(cublasLtMatrixLayoutCreate(&l, CUDA_R_32F, rows, columns, (int64_t)rows));
  BLAS(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch));
  BLAS(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride));
  return l;
}

static double run_matmul(cublasLtHandle_t handle, cudaStream_t stream) {
  float *a = random_matrix(BATCH * M * K, 4), *b = random_matrix(BATCH * K * N, 5), *c = random_matrix(BATCH * M * N, 6), *bias = random_matrix(M, 7);
  float* result = malloc(BATCH * M * N * sizeof *result);
  float *da = to_device(a, BATCH * M * K), *db = to_device(b, BATCH * K * N), *dc = to_device(c, BATCH * M * N), *dbias = to_device(bias, M);
  float* dd = to_device(c, BATCH * M * N);
  float alpha = 0.75f, beta = 2.0f;

  cublasLtMatmulDesc_t desc;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_RELU_BIAS;
  BLAS(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  BLAS(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
  BLAS(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &dbias, sizeof dbias));
  cublasLtMatrixLayout_t la = layout(M, K), lb = layout(K, N), lc = layout(M, N);
  cublasLtMatmulPreference_t preference;
  cublasLtMatmulHeuristicResult_t heuristic;
  int found = 0;
  BLAS(cublasLtMatmulPreferenceCreate(&preference));
  BLAS(cublasLtMatmulAlgoGetHeuristic(handle, desc, la, lb, lc, lc, preference, 1, &heuristic, &found));
  check(found == 1 && heuristic.state == CUBLAS_STATUS_SUCCESS, "one heuristic");

  BLAS(cublasLtMatmul(handle, desc, &alpha, da, la, db, lb, &beta, dc, lc, dd, lc, &heuristic.algo, NULL, 0, stream));
  CUDA(cudaStreamSynchronize(stream));
  CUDA(cudaMemcpy(result, dd, BATCH * M * N * sizeof *result, cudaMemcpyDeviceToHost));
  double error = 0;
  for (int i = 0; i < BATCH; i++)
    error = fmax(error, largest_error(a + i * M * K, b + i * K * N, c + i * M * N, bias, alpha, beta, result + i * M * N));

  BLAS(cublasLtMatmulPreferenceDestroy(preference));
  BLAS(cublasLtMatrixLayoutDestroy(la));
  BLAS(cublasLtMatrixLayoutDestroy(lb));
  BLAS(cublasLtMatrixLayoutDestroy(lc));
  BLAS(cublasLtMatmulDescDestroy(desc));
  float* all[] = {da, db, dc, dd, dbias};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) CUDA(cudaFree(all[i]));
  free(a), free(b), free(c), free(bias), free(result);
  return error;
}

int main(void) {
  cudaStream_t stream;
  cublasHandle_t handle;
  cublasLtHandle_t lt;
  CUDA(cudaStreamCreate(&stream));
  BLAS(cublasCreate(&handle));
  BLAS(cublasLtCreate(&lt));
  double sgemm = run_sgemm(handle, stream), matmul = run_matmul(lt, stream), reused = run_matmul((cublasLtHandle_t)handle, stream);
  BLAS(cublasLtDestroy(lt));
  BLAS(cublasDestroy(handle));
  CUDA(cudaStreamDestroy(stream));
  CUDA(cudaDeviceSynchronize());
  int good = sgemm < 1e-4 && matmul < 1e-4 && reused < 1e-4;
  printf("%s: largest error of sgemm %.1e, of matmul %.1e and %.1e\n", good ? "ok" : "WRONG", sgemm, matmul, reused);
  return good ? 0 : 1;
}

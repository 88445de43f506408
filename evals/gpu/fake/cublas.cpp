// cuBLAS and the door of cuDNN: products are counted, and their operands checked, and not computed.
#define CUDARTAPI_NO_INLINE
#include <cublasLt.h>
#include <cublas_v2.h>

#include <cstdlib>
#include <cstring>
#include <unordered_map>

#include "fake.h"

using namespace fake;

static thread_local cublasMath_t math_mode = CUBLAS_DEFAULT_MATH;

static size_t element_bytes(cudaDataType type) {
  return type == CUDA_R_64F ? 8 : type == CUDA_R_32F ? 4 : 2;
}
static bool is_narrow(cudaDataType type) { return type == CUDA_R_16F || type == CUDA_R_16BF; }

// Bytes from a matrix's first element to its last, column-major.
static size_t extent(long rows, long columns, long leading, size_t element) {
  return rows && columns ? ((columns - 1) * leading + rows) * element : 0;
}

struct Operand {
  const void* address;
  cudaDataType type;
  long leading, stride;
};

static cublasStatus_t product(const char* via, cublasOperation_t ta, cublasOperation_t tb, long m, long n, long k, Operand a,
                              Operand b, Operand c, long batch = 1) {
  bool fine = true;
  auto check = [&](const char* what, const Operand& x, long rows, long columns) {
    size_t bytes = extent(rows, columns, x.leading, element_bytes(x.type)) + (batch - 1) * x.stride * element_bytes(x.type);
    fine &= x.leading >= rows && on_device(x.address, bytes, current_device(), what);
  };
  check("the first operand of a product", a, ta == CUBLAS_OP_N ? m : k, ta == CUBLAS_OP_N ? k : m);
  check("the second operand of a product", b, tb == CUBLAS_OP_N ? k : n, tb == CUBLAS_OP_N ? n : k);
  check("the result of a product", c, m, n);
  if (is_narrow(a.type) && !(math_mode & CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION))
    violation("partial sums of 16-bit products may be rounded to 16 bits");
  if (a.type == CUDA_R_32F && (math_mode & CUBLAS_TF32_TENSOR_OP_MATH)) violation("float32 products in TF32");
  count("products");
  count("operations of products", 2.0 * m * n * k * batch);
  count(std::string("products: ") + via);
  if (is_narrow(a.type) && c.type == CUDA_R_32F) count("products: 16 bits in, float32 out");
  return fine ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

struct Layout {
  cudaDataType type;
  long rows, columns, leading;
};
struct Preference {
  bool wide_sums;
};

extern "C" {

// FAKE_CUBLAS_REFUSES: so many handles cannot be had for want of memory.
cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
  LOCKED;
  static int refused = getenv("FAKE_CUBLAS_REFUSES") ? atoi(getenv("FAKE_CUBLAS_REFUSES")) : 0;
  if (refused-- > 0) {
    count("cuBLAS handles refused");
    return CUBLAS_STATUS_ALLOC_FAILED;
  }
  count("cuBLAS handles");
  *handle = (cublasHandle_t)malloc(64);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy_v2(cublasHandle_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetStream_v2(cublasHandle_t, cudaStream_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t, void*, size_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t mode) {
  math_mode = mode;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGetMathMode(cublasHandle_t, cublasMath_t* mode) {
  *mode = math_mode;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGetPointerMode_v2(cublasHandle_t, cublasPointerMode_t* mode) {
  *mode = CUBLAS_POINTER_MODE_HOST;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t, cublasPointerMode_t) { return CUBLAS_STATUS_SUCCESS; }

cublasStatus_t cublasGemmEx(cublasHandle_t, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k, const void*, const void* A, cudaDataType at, int lda, const void* B, cudaDataType bt, int ldb, const void*, void* C, cudaDataType ct, int ldc, cublasComputeType_t, cublasGemmAlgo_t) {
  return product("cublasGemmEx", ta, tb, m, n, k, {A, at, lda, 0}, {B, bt, ldb, 0}, {C, ct, ldc, 0});
}
cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k, const void*, const void* A, cudaDataType at, int lda, long long sa, const void* B, cudaDataType bt, int ldb, long long sb, const void*, void* C, cudaDataType ct, int ldc, long long sc, int batch, cublasComputeType_t, cublasGemmAlgo_t) {
  return product("cublasGemmStridedBatchedEx", ta, tb, m, n, k, {A, at, lda, sa}, {B, bt, ldb, sb}, {C, ct, ldc, sc}, batch);
}
cublasStatus_t cublasSgemm_v2(cublasHandle_t, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k, const float*, const float* A, int lda, const float* B, int ldb, const float*, float* C, int ldc) {
  return product("cublasSgemm", ta, tb, m, n, k, {A, CUDA_R_32F, lda, 0}, {B, CUDA_R_32F, ldb, 0}, {C, CUDA_R_32F, ldc, 0});
}
cublasStatus_t cublasDgemm_v2(cublasHandle_t, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k, const double*, const double* A, int lda, const double* B, int ldb, const double*, double* C, int ldc) {
  return product("cublasDgemm", ta, tb, m, n, k, {A, CUDA_R_64F, lda, 0}, {B, CUDA_R_64F, ldb, 0}, {C, CUDA_R_64F, ldc, 0});
}
cublasStatus_t cublasSgemmStridedBatched(cublasHandle_t, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k, const float*, const float* A, int lda, long long sa, const float* B, int ldb, long long sb, const float*, float* C, int ldc, long long sc, int batch) {
  return product("cublasSgemmStridedBatched", ta, tb, m, n, k, {A, CUDA_R_32F, lda, sa}, {B, CUDA_R_32F, ldb, sb}, {C, CUDA_R_32F, ldc, sc}, batch);
}
cublasStatus_t cublasDgemmStridedBatched(cublasHandle_t, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k, const double*, const double* A, int lda, long long sa, const double* B, int ldb, long long sb, const double*, double* C, int ldc, long long sc, int batch) {
  return product("cublasDgemmStridedBatched", ta, tb, m, n, k, {A, CUDA_R_64F, lda, sa}, {B, CUDA_R_64F, ldb, sb}, {C, CUDA_R_64F, ldc, sc}, batch);
}

// ---- cublasLt: what a handle of it is, is ours to say
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows, uint64_t columns, int64_t leading) {
  *layout = (cublasLtMatrixLayout_t) new Layout{type, (long)rows, (long)columns, (long)leading};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete (Layout*)layout;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t, cublasLtMatrixLayoutAttribute_t, const void*, size_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t, cudaDataType_t) {
  *desc = (cublasLtMatmulDesc_t)calloc(1, 64);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  free(desc);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t, const void*, size_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = (cublasLtMatmulPreference_t) new Preference{false};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete (Preference*)preference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute, const void* value, size_t) {
  if (attribute == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK)
    ((Preference*)preference)->wide_sums = !(*(const uint32_t*)value & CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t A, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatmulPreference_t preference, int, cublasLtMatmulHeuristicResult_t* result, int* found) {
  if (is_narrow(((Layout*)A)->type) && !((Preference*)preference)->wide_sums)
    violation("partial sums of 16-bit products may be rounded to 16 bits");
  count("cublasLt heuristics");
  memset(result, 0, sizeof *result);
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t, const void*, const void* a, cublasLtMatrixLayout_t A, const void* b, cublasLtMatrixLayout_t B, const void*, const void*, cublasLtMatrixLayout_t, void* d, cublasLtMatrixLayout_t D, const cublasLtMatmulAlgo_t*, void*, size_t, cudaStream_t) {
  auto &x = *(Layout*)A, &y = *(Layout*)B, &out = *(Layout*)D;
  bool fine = true;
  for (auto [what, address, layout] : {std::tuple{"the first operand of a product", a, x}, {"the second operand of a product", b, y}, {"the result of a product", (const void*)d, out}})
    fine &= on_device(address, extent(layout.rows, layout.columns, layout.leading, element_bytes(layout.type)), current_device(), what);
  count("products");
  count("products: cublasLtMatmul");
  count("operations of products", 2.0 * out.rows * out.columns * (x.rows == out.rows ? x.columns : x.rows));
  return fine ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

// ---- cuDNN: nothing of it is wanted, its attention makes a plan for every number and length of passages
int cudnnCreate(void**) {
  const int NOT_INITIALIZED = 1001;
  violation("cuDNN is asked for");
  return NOT_INITIALIZED;
}

}  // extern "C"

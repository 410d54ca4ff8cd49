// Exported: cuBLASLt. Descriptors are attribute bytes kept here; a product carries by value what of them the server needs (semantic/api/values.hpp),
// and one that uses an attribute which the message does not have is refused by the attribute's name. Mirror: server/decode/library_blas.cpp.
#if __has_include(<cublasLt.h>)
#include <cublasLt.h>

#include <algorithm>
#include <array>

#include "djinn_api/commands.hpp"
#include "interpose/entry/library.hpp"

namespace {

using djinn::library::Object;

// What the header says of one attribute. All are numbers or pointers of at most 8 bytes.
struct Attribute {
  int number;
  uint32_t bytes;
  uint64_t initial;
  bool forwarded;  // the message says it; another attribute that is not as it was created refuses the product
  const char* name;
};
constexpr uint64_t kMinusOne32 = 0xffffffffu;
#define ATTRIBUTE(name, bytes, initial, forwarded) \
  Attribute { CUBLASLT_##name, bytes, initial, forwarded, #name }

constexpr std::array kDescription{
    ATTRIBUTE(MATMUL_DESC_COMPUTE_TYPE, 4, 0, true), ATTRIBUTE(MATMUL_DESC_SCALE_TYPE, 4, 0, true),
    ATTRIBUTE(MATMUL_DESC_POINTER_MODE, 4, CUBLASLT_POINTER_MODE_HOST, true), ATTRIBUTE(MATMUL_DESC_TRANSA, 4, CUBLAS_OP_N, true),
    ATTRIBUTE(MATMUL_DESC_TRANSB, 4, CUBLAS_OP_N, true), ATTRIBUTE(MATMUL_DESC_TRANSC, 4, CUBLAS_OP_N, false),
    ATTRIBUTE(MATMUL_DESC_FILL_MODE, 4, CUBLAS_FILL_MODE_FULL, false), ATTRIBUTE(MATMUL_DESC_EPILOGUE, 4, CUBLASLT_EPILOGUE_DEFAULT, true),
    ATTRIBUTE(MATMUL_DESC_BIAS_POINTER, 8, 0, true), ATTRIBUTE(MATMUL_DESC_BIAS_BATCH_STRIDE, 8, 0, true),
    ATTRIBUTE(MATMUL_DESC_EPILOGUE_AUX_POINTER, 8, 0, false), ATTRIBUTE(MATMUL_DESC_EPILOGUE_AUX_LD, 8, 0, false),
    ATTRIBUTE(MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, 8, 0, false), ATTRIBUTE(MATMUL_DESC_ALPHA_VECTOR_BATCH_STRIDE, 8, 0, false),
    // hints: how many multiprocessors, how exact the accumulation may be
    ATTRIBUTE(MATMUL_DESC_SM_COUNT_TARGET, 4, 0, true), ATTRIBUTE(MATMUL_DESC_FAST_ACCUM, 1, 0, true),
    ATTRIBUTE(MATMUL_DESC_A_SCALE_POINTER, 8, 0, false), ATTRIBUTE(MATMUL_DESC_B_SCALE_POINTER, 8, 0, false),
    ATTRIBUTE(MATMUL_DESC_C_SCALE_POINTER, 8, 0, false), ATTRIBUTE(MATMUL_DESC_D_SCALE_POINTER, 8, 0, false),
    ATTRIBUTE(MATMUL_DESC_AMAX_D_POINTER, 8, 0, false), ATTRIBUTE(MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, 4, kMinusOne32, false),
    ATTRIBUTE(MATMUL_DESC_EPILOGUE_AUX_SCALE_POINTER, 8, 0, false), ATTRIBUTE(MATMUL_DESC_EPILOGUE_AUX_AMAX_POINTER, 8, 0, false),
    ATTRIBUTE(MATMUL_DESC_BIAS_DATA_TYPE, 4, kMinusOne32, true), ATTRIBUTE(MATMUL_DESC_A_SCALE_MODE, 4, 0, false),
    ATTRIBUTE(MATMUL_DESC_B_SCALE_MODE, 4, 0, false), ATTRIBUTE(MATMUL_DESC_C_SCALE_MODE, 4, 0, false),
    ATTRIBUTE(MATMUL_DESC_D_SCALE_MODE, 4, 0, false), ATTRIBUTE(MATMUL_DESC_EPILOGUE_AUX_SCALE_MODE, 4, 0, false),
    ATTRIBUTE(MATMUL_DESC_D_OUT_SCALE_POINTER, 8, 0, false), ATTRIBUTE(MATMUL_DESC_D_OUT_SCALE_MODE, 4, 0, false),
    ATTRIBUTE(MATMUL_DESC_EMULATION_DESCRIPTOR, 8, 0, false)};

constexpr std::array kLayout{ATTRIBUTE(MATRIX_LAYOUT_TYPE, 4, 0, true),
                             ATTRIBUTE(MATRIX_LAYOUT_ORDER, 4, CUBLASLT_ORDER_COL, true),
                             ATTRIBUTE(MATRIX_LAYOUT_ROWS, 8, 0, true),
                             ATTRIBUTE(MATRIX_LAYOUT_COLS, 8, 0, true),
                             ATTRIBUTE(MATRIX_LAYOUT_LD, 8, 0, true),
                             ATTRIBUTE(MATRIX_LAYOUT_BATCH_COUNT, 4, 1, true),
                             ATTRIBUTE(MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, 8, 0, true),
                             ATTRIBUTE(MATRIX_LAYOUT_PLANE_OFFSET, 8, 0, false),
                             ATTRIBUTE(MATRIX_LAYOUT_BATCH_MODE, 4, 0, false)};

// Preferences choose between algorithms; there is one.
constexpr std::array kPreference{ATTRIBUTE(MATMUL_PREF_SEARCH_MODE, 4, 0, true),
                                 ATTRIBUTE(MATMUL_PREF_MAX_WORKSPACE_BYTES, 8, 0, true),
                                 ATTRIBUTE(MATMUL_PREF_REDUCTION_SCHEME_MASK, 4, CUBLASLT_REDUCTION_SCHEME_MASK, true),
                                 ATTRIBUTE(MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, 4, 256, true),
                                 ATTRIBUTE(MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, 4, 256, true),
                                 ATTRIBUTE(MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, 4, 256, true),
                                 ATTRIBUTE(MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, 4, 256, true),
                                 ATTRIBUTE(MATMUL_PREF_MAX_WAVES_COUNT, 4, 0, true),
                                 ATTRIBUTE(MATMUL_PREF_IMPL_MASK, 8, ~uint64_t{0}, true)};
#undef ATTRIBUTE

template <const auto& Table>
struct Attributes final : Object {
  Attributes() : Object(kKind) {
    for (size_t i = 0; i < Table.size(); i++) values[i] = Table[i].initial;
  }
  static constexpr uint32_t kKind = djinn::library::kind(Table[0].name);
  static constexpr size_t position(int number) {
    for (size_t i = 0; i < Table.size(); i++)
      if (Table[i].number == number) return i;
    return Table.size();
  }
  template <int Number>
  uint64_t get() const {
    static_assert(position(Number) < Table.size());
    return values[position(Number)];
  }
  template <int Number>
  void put(uint64_t v) {
    static_assert(position(Number) < Table.size());
    values[position(Number)] = v;
  }
  // The first attribute that the message cannot say, or null.
  const char* not_forwarded() const {
    for (size_t i = 0; i < Table.size(); i++)
      if (!Table[i].forwarded && values[i] != Table[i].initial) return Table[i].name;
    return nullptr;
  }
  std::array<uint64_t, Table.size()> values;
};
using Description = Attributes<kDescription>;
using Layout = Attributes<kLayout>;
using Preference = Attributes<kPreference>;

template <class A, class H>
A* at(H handle) {
  return static_cast<A*>(djinn::library::find(djinn::library::id_of(handle), A::kKind));
}
template <class A, class H>
cublasStatus_t create(H* out, A* object) {
  uint64_t id = djinn::library::insert(object);
  if (!id) return CUBLAS_STATUS_ALLOC_FAILED;
  *out = djinn::library::handle_of<H>(id);
  return CUBLAS_STATUS_SUCCESS;
}
template <class A, class H>
cublasStatus_t destroy(H handle) {
  return djinn::library::forget(handle, A::kKind) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}
template <class A, const auto& Table, class H>
cublasStatus_t set(H handle, int number, const void* from, size_t bytes) {
  A* object = at<A>(handle);
  size_t i = A::position(number);
  if (!object || i == Table.size() || !from || bytes != Table[i].bytes) return CUBLAS_STATUS_INVALID_VALUE;
  object->values[i] = 0;
  std::memcpy(&object->values[i], from, bytes);
  return CUBLAS_STATUS_SUCCESS;
}
// With 0 bytes it only says, through `written`, how many there are.
template <class A, const auto& Table, class H>
cublasStatus_t get(H handle, int number, void* to, size_t bytes, size_t* written) {
  A* object = at<A>(handle);
  size_t i = A::position(number);
  if (!object || i == Table.size() || (bytes ? !to || bytes != Table[i].bytes : !written)) return CUBLAS_STATUS_INVALID_VALUE;
  if (bytes) std::memcpy(to, &object->values[i], bytes);
  if (written) *written = Table[i].bytes;
  return CUBLAS_STATUS_SUCCESS;
}

djinn::api::Matrix matrix(const Layout& l, const void* address) {
  return {djinn::library::address(address),
          static_cast<uint32_t>(l.get<CUBLASLT_MATRIX_LAYOUT_TYPE>()),
          static_cast<uint32_t>(l.get<CUBLASLT_MATRIX_LAYOUT_ORDER>()),
          l.get<CUBLASLT_MATRIX_LAYOUT_ROWS>(),
          l.get<CUBLASLT_MATRIX_LAYOUT_COLS>(),
          static_cast<int64_t>(l.get<CUBLASLT_MATRIX_LAYOUT_LD>()),
          static_cast<int64_t>(l.get<CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET>()),
          l.get<CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT>()};
}

struct Product {
  const Description* description;
  const Layout *a, *b, *c, *d;
};
Product product(cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d) {
  return {at<Description>(desc), at<Layout>(a), at<Layout>(b), at<Layout>(c), at<Layout>(d)};
}
// Shapes agree, as cuBLASLt itself demands of descriptors.
bool valid(const Product& p) {
  if (!p.description || !p.a || !p.b || !p.c || !p.d) return false;
  auto rows = [](const Layout& l) { return l.get<CUBLASLT_MATRIX_LAYOUT_ROWS>(); };
  auto columns = [](const Layout& l) { return l.get<CUBLASLT_MATRIX_LAYOUT_COLS>(); };
  bool ta = p.description->get<CUBLASLT_MATMUL_DESC_TRANSA>() != CUBLAS_OP_N, tb = p.description->get<CUBLASLT_MATMUL_DESC_TRANSB>() != CUBLAS_OP_N;
  uint64_t m = ta ? columns(*p.a) : rows(*p.a), k = ta ? rows(*p.a) : columns(*p.a);
  uint64_t k2 = tb ? columns(*p.b) : rows(*p.b), n = tb ? rows(*p.b) : columns(*p.b);
  return k == k2 && rows(*p.d) == m && columns(*p.d) == n && rows(*p.c) == m && columns(*p.c) == n;
}
// The attribute that keeps the product from being sent, or null.
const char* not_forwarded(const Product& p) {
  for (const char* name : {p.description->not_forwarded(), p.a->not_forwarded(), p.b->not_forwarded(), p.c->not_forwarded(), p.d->not_forwarded()})
    if (name) return name;
  return p.description->get<CUBLASLT_MATMUL_DESC_POINTER_MODE>() > CUBLASLT_POINTER_MODE_DEVICE ? "MATMUL_DESC_POINTER_MODE (vectors)" : nullptr;
}

djinn::api::Scalar scalar(const Description& d, const void* p) {
  djinn::library::Blas reads;
  reads.pointer_mode = static_cast<uint32_t>(d.get<CUBLASLT_MATMUL_DESC_POINTER_MODE>());
  switch (static_cast<cudaDataType_t>(d.get<CUBLASLT_MATMUL_DESC_SCALE_TYPE>())) {
    case CUDA_R_16F:
    case CUDA_R_16BF: return reads.scalar(p, 2);
    case CUDA_R_64F:
    case CUDA_C_32F: return reads.scalar(p, 8);
    case CUDA_C_64F: return reads.scalar(p, 16);
    default: return reads.scalar(p, 4);  // the vendor's enum: CUDA_R_32F and CUDA_R_32I
  }
}

}  // namespace

// A cuBLASLt handle is a cuBLAS handle: one kind, one space of ids.
DJINN_EXPORT cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  if (!handle) return CUBLAS_STATUS_INVALID_VALUE;
  return djinn::open_session() ? create(handle, new djinn::library::Blas) : CUBLAS_STATUS_NOT_INITIALIZED;
}
DJINN_EXPORT cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  return djinn::library::forget(handle, djinn::library::kBlasKind) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED;
}

DJINN_EXPORT cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* out, cublasComputeType_t compute, cudaDataType_t scale) {
  if (!out) return CUBLAS_STATUS_INVALID_VALUE;
  auto d = new Description;
  d->put<CUBLASLT_MATMUL_DESC_COMPUTE_TYPE>(static_cast<uint32_t>(compute));
  d->put<CUBLASLT_MATMUL_DESC_SCALE_TYPE>(static_cast<uint32_t>(scale));
  return create(out, d);
}
DJINN_EXPORT cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) { return destroy<Description>(d); }
DJINN_EXPORT cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t which, const void* from,
                                                           size_t bytes) {
  return set<Description, kDescription>(d, which, from, bytes);
}
DJINN_EXPORT cublasStatus_t cublasLtMatmulDescGetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t which, void* to, size_t bytes,
                                                           size_t* written) {
  return get<Description, kDescription>(d, which, to, bytes, written);
}

DJINN_EXPORT cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* out, cudaDataType type, uint64_t rows, uint64_t columns,
                                                       int64_t leading) {
  if (!out) return CUBLAS_STATUS_INVALID_VALUE;
  auto l = new Layout;
  l->put<CUBLASLT_MATRIX_LAYOUT_TYPE>(static_cast<uint32_t>(type));
  l->put<CUBLASLT_MATRIX_LAYOUT_ROWS>(rows);
  l->put<CUBLASLT_MATRIX_LAYOUT_COLS>(columns);
  l->put<CUBLASLT_MATRIX_LAYOUT_LD>(static_cast<uint64_t>(leading));
  return create(out, l);
}
DJINN_EXPORT cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) { return destroy<Layout>(l); }
DJINN_EXPORT cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t l, cublasLtMatrixLayoutAttribute_t which, const void* from,
                                                             size_t bytes) {
  return set<Layout, kLayout>(l, which, from, bytes);
}
DJINN_EXPORT cublasStatus_t cublasLtMatrixLayoutGetAttribute(cublasLtMatrixLayout_t l, cublasLtMatrixLayoutAttribute_t which, void* to, size_t bytes,
                                                             size_t* written) {
  return get<Layout, kLayout>(l, which, to, bytes, written);
}

DJINN_EXPORT cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* out) {
  return out ? create(out, new Preference) : CUBLAS_STATUS_INVALID_VALUE;
}
DJINN_EXPORT cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) { return destroy<Preference>(p); }
DJINN_EXPORT cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t which,
                                                                 const void* from, size_t bytes) {
  return set<Preference, kPreference>(p, which, from, bytes);
}
DJINN_EXPORT cublasStatus_t cublasLtMatmulPreferenceGetAttribute(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t which, void* to,
                                                                 size_t bytes, size_t* written) {
  return get<Preference, kPreference>(p, which, to, bytes, written);
}

// One answer, all zero: the server chooses the algorithm and needs no workspace. A round trip would cost 16 of them per training step.
DJINN_EXPORT cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                                           cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                                           cublasLtMatmulPreference_t preference, int wanted,
                                                           cublasLtMatmulHeuristicResult_t results[], int* count) {
  if (!djinn::library::blas(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (wanted <= 0 || !results || !count || !at<Preference>(preference) || !valid(product(desc, a, b, c, d))) return CUBLAS_STATUS_INVALID_VALUE;
  results[0] = {};
  results[0].state = CUBLAS_STATUS_SUCCESS;
  *count = 1;
  return CUBLAS_STATUS_SUCCESS;
}

DJINN_EXPORT cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha, const void* a,
                                           cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout, const void* beta,
                                           const void* c, cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
                                           const cublasLtMatmulAlgo_t*, void*, size_t, cudaStream_t stream) {
  if (!djinn::library::blas(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
  Product p = product(desc, a_layout, b_layout, c_layout, d_layout);
  if (!alpha || !beta || !valid(p)) return CUBLAS_STATUS_INVALID_VALUE;
  djinn::Work work = djinn::begin_work("cublasLtMatmul");
  if (work == djinn::Work::drop) return CUBLAS_STATUS_SUCCESS;
  if (work == djinn::Work::refuse) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (const char* attribute = not_forwarded(p)) {
    if (work == djinn::Work::scoped) return CUBLAS_STATUS_SUCCESS;  // the op computes it; there is no command to validate
    djinn::say_absent("cublasLtMatmul", attribute);
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  const Description& t = *p.description;
  uint64_t d_type = p.d->get<CUBLASLT_MATRIX_LAYOUT_TYPE>(), bias_type = t.get<CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE>();
  djinn::api::cublasLtMatmul m;
  m.stream = djinn::library::stream_id(stream);
  m.desc = {static_cast<uint32_t>(t.get<CUBLASLT_MATMUL_DESC_COMPUTE_TYPE>()),
            static_cast<uint32_t>(t.get<CUBLASLT_MATMUL_DESC_SCALE_TYPE>()),
            static_cast<uint32_t>(t.get<CUBLASLT_MATMUL_DESC_TRANSA>()),
            static_cast<uint32_t>(t.get<CUBLASLT_MATMUL_DESC_TRANSB>()),
            static_cast<uint32_t>(t.get<CUBLASLT_MATMUL_DESC_EPILOGUE>()),
            static_cast<uint32_t>(bias_type == kMinusOne32 ? d_type : bias_type),
            t.get<CUBLASLT_MATMUL_DESC_BIAS_POINTER>(),
            static_cast<int64_t>(t.get<CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE>())};
  m.alpha = scalar(t, alpha);
  m.beta = scalar(t, beta);
  m.a = matrix(*p.a, a);
  m.b = matrix(*p.b, b);
  m.c = matrix(*p.c, c);
  m.d = matrix(*p.d, d);
  return djinn::library::post(m, work, m.stream) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED;
}
#endif

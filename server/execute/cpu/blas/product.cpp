// Products on the CPU: float, double and complex go to the library in place; half and bfloat16 are widened to float, accumulated in float, and
// rounded once, after the epilogue. A row-major matrix is its transpose in column-major order. Validated before: server/decode/library_blas.cpp.
#include <algorithm>
#include <cmath>
#include <complex>
#include <cstring>
#include <new>
#include <vector>

#include "server/execute/blas.hpp"
#include "server/execute/cpu/blas/library.hpp"
#include "server/execute/cpu/blas/number.hpp"

namespace djinn::server {

namespace {

template <class T>
T* at(uint64_t address) {
  return reinterpret_cast<T*>(address);
}

template <class T>
Gemm<T> gemm_of(const BlasLibrary& l) {
  if constexpr (std::is_same_v<T, float>) return l.sgemm;
  else if constexpr (std::is_same_v<T, double>) return l.dgemm;
  else if constexpr (std::is_same_v<T, std::complex<float>>) return l.cgemm;
  else return l.zgemm;
}

// Calls f with a value of the C++ type behind `t`.
template <class F>
void with_real(Type t, F&& f) {
  switch (t) {
    case Type::float32: return f(float{});
    case Type::float16: return f(Half{});
    case Type::bfloat16: return f(Bfloat{});
    case Type::float64:
    case Type::complex64:
    case Type::complex128: return;  // never widened: computed as they are
  }
}

// One matrix, ready for the library: column-major with a leading dimension.
template <class T>
struct View {
  const T* data;
  char transpose;
  int leading;
};

// The distance of element (i, j) from the first.
int64_t position(const Operand& o, int64_t i, int64_t j) { return o.row_major ? i * o.leading + j : j * o.leading + i; }

char letter(Transpose t, bool row_major) {
  // stored row by row, the matrix is its own transpose
  bool transposed = (t != Transpose::no) != row_major;
  return !transposed ? 'N' : t == Transpose::conjugate ? 'C' : 'T';
}

// Widened copies of half matrices are packed, stored in the same order as the original.
template <class T>
View<T> view(const Operand& o, Transpose t, int64_t batch, std::vector<T>& room) {
  char transpose = letter(t, o.row_major);
  if constexpr (std::is_same_v<T, float>) {
    if (o.type != Type::float32) {
      int64_t inner = o.row_major ? o.columns : o.rows, outer = o.row_major ? o.rows : o.columns;
      room.resize(static_cast<size_t>(inner * outer));
      with_real(o.type, [&](auto element) {
        using E = decltype(element);
        const E* from = at<const E>(o.address) + batch * o.batch_stride;
        for (int64_t j = 0; j < outer; j++)
          for (int64_t i = 0; i < inner; i++) room[static_cast<size_t>(j * inner + i)] = to_float(from[j * o.leading + i]);
      });
      return {room.data(), transpose, static_cast<int>(std::max<int64_t>(inner, 1))};
    }
  }
  return {at<const T>(o.address) + batch * o.batch_stride, transpose, static_cast<int>(o.leading)};
}

template <class T>
T scalar(const api::Scalar& s, Type type) {
  const void* from = s.address ? at<const void>(s.address) : s.value;
  if constexpr (std::is_same_v<T, float>) {
    float v = 0;
    with_real(type, [&](auto element) {
      std::memcpy(&element, from, sizeof element);
      v = to_float(element);
    });
    return v;
  } else {
    T v;
    std::memcpy(&v, from, sizeof v);
    return v;
  }
}

float activate(const Epilogue& e, float v) {
  if (e.relu) return v > 0 ? v : v != v ? v : 0.0f;
  if (e.gelu) return 0.5f * v * (1.0f + std::tanh(0.7978845608f * (v + 0.044715f * v * v * v)));
  return v;
}

bool has_epilogue(const Epilogue& e) { return e.relu || e.gelu || e.bias; }

// Results in float, packed column by column in `from`, through the epilogue into D.
void store(const Product& p, int64_t batch, const float* from, int64_t leading) {
  const Operand& d = p.d;
  std::vector<float> bias(static_cast<size_t>(d.rows), 0.0f);
  if (p.epilogue.bias)
    with_real(p.epilogue.bias_type, [&](auto element) {
      auto b = at<const decltype(element)>(p.epilogue.bias) + batch * p.epilogue.bias_batch_stride;
      for (int64_t i = 0; i < d.rows; i++) bias[static_cast<size_t>(i)] = to_float(b[i]);
    });
  with_real(d.type, [&](auto element) {
    auto to = at<decltype(element)>(d.address) + batch * d.batch_stride;
    for (int64_t j = 0; j < d.columns; j++)
      for (int64_t i = 0; i < d.rows; i++)
        from_float(activate(p.epilogue, from[j * leading + i] + bias[static_cast<size_t>(i)]), to[position(d, i, j)]);
  });
}

// C as float, packed column by column.
void load(const Operand& c, int64_t batch, float* to) {
  with_real(c.type, [&](auto element) {
    auto from = at<const decltype(element)>(c.address) + batch * c.batch_stride;
    for (int64_t j = 0; j < c.columns; j++)
      for (int64_t i = 0; i < c.rows; i++) to[j * c.rows + i] = to_float(from[position(c, i, j)]);
  });
}

template <class T>
void call(const Product& p, View<T> a, View<T> b, T alpha, T beta, T* c, int64_t leading) {
  int m = static_cast<int>(p.d.rows), n = static_cast<int>(p.d.columns), ldc = static_cast<int>(std::max<int64_t>(leading, 1));
  int k = static_cast<int>(p.transpose_a == Transpose::no ? p.a.columns : p.a.rows);
  a.leading = std::max(a.leading, 1);
  b.leading = std::max(b.leading, 1);
  gemm_of<T>(blas_library())(&a.transpose, &b.transpose, &m, &n, &k, &alpha, a.data, &a.leading, b.data, &b.leading, &beta, c, &ldc);
}

// In place: D has the type that the library computes in, and its order.
template <class T>
void multiply_in_place(const Product& p, int64_t batch) {
  std::vector<T> room_a, room_b;
  T alpha = scalar<T>(p.alpha, p.scale), beta = scalar<T>(p.beta, p.scale);
  T* d = at<T>(p.d.address) + batch * p.d.batch_stride;
  const T* c = at<const T>(p.c.address) + batch * p.c.batch_stride;
  if (beta != T{0} && (c != d || p.c.leading != p.d.leading))
    for (int64_t j = 0; j < p.d.columns; j++) std::memmove(d + j * p.d.leading, c + j * p.c.leading, static_cast<size_t>(p.d.rows) * sizeof(T));
  call<T>(p, view<T>(p.a, p.transpose_a, batch, room_a), view<T>(p.b, p.transpose_b, batch, room_b), alpha, beta, d, p.d.leading);
}

// Through a buffer of floats: D is narrower, or row-major, or has an epilogue.
void multiply_widened(const Product& p, int64_t batch) {
  std::vector<float> room_a, room_b, d(static_cast<size_t>(p.d.rows * p.d.columns));
  float alpha = scalar<float>(p.alpha, p.scale), beta = scalar<float>(p.beta, p.scale);
  if (beta != 0) load(p.c, batch, d.data());
  call<float>(p, view<float>(p.a, p.transpose_a, batch, room_a), view<float>(p.b, p.transpose_b, batch, room_b), alpha, beta, d.data(), p.d.rows);
  store(p, batch, d.data(), p.d.rows);
}

bool narrow(Type t) { return t == Type::float16 || t == Type::bfloat16; }
bool row_major(const Product& p) { return p.a.row_major || p.b.row_major || p.c.row_major || p.d.row_major; }

std::string why_not(const Product& p) {
  if (p.a.type != p.b.type) return "A and B have different types";
  if (p.c.type != p.d.type) return "C and D have different types";
  if (p.d.type != p.a.type && !(narrow(p.a.type) && p.d.type == Type::float32)) return "the output's type does not go with the inputs'";
  bool real32 = p.d.type == Type::float32 || narrow(p.d.type);
  if (real32 ? p.scale != Type::float32 && p.scale != p.a.type : p.scale != p.d.type) return "the scalars' type does not go with the matrices'";
  if (!real32 && has_epilogue(p.epilogue)) return "an epilogue of double or complex numbers";
  if (!real32 && row_major(p)) return "row-major matrices of double or complex numbers";
  for (const Operand* o : {&p.a, &p.b, &p.c, &p.d})
    if (std::max({o->rows, o->columns, o->leading}) > INT32_MAX) return "a dimension beyond 32 bits";
  return blas_library().error;
}

void compute(const Product& p) {
  for (int64_t batch = 0; batch < p.batch_count; batch++) {
    switch (p.d.type) {
      case Type::float64: multiply_in_place<double>(p, batch); break;
      case Type::complex64: multiply_in_place<std::complex<float>>(p, batch); break;
      case Type::complex128: multiply_in_place<std::complex<double>>(p, batch); break;
      case Type::float32:
        if (!has_epilogue(p.epilogue) && !p.d.row_major && !p.c.row_major) {
          multiply_in_place<float>(p, batch);
          break;
        }
        [[fallthrough]];
      case Type::float16:
      case Type::bfloat16: multiply_widened(p, batch); break;
    }
  }
}

// Widened copies may be larger than what this machine has left: the session's trouble, not the worker's end.
std::string multiply(const Product& p) {
  if (std::string why = why_not(p); !why.empty()) return why;
  if (p.d.rows == 0 || p.d.columns == 0) return {};
  try {
    compute(p);
  } catch (const std::bad_alloc&) {
    return "the server's host is out of memory";
  }
  return {};
}

void set_threads(unsigned n) {
  static unsigned current = 0;
  if (n == current || !blas_library().set_threads) return;
  current = n;
  blas_library().set_threads(static_cast<int>(n));
}

constexpr Blas kCpuBlas{multiply, set_threads};

}  // namespace

const Blas& cpu_blas() { return kCpuBlas; }

}  // namespace djinn::server

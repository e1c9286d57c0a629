#include "products.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "call.h"
#include "scratch.h"
#include "threads.h"
#include "vectors.h"

namespace native {
namespace {

FloatMath float_math = kStrict;

struct Threads : dnnl::threadpool_interop::threadpool_iface {
  int get_num_threads() const override { return num_threads(); }
  bool get_in_parallel() const override { return is_at_work(); }
  void parallel_for(int n, const std::function<void(int, int)> &f) override {
    if (n == 1) return f(0, 1);
    in_shares(n, [&](int64_t first, int64_t end) {
      for (int64_t i = first; i < end; i++) f((int)i, n);
    });
  }
  uint64_t get_flags() const override { return 0; }
  void wait() override {}
};

struct Stream {
  void *engine = nullptr, *stream = nullptr;
  Threads threads;
  Stream() {
    onednn()->engine_create(&engine, 1 /* CPU */, 0);
    onednn()->stream_create(&stream, engine, &threads);
  }
};

Stream &the_stream() {
  thread_local Stream stream;
  return stream;
}

struct Prepared {
  void *primitive = nullptr, *a = nullptr, *b = nullptr, *bias = nullptr, *result = nullptr;
  int status = 0;
};

Prepared prepare(int64_t m, int64_t n, int64_t k, Matrix a, Matrix b, bool has_bias, bool is_added,
                 FloatMath math) {
  const OneDnn &dnn = *onednn();
  Prepared made;
  void *engine = the_stream().engine, *attr = nullptr, *after = nullptr, *desc = nullptr, *descs[4] = {};
  const int64_t sizes[4][2] = {{m, k}, {k, n}, {1, n}, {m, n}};
  const int64_t steps[4][2] = {{a.row_step, a.column_step}, {b.row_step, b.column_step}, {n, 1}, {n, 1}};
  void **memories[4] = {&made.a, &made.b, &made.bias, &made.result};
  for (int i = 0; i < 4; i++) {
    if (i == 2 && !has_bias) continue;
    made.status |= dnn.desc_create(&descs[i], 2, sizes[i], kFloat32, steps[i]);
    made.status |= dnn.memory_create(memories[i], descs[i], engine, nullptr);
  }
  made.status |= dnn.attr_create(&attr) | dnn.attr_set_math(attr, math);
  if (is_added) {
    made.status |= dnn.post_ops_create(&after) | dnn.post_ops_sum(after, 1.f, 0, kUndefined);
    made.status |= dnn.attr_set_post_ops(attr, after);
    dnn.post_ops_destroy(after);
  }
  made.status |= dnn.matmul_desc_create(&desc, engine, descs[0], descs[1], descs[2], descs[3], attr);
  if (made.status == 0) made.status = dnn.primitive_create(&made.primitive, desc);
  if (desc != nullptr) dnn.primitive_desc_destroy(desc);
  dnn.attr_destroy(attr);
  for (void *each : descs)
    if (each != nullptr) dnn.desc_destroy(each);
  return made;
}

}  // namespace

void set_float_math(FloatMath math) { float_math = math; }

namespace {

int whole_product(float *result, int64_t m, int64_t n, int64_t k, Matrix a, Matrix b, const float *bias,
            bool is_added) {
  using Key = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, bool, bool, int>;
  thread_local std::map<Key, Prepared> prepared;
  const Key key{m, n, k, a.row_step, a.column_step, b.row_step, b.column_step, bias != nullptr, is_added, float_math};
  auto found = prepared.find(key);
  if (found == prepared.end())
    found = prepared.emplace(key, prepare(m, n, k, a, b, bias != nullptr, is_added, float_math)).first;
  const Prepared &p = found->second;
  if (p.status != 0) return p.status;
  const OneDnn &dnn = *onednn();
  dnn.memory_set(p.a, const_cast<float *>(a.data));
  dnn.memory_set(p.b, const_cast<float *>(b.data));
  dnn.memory_set(p.result, result);
  Argument arguments[4] = {{kSource, p.a}, {kWeights, p.b}, {kResult, p.result}, {kBias, p.bias}};
  if (bias != nullptr) dnn.memory_set(p.bias, const_cast<float *>(bias));
  return dnn.execute(p.primitive, the_stream().stream, bias == nullptr ? 3 : 4, arguments);
}

// oneDNN's AVX2 products take six rows together, and one to three that are left over in another order of additions;
// of many rows they leave some over in the middle. So they are given a few at a time, and what is left over with rows of
// zeros: what a row gives does not depend on how many there are.
constexpr int64_t kTogether = 6, kMostRows = 24 * kTogether;

int left_over(float *result, int64_t m, int64_t n, int64_t k, Matrix a, Matrix b, const float *bias, bool is_added) {
  Scratch scratch(kTogether * (k + n));
  float *rows = scratch.take(kTogether * k), *sums = scratch.take(kTogether * n);
  std::fill(rows, rows + kTogether * k, 0.f);
  for (int64_t i = 0; i < m; i++)
    for (int64_t l = 0; l < k; l++) rows[i * k + l] = a.data[i * a.row_step + l * a.column_step];
  if (is_added) std::fill(std::copy(result, result + m * n, sums), sums + kTogether * n, 0.f);
  const int status = whole_product(sums, kTogether, n, k, rows_of(rows, k), b, bias, is_added);
  std::copy(sums, sums + m * n, result);
  return status;
}

}  // namespace

int product(float *result, int64_t m, int64_t n, int64_t k, Matrix a, Matrix b, const float *bias, bool is_added) {
  return onednn() == nullptr ? -1 : whole_product(result, m, n, k, a, b, bias, is_added);
}

int independent_rows(float *result, int64_t m, int64_t n, int64_t k, Matrix a, Matrix b, const float *bias,
                     bool is_added) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  int status = onednn() == nullptr ? -1 : 0;
  for (int64_t i = 0; i < m && status == 0;) {
    int64_t some = std::min(m - i, kMostRows);
    if (some % kTogether <= 3 && some > 3) some -= some % kTogether;
    const Matrix from{a.data + i * a.row_step, a.row_step, a.column_step};
    const auto of_rows = some <= 3 ? left_over : whole_product;
    status |= of_rows(result + i * n, some, n, k, from, b, bias, is_added);
    i += some;
  }
  return status;
#else
  return product(result, m, n, k, a, b, bias, is_added);
#endif
}

namespace {

template <int Rows, int Vectors>
inline void tile(float *c, int64_t step, Matrix a, const float *b, int64_t b_step, int64_t k, bool is_added) {
  constexpr int kParts = Vectors * (kWidth / kPart);
  Part s[Rows][kParts];
#pragma GCC unroll 16
  for (int i = 0; i < Rows; i++)
#pragma GCC unroll 16
    for (int j = 0; j < kParts; j++) s[i][j] = is_added ? load_part(c + i * step + j * kPart) : Part{};
  for (int64_t l = 0; l < k; l++) {
    Part row[kParts];
#pragma GCC unroll 16
    for (int j = 0; j < kParts; j++) row[j] = load_part(b + l * b_step + j * kPart);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; i++) {
      const float x = a.data[i * a.row_step + l * a.column_step];
#pragma GCC unroll 16
      for (int j = 0; j < kParts; j++) s[i][j] += x * row[j];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < Rows; i++)
#pragma GCC unroll 16
    for (int j = 0; j < kParts; j++) store_part(c + i * step + j * kPart, s[i][j]);
}

template <int Vectors>
inline void strip(float *c, int64_t step, int64_t m, int64_t k, Matrix a, const float *b, int64_t b_step, bool is_added) {
  int64_t i = 0;
  auto from = [&](int64_t row) { return Matrix{a.data + row * a.row_step, a.row_step, a.column_step}; };
  for (; i + kTileRows <= m; i += kTileRows) tile<kTileRows, Vectors>(c + i * step, step, from(i), b, b_step, k, is_added);
  for (; i + 2 <= m; i += 2) tile<2, Vectors>(c + i * step, step, from(i), b, b_step, k, is_added);
  for (; i < m; i++) tile<1, Vectors>(c + i * step, step, from(i), b, b_step, k, is_added);
}

}  // namespace

void small_product(float *c, int64_t step, int64_t m, int64_t n, int64_t k, Matrix a, const float *b, int64_t b_step,
                   bool is_added) {
  int64_t j = 0;
  for (; j + kTileVectors * kWidth <= n; j += kTileVectors * kWidth)
    strip<kTileVectors>(c + j, step, m, k, a, b + j, b_step, is_added);
  for (; j < n; j += kWidth) strip<1>(c + j, step, m, k, a, b + j, b_step, is_added);
}

}  // namespace native

using native::rows_of;
using native::transposed;

// y [T, N] = x [T, K] weight [N, K]^T. Inputs: x, weight.
OPERATOR(product) {
  const int64_t t = call.size(0, 0), k = call.size(0, 1), n = call.size(1, 0);
  return native::independent_rows(call.floats(2), t, n, k, rows_of(call.floats(0), k), transposed(call.floats(1), k));
}

// dx [T, K] = dy [T, N] weight [N, K]. Inputs: dy, weight.
OPERATOR(product_input_gradient) {
  const int64_t t = call.size(0, 0), n = call.size(0, 1), k = call.size(1, 1);
  return native::product(call.floats(2), t, k, n, rows_of(call.floats(0), n), rows_of(call.floats(1), k));
}

// dweight [N, K] = dy [T, N]^T x [T, K]. Inputs: dy, x.
OPERATOR(product_weight_gradient) {
  const int64_t t = call.size(0, 0), n = call.size(0, 1), k = call.size(1, 1);
  return native::product(call.floats(2), n, k, t, transposed(call.floats(0), n), rows_of(call.floats(1), k));
}

extern "C" int native_set_up(int threads, int products_in_bfloat16) {
  native::set_num_threads(threads);
  native::set_float_math(products_in_bfloat16 ? native::kBfloat16 : native::kStrict);
  return native::onednn() == nullptr;
}

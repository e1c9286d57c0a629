// Matrix products: large ones by oneDNN on all threads, small ones within one thread.
#pragma once
#include "onednn.h"
#include "vectors.h"

namespace native {

// Whether large products may multiply in bfloat16 (sums stay float32).
void set_float_math(FloatMath math);

struct Matrix {  // the element of a row and a column lies at data[row * row_step + column * column_step]
  const float *data;
  int64_t row_step, column_step;
};

inline Matrix rows_of(const float *data, int64_t width) { return {data, width, 1}; }
inline Matrix transposed(const float *data, int64_t width) { return {data, 1, width}; }

// result [m, n] = a [m, k] b [k, n] + bias [n], or that added to what is there. Returns 0, or oneDNN's status.
int product(float *result, int64_t m, int64_t n, int64_t k, Matrix a, Matrix b, const float *bias = nullptr,
            bool is_added = false);

// The same, where bits of a row do not depend on how many others there are; with AVX2 slower.
int independent_rows(float *result, int64_t m, int64_t n, int64_t k, Matrix a, Matrix b, const float *bias = nullptr,
                     bool is_added = false);

// Rows and vectors of a tile of `small_product` that the registers hold: 32 of AVX-512 and NEON, 16 of AVX2.
constexpr int kTileRows = 6, kTileVectors = kPart == 16 ? 4 : 1;

// result [m, n], rows of `step`, = a [m, k] b [k, n] by this thread; n a multiple of sixteen, b's columns side by side.
void small_product(float *result, int64_t step, int64_t m, int64_t n, int64_t k, Matrix a, const float *b,
                   int64_t b_step, bool is_added = false);

}  // namespace native

// What stands between the products of a layer, over rows of a stream of tokens.
#pragma once
#include <cstdint>

namespace native {

// y = x / rms(x) * weight; x, y [rows, width], which may be the same.
void norm_rows(float *y, const float *x, const float *weight, float eps, int64_t rows, int64_t width);

// dx [rows, width] = gradient of norm_rows + residual, where there is one; dy and dx may be the same. The weight's is
// added to dweight [width], where there is one.
void norm_gradient(float *dx, float *dweight, const float *x, const float *weight, float eps, const float *dy,
                   const float *residual, int64_t rows, int64_t width);

// Rotary embedding of x [rows, width] in the half-split layout, times `scale`; tables [rows, head]; sign -1 turns back.
void rotate_rows(float *y, const float *x, const float *cos, const float *sin, float sign, float scale, int64_t rows,
                 int64_t width, int64_t head);

// y = silu(gate) * up, of `count` numbers.
void gate_rows(float *y, const float *gate, const float *up, int64_t count);

// dgate may be dy.
void gate_gradient(float *dgate, float *dup, const float *gate, const float *up, const float *dy, int64_t count);

// sums [width] += columns of x [rows, width].
void add_columns(float *sums, const float *x, int64_t rows, int64_t width);

// y *= factor.
void multiply(float *y, float factor, int64_t count);

// y = x, by all threads.
void copy(float *y, const float *x, int64_t count);

}  // namespace native

// A linear of a layer over rows of a stream, with its low-rank adapter where it has one (models/adapted_product.py):
// y = x W^T + bias + scale (x A^T) B^T.
#pragma once
#include "call.h"

namespace native {

// What an operator takes as [1] where there is none.
inline float *optional(const Call &call, int number) { return call.count(number) > 1 ? call.floats(number) : nullptr; }

struct Linear {
  const float *weight;  // [n, k]
  int64_t n, k;
  const float *bias = nullptr;
  const float *down = nullptr, *up = nullptr;  // A [rank, k], B [n, rank]
  int64_t rank = 0;
  float scale = 0;

  // With the adapter that stands at `number` and the place after it.
  Linear with(const Call &call, int number, float by) const {
    Linear made = *this;
    if (optional(call, number) == nullptr) return made;
    made.down = call.floats(number), made.up = call.floats(number + 1);
    made.rank = call.size(number, 0), made.scale = by;
    return made;
  }
};

// Sums that gradients are added to, or nullptr.
struct LinearSums {
  float *weight, *down, *up;
};

// y [rows, n] of x [rows, k], or that added. Each of these returns 0, or oneDNN's status.
int forward(float *y, const float *x, const Linear &linear, int64_t rows, bool is_added = false);

// dx [rows, k] of dy [rows, n], or that added.
int backward(float *dx, const float *dy, const Linear &linear, int64_t rows, bool is_added = false);

int add_gradients(const LinearSums &sums, const float *dy, const float *x, const Linear &linear, int64_t rows);

}  // namespace native

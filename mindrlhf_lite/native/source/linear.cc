#include "linear.h"

#include "elementwise.h"
#include "products.h"
#include "scratch.h"

namespace native {
namespace {

// scale x A^T [rows, rank]
int narrow(float *y, const float *x, const Linear &linear, int64_t rows) {
  const Matrix input = rows_of(x, linear.k), down = transposed(linear.down, linear.k);
  const int status = independent_rows(y, rows, linear.rank, linear.k, input, down);
  multiply(y, linear.scale, rows * linear.rank);
  return status;
}

// scale dy B [rows, rank]
int narrow_gradient(float *y, const float *dy, const Linear &linear, int64_t rows) {
  const int status = product(y, rows, linear.rank, linear.n, rows_of(dy, linear.n), rows_of(linear.up, linear.rank));
  multiply(y, linear.scale, rows * linear.rank);
  return status;
}

}  // namespace

int forward(float *y, const float *x, const Linear &linear, int64_t rows, bool is_added) {
  const Matrix input = rows_of(x, linear.k), weight = transposed(linear.weight, linear.k);
  int status = independent_rows(y, rows, linear.n, linear.k, input, weight, linear.bias, is_added);
  if (linear.down == nullptr) return status;
  Scratch scratch(rows * linear.rank);
  float *between = scratch.take(rows * linear.rank);
  status |= narrow(between, x, linear, rows);
  const Matrix up = transposed(linear.up, linear.rank);
  return status | independent_rows(y, rows, linear.n, linear.rank, rows_of(between, linear.rank), up, nullptr, true);
}

int backward(float *dx, const float *dy, const Linear &linear, int64_t rows, bool is_added) {
  const Matrix gradient = rows_of(dy, linear.n);
  int status = product(dx, rows, linear.k, linear.n, gradient, rows_of(linear.weight, linear.k), nullptr, is_added);
  if (linear.down == nullptr) return status;
  Scratch scratch(rows * linear.rank);
  float *between = scratch.take(rows * linear.rank);
  status |= narrow_gradient(between, dy, linear, rows);
  const Matrix down = rows_of(linear.down, linear.k);
  return status | product(dx, rows, linear.k, linear.rank, rows_of(between, linear.rank), down, nullptr, true);
}

int add_gradients(const LinearSums &sums, const float *dy, const float *x, const Linear &linear, int64_t rows) {
  const int64_t n = linear.n, k = linear.k, rank = linear.rank;
  const Matrix of_output = transposed(dy, n), input = rows_of(x, k);
  int status = 0;
  if (sums.weight != nullptr) status |= product(sums.weight, n, k, rows, of_output, input, nullptr, true);
  if (linear.down == nullptr || (sums.down == nullptr && sums.up == nullptr)) return status;
  Scratch scratch(rows * rank);
  float *between = scratch.take(rows * rank);
  if (sums.up != nullptr) {
    status |= narrow(between, x, linear, rows);
    status |= product(sums.up, n, rank, rows, of_output, rows_of(between, rank), nullptr, true);
  }
  if (sums.down != nullptr) {
    status |= narrow_gradient(between, dy, linear, rows);
    status |= product(sums.down, rank, k, rows, transposed(between, rank), input, nullptr, true);
  }
  return status;
}

}  // namespace native

// The blocks of a layer over a stream of packed tokens, between its attention, on a rank that has all of their columns.
// Where an operator takes optional weights, or sums that gradients are added to in place, [1] stands for none.
#include "call.h"
#include "elementwise.h"
#include "products.h"
#include "scratch.h"

using namespace native;

namespace {

float *optional(const Call &call, int number) { return call.count(number) > 1 ? call.floats(number) : nullptr; }

// y [rows, n] = x [rows, k] weight [n, k]^T + bias.
int forward(float *y, const float *x, const float *weight, const float *bias, int64_t rows, int64_t n, int64_t k) {
  return product(y, rows, n, k, rows_of(x, k), transposed(weight, k), bias);
}

// dx [rows, k] = dy [rows, n] weight [n, k], or that added.
int backward(float *dx, const float *dy, const float *weight, int64_t rows, int64_t n, int64_t k, bool is_added) {
  return product(dx, rows, k, n, rows_of(dy, n), rows_of(weight, k), nullptr, is_added);
}

// sum [n, k] += dy [rows, n]^T x [rows, k], where there is a sum.
int add_gradient(float *sum, const float *dy, const float *x, int64_t rows, int64_t n, int64_t k) {
  return sum == nullptr ? 0 : product(sum, n, k, rows, transposed(dy, n), rows_of(x, k), nullptr, true);
}

}  // namespace

// Queries, keys and values. Inputs: stream [T, H], its norm [H], weights of q, k, v [heads * D, H], their biases, norms of
// q and k [D], cos, sin [T, D], numbers [2]: eps, the queries' scale. Outputs: q, k turned and q scaled, v [T, heads * D];
// where q and k have norms, q and k before those.
OPERATOR(attention_in) {
  const int64_t tokens = call.size(0, 0), width = call.size(0, 1), head = call.size(10, 1);
  const float eps = call.floats(12)[0], scales[] = {call.floats(12)[1], 1.f};
  Scratch scratch(tokens * width);
  float *normed = scratch.take(tokens * width);
  norm_rows(normed, call.floats(0), call.floats(1), eps, tokens, width);
  int status = 0;
  for (int i = 0; i < 3; i++) {
    const int64_t n = call.size(2 + i, 0);
    const float *gain = i < 2 ? optional(call, 8 + i) : nullptr;
    float *out = call.floats(13 + i), *raw = gain == nullptr ? out : call.floats(16 + i);
    status |= forward(raw, normed, call.floats(2 + i), optional(call, 5 + i), tokens, n, width);
    if (gain != nullptr) norm_rows(out, raw, gain, eps, tokens * n / head, head);
    if (i < 2) rotate_rows(out, out, call.floats(10), call.floats(11), 1.f, scales[i], tokens, n, head);
  }
  return status;
}

// Inputs: stream, norm, weights of q, k, v, norms of q and k, cos, sin, numbers as of attention_in; q and k before their
// norms; gradients of q, k, v, and of the stream from elsewhere; sums of the norm, the three weights, their biases and
// the norms of q and k. Output: the stream's gradient [T, H].
OPERATOR(attention_in_gradient) {
  const int64_t tokens = call.size(0, 0), width = call.size(0, 1), head = call.size(7, 1);
  const float eps = call.floats(9)[0], scales[] = {call.floats(9)[1], 1.f};
  Scratch scratch(tokens * (2 * width + call.size(2, 0) + call.size(3, 0)));
  float *normed = scratch.take(tokens * width), *dnormed = scratch.take(tokens * width);
  norm_rows(normed, call.floats(0), call.floats(1), eps, tokens, width);
  int status = 0;
  for (int i = 0; i < 3; i++) {
    const int64_t n = call.size(2 + i, 0);
    const float *gradient = call.floats(12 + i);
    if (i < 2) {
      float *turned = scratch.take(tokens * n);
      rotate_rows(turned, gradient, call.floats(7), call.floats(8), -1.f, scales[i], tokens, n, head);
      if (const float *gain = optional(call, 5 + i))
        norm_gradient(turned, optional(call, 23 + i), call.floats(10 + i), gain, eps, turned, nullptr, tokens * n / head,
                      head);
      gradient = turned;
    }
    status |= backward(dnormed, gradient, call.floats(2 + i), tokens, n, width, i > 0);
    status |= add_gradient(optional(call, 17 + i), gradient, normed, tokens, n, width);
    if (float *sum = optional(call, 20 + i)) add_columns(sum, gradient, tokens, n);
  }
  norm_gradient(call.floats(25), optional(call, 16), call.floats(0), call.floats(1), eps, dnormed, call.floats(15),
                tokens, width);
  return status;
}

// The stream after the block. Inputs: attended [T, heads * D], weight of o [H, heads * D], stream [T, H].
OPERATOR(attention_out) {
  const int64_t tokens = call.size(0, 0), inner = call.size(0, 1), width = call.size(1, 0);
  copy(call.floats(3), call.floats(2), tokens * width);
  return product(call.floats(3), tokens, width, inner, rows_of(call.floats(0), inner),
                 transposed(call.floats(1), inner), nullptr, true);
}

// Inputs: gradient of the stream [T, H], attended, weight of o, its sum. Output: gradient of attended.
OPERATOR(attention_out_gradient) {
  const int64_t tokens = call.size(0, 0), width = call.size(0, 1), inner = call.size(1, 1);
  return backward(call.floats(4), call.floats(0), call.floats(2), tokens, width, inner, false) |
         add_gradient(optional(call, 3), call.floats(0), call.floats(1), tokens, width, inner);
}

// Inputs: stream [T, H], its norm [H], weights of gate and up [I, H], eps [1]. Outputs: gate and up [T, I].
OPERATOR(mlp_in) {
  const int64_t tokens = call.size(0, 0), width = call.size(0, 1), inner = call.size(2, 0);
  Scratch scratch(tokens * width);
  float *normed = scratch.take(tokens * width);
  norm_rows(normed, call.floats(0), call.floats(1), call.floats(4)[0], tokens, width);
  return forward(call.floats(5), normed, call.floats(2), nullptr, tokens, inner, width) |
         forward(call.floats(6), normed, call.floats(3), nullptr, tokens, inner, width);
}

// The stream after the block. Inputs: gate, up [T, I], weight of down [H, I], stream [T, H].
OPERATOR(mlp_out) {
  const int64_t tokens = call.size(0, 0), inner = call.size(0, 1), width = call.size(2, 0);
  Scratch scratch(tokens * inner);
  float *between = scratch.take(tokens * inner);
  gate_rows(between, call.floats(0), call.floats(1), tokens * inner);
  copy(call.floats(4), call.floats(3), tokens * width);
  return product(call.floats(4), tokens, width, inner, rows_of(between, inner), transposed(call.floats(2), inner),
                 nullptr, true);
}

// Inputs: stream [T, H], its norm, weights of gate, up, down, eps [1], gate and up, gradient of the stream after the
// block; sums of the norm and the three weights. Output: gradient of the stream before it.
OPERATOR(mlp_gradient) {
  const int64_t tokens = call.size(0, 0), width = call.size(0, 1), inner = call.size(2, 0);
  const float eps = call.floats(5)[0], *dout = call.floats(8), *gate = call.floats(6), *up = call.floats(7);
  Scratch scratch(tokens * (2 * width + 2 * inner));
  float *normed = scratch.take(tokens * width), *dnormed = scratch.take(tokens * width);
  float *dgate = scratch.take(tokens * inner), *dup = scratch.take(tokens * inner);
  gate_rows(dup, gate, up, tokens * inner);
  int status = add_gradient(optional(call, 12), dout, dup, tokens, width, inner);
  status |= backward(dgate, dout, call.floats(4), tokens, width, inner, false);
  gate_gradient(dgate, dup, gate, up, dgate, tokens * inner);
  norm_rows(normed, call.floats(0), call.floats(1), eps, tokens, width);
  status |= add_gradient(optional(call, 10), dgate, normed, tokens, inner, width);
  status |= add_gradient(optional(call, 11), dup, normed, tokens, inner, width);
  status |= backward(dnormed, dgate, call.floats(2), tokens, inner, width, false);
  status |= backward(dnormed, dup, call.floats(3), tokens, inner, width, true);
  norm_gradient(call.floats(13), optional(call, 9), call.floats(0), call.floats(1), eps, dnormed, dout, tokens, width);
  return status;
}

// The blocks of a layer over a stream of packed tokens, between its attention, on a rank that has all of their columns.
// Where an operator takes optional weights, or sums that gradients are added to in place, [1] stands for none. Adapters
// are A and B, side by side (linear.h).
#include "call.h"
#include "elementwise.h"
#include "linear.h"
#include "scratch.h"

using namespace native;

namespace {

// The linear whose weight stands at `number`.
Linear linear_at(const Call &call, int number) {
  return {call.floats(number), call.size(number, 0), call.size(number, 1)};
}

}  // namespace

// Queries, keys and values. Inputs: stream [T, H], its norm [H], weights of q, k, v [heads * D, H], their biases, norms of
// q and k [D], cos, sin [T, D], numbers [3]: eps, the queries' scale, the adapters'; adapters of q, k, v. Outputs: q, k
// turned and q scaled, v [T, heads * D]; where q and k have norms, q and k before those.
OPERATOR(attention_in) {
  const int64_t tokens = call.size(0, 0), width = call.size(0, 1), head = call.size(10, 1);
  const float *numbers = call.floats(12), eps = numbers[0], scales[] = {numbers[1], 1.f};
  Scratch scratch(tokens * width);
  float *normed = scratch.take(tokens * width);
  norm_rows(normed, call.floats(0), call.floats(1), eps, tokens, width);
  int status = 0;
  for (int i = 0; i < 3; i++) {
    Linear linear = linear_at(call, 2 + i).with(call, 13 + 2 * i, numbers[2]);
    linear.bias = optional(call, 5 + i);
    const float *gain = i < 2 ? optional(call, 8 + i) : nullptr;
    float *out = call.floats(19 + i), *raw = gain == nullptr ? out : call.floats(22 + i);
    status |= forward(raw, normed, linear, tokens);
    if (gain != nullptr) norm_rows(out, raw, gain, eps, tokens * linear.n / head, head);
    if (i < 2) rotate_rows(out, out, call.floats(10), call.floats(11), 1.f, scales[i], tokens, linear.n, head);
  }
  return status;
}

// Inputs: stream, norm, weights of q, k, v, norms of q and k, cos, sin, numbers as of attention_in; q and k before their
// norms; gradients of q, k, v, and of the stream from elsewhere; sums of the norm, the three weights, their biases and
// the norms of q and k; adapters of q, k, v; sums of those. Output: the stream's gradient [T, H].
OPERATOR(attention_in_gradient) {
  const int64_t tokens = call.size(0, 0), width = call.size(0, 1), head = call.size(7, 1);
  const float *numbers = call.floats(9), eps = numbers[0], scales[] = {numbers[1], 1.f};
  Scratch scratch(tokens * (2 * width + call.size(2, 0) + call.size(3, 0)));
  float *normed = scratch.take(tokens * width), *dnormed = scratch.take(tokens * width);
  norm_rows(normed, call.floats(0), call.floats(1), eps, tokens, width);
  int status = 0;
  for (int i = 0; i < 3; i++) {
    const Linear linear = linear_at(call, 2 + i).with(call, 25 + 2 * i, numbers[2]);
    const float *gradient = call.floats(12 + i);
    if (i < 2) {
      float *turned = scratch.take(tokens * linear.n);
      rotate_rows(turned, gradient, call.floats(7), call.floats(8), -1.f, scales[i], tokens, linear.n, head);
      if (const float *gain = optional(call, 5 + i))
        norm_gradient(turned, optional(call, 23 + i), call.floats(10 + i), gain, eps, turned, nullptr,
                      tokens * linear.n / head, head);
      gradient = turned;
    }
    const LinearSums sums{optional(call, 17 + i), optional(call, 31 + 2 * i), optional(call, 32 + 2 * i)};
    status |= backward(dnormed, gradient, linear, tokens, i > 0);
    status |= add_gradients(sums, gradient, normed, linear, tokens);
    if (float *sum = optional(call, 20 + i)) add_columns(sum, gradient, tokens, linear.n);
  }
  norm_gradient(call.floats(37), optional(call, 16), call.floats(0), call.floats(1), eps, dnormed, call.floats(15),
                tokens, width);
  return status;
}

// The stream after the block. Inputs: attended [T, heads * D], weight of o [H, heads * D], stream [T, H], its adapter,
// the adapters' scale [1].
OPERATOR(attention_out) {
  const int64_t tokens = call.size(0, 0);
  const Linear linear = linear_at(call, 1).with(call, 3, call.floats(5)[0]);
  copy(call.floats(6), call.floats(2), tokens * linear.n);
  return forward(call.floats(6), call.floats(0), linear, tokens, true);
}

// Inputs: gradient of the stream [T, H], attended, weight of o, its sum, its adapter, the adapters' scale [1], sums of the
// adapter. Output: gradient of attended.
OPERATOR(attention_out_gradient) {
  const Linear linear = linear_at(call, 2).with(call, 4, call.floats(6)[0]);
  const LinearSums sums{optional(call, 3), optional(call, 7), optional(call, 8)};
  return backward(call.floats(9), call.floats(0), linear, call.size(0, 0)) |
         add_gradients(sums, call.floats(0), call.floats(1), linear, call.size(0, 0));
}

// Inputs: stream [T, H], its norm [H], weights of gate and up [I, H], numbers [2]: eps, the adapters' scale; adapters of
// gate and up. Outputs: gate and up [T, I].
OPERATOR(mlp_in) {
  const int64_t tokens = call.size(0, 0), width = call.size(0, 1);
  const float *numbers = call.floats(4);
  Scratch scratch(tokens * width);
  float *normed = scratch.take(tokens * width);
  norm_rows(normed, call.floats(0), call.floats(1), numbers[0], tokens, width);
  return forward(call.floats(9), normed, linear_at(call, 2).with(call, 5, numbers[1]), tokens) |
         forward(call.floats(10), normed, linear_at(call, 3).with(call, 7, numbers[1]), tokens);
}

// The stream after the block. Inputs: gate, up [T, I], weight of down [H, I], stream [T, H], its adapter, numbers as of
// mlp_in.
OPERATOR(mlp_out) {
  const int64_t tokens = call.size(0, 0), inner = call.size(0, 1);
  const Linear linear = linear_at(call, 2).with(call, 4, call.floats(6)[1]);
  Scratch scratch(tokens * inner);
  float *between = scratch.take(tokens * inner);
  gate_rows(between, call.floats(0), call.floats(1), tokens * inner);
  copy(call.floats(7), call.floats(3), tokens * linear.n);
  return forward(call.floats(7), between, linear, tokens, true);
}

// Inputs: stream [T, H], its norm, weights of gate, up, down, numbers as of mlp_in, gate and up, gradient of the stream
// after the block; sums of the norm and the three weights; adapters of the three, their sums. Output: gradient of the
// stream before it.
OPERATOR(mlp_gradient) {
  const int64_t tokens = call.size(0, 0), width = call.size(0, 1), inner = call.size(2, 0);
  const float *numbers = call.floats(5), *dout = call.floats(8), *gate = call.floats(6), *up = call.floats(7);
  const auto linear = [&](int i) { return linear_at(call, 2 + i).with(call, 13 + 2 * i, numbers[1]); };
  const auto sums = [&](int i) {
    return LinearSums{optional(call, 10 + i), optional(call, 19 + 2 * i), optional(call, 20 + 2 * i)};
  };
  Scratch scratch(tokens * (2 * width + 2 * inner));
  float *normed = scratch.take(tokens * width), *dnormed = scratch.take(tokens * width);
  float *dgate = scratch.take(tokens * inner), *dup = scratch.take(tokens * inner);
  gate_rows(dup, gate, up, tokens * inner);
  int status = add_gradients(sums(2), dout, dup, linear(2), tokens);
  status |= backward(dgate, dout, linear(2), tokens);
  gate_gradient(dgate, dup, gate, up, dgate, tokens * inner);
  norm_rows(normed, call.floats(0), call.floats(1), numbers[0], tokens, width);
  status |= add_gradients(sums(0), dgate, normed, linear(0), tokens);
  status |= add_gradients(sums(1), dup, normed, linear(1), tokens);
  status |= backward(dnormed, dgate, linear(0), tokens);
  status |= backward(dnormed, dup, linear(1), tokens, true);
  norm_gradient(call.floats(25), optional(call, 9), call.floats(0), call.floats(1), numbers[0], dnormed, dout, tokens,
                width);
  return status;
}

// Sums of gradients, their global norm, and AdamW, over many parameters in one call.
#include <cmath>

#include "call.h"
#include "threads.h"
#include "vectors.h"

using namespace native;

namespace {

constexpr int64_t kBlock = 1 << 14;

struct Block {
  int array;
  int64_t first, end;
};

// The arrays `first`, `first + step` ... below `end`, cut into blocks that threads take in turn.
std::vector<Block> blocks_of(const Call &call, int first, int step, int end) {
  std::vector<Block> all;
  for (int number = first; number < end; number += step)
    for (int64_t from = 0; from < call.count(number); from += kBlock)
      all.push_back({number, from, from + kBlock < call.count(number) ? from + kBlock : call.count(number)});
  return all;
}

}  // namespace

// Adds the second half of the inputs to the first, in place. Output: [1], nothing.
extern "C" int add_to(int count, void **arrays, int *ranks, int64_t **shapes, const char **, void *, void *) {
  const Call call(arrays, ranks, shapes);
  const int half = (count - 1) / 2;
  const auto blocks = blocks_of(call, 0, 1, half);
  in_turn(blocks.size(), [&](int64_t number) {
    const Block &block = blocks[number];
    float *sum = call.floats(block.array);
    const float *part = call.floats(block.array + half);
#pragma omp simd
    for (int64_t i = block.first; i < block.end; i++) sum[i] += part[i];
  });
  call.floats(count - 1)[0] = 0;
  return 0;
}

// The sum of the squares of all inputs' numbers, [1].
extern "C" int sum_of_squares(int count, void **arrays, int *ranks, int64_t **shapes, const char **, void *, void *) {
  const Call call(arrays, ranks, shapes);
  const auto blocks = blocks_of(call, 0, 1, count - 1);
  std::vector<double> sums_of_blocks(blocks.size());
  in_turn(blocks.size(), [&](int64_t number) {
    const Block &block = blocks[number];
    Vector squares{};
    by_vectors(block.end - block.first, [&](int64_t at, int64_t n) {
      const Vector x = load_at(call.floats(block.array) + block.first, at, n);
      squares += x * x;
    });
    sums_of_blocks[number] = sum(squares);
  });
  double total = 0;
  for (double each : sums_of_blocks) total += each;
  call.floats(count - 1)[0] = (float)total;
  return 0;
}

// Inputs: numbers [7 + parameters]: rate, beta1, beta2, epsilon, decay of those that decay, what gradients are multiplied
// by, this data rank; then of every parameter whether it decays. Then of each: weight, first moment, second moment, its
// gradient, all changed in place (the gradient to zeros). Where a gradient is larger than its weight, data ranks have
// equal rows of it each. Output: [1], nothing.
extern "C" int adamw(int count, void **arrays, int *ranks, int64_t **shapes, const char **, void *, void *) {
  const Call call(arrays, ranks, shapes);
  const float *numbers = call.floats(0);
  const float rate = numbers[0], beta1 = numbers[1], beta2 = numbers[2], eps = numbers[3], scale = numbers[5];
  const auto blocks = blocks_of(call, 1, 4, count - 1);
  in_turn(blocks.size(), [&](int64_t number) {
    const Block &block = blocks[number];
    const float decay = numbers[7 + block.array / 4] != 0 ? numbers[4] : 0.f;
    float *weight = call.floats(block.array), *first = call.floats(block.array + 1);
    float *second = call.floats(block.array + 2);
    const int64_t own = call.count(block.array), shares = call.count(block.array + 3) / own;
    float *gradients = call.floats(block.array + 3), *gradient = gradients + (shares > 1 ? own * (int64_t)numbers[6] : 0);
#pragma omp simd
    for (int64_t i = block.first; i < block.end; i++) {
      const float g = gradient[i] * scale;
      const float m = beta1 * first[i] + (1 - beta1) * g, v = beta2 * second[i] + (1 - beta2) * g * g;
      first[i] = m;
      second[i] = v;
      weight[i] -= rate * (m / (std::sqrt(v) + eps) + decay * weight[i]);
    }
    for (int64_t share = 0; share < shares; share++)
      memset(gradients + share * own + block.first, 0, 4 * (block.end - block.first));
  });
  call.floats(count - 1)[0] = 0;
  return 0;
}

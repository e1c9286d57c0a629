// Attention over packed sequences: a stretch of queries with its prompt's keys and its own, a head at a time; neither
// keys brought together for blocks, nor masks, nor probabilities outlive the call (arXiv:2205.14135).
#include "attention.h"

#include <cmath>

#include "call.h"
#include "threads.h"
#include "vectors.h"

namespace native {

std::vector<Stretch> stretches_of(const int32_t *spans, int64_t tokens) {
  std::vector<Stretch> all;
  for (int64_t t = 0; t < tokens; t++) {
    const int32_t *span = spans + 4 * t;
    if (span[1] <= span[0] && span[3] <= span[2]) continue;
    if (!all.empty()) {
      Stretch &last = all.back();
      if (last.first + last.count == t && last.prompt_first == span[0] && last.prompt_end == span[1] &&
          last.own_first == span[2] && last.own_end + last.count == span[3]) {
        last.count++;
        continue;
      }
    }
    all.push_back({t, 1, span[0], span[1], span[2], span[3]});
  }
  return all;
}

void bring_together(float *to, int64_t step, const float *from, int64_t width, const Stretch &stretch, int64_t size,
                    bool is_turned) {
  for (int64_t key = 0; key < stretch.keys(); key++) {
    const float *row = from + stretch.place(key) * width;
    if (is_turned)
      for (int64_t d = 0; d < size; d++) to[d * step + key] = row[d];
    else
      memcpy(to + key * step, row, 4 * size);
  }
}

namespace {

// scores [count, step] -> probabilities, in place; returns log of the sum of a row's exponentials.
float softmax(float *row, int64_t keys, int64_t columns) {
  for (int64_t j = keys; j < columns; j++) row[j] = -1e30f;
  Vector most = all(-1e30f), total{};
  for (int64_t j = 0; j < columns; j += kWidth) most = larger(most, load(row + j));
  const float m = largest(most);
  for (int64_t j = 0; j < columns; j += kWidth) {
    const Vector e = exp(load(row + j) - m);
    store(row + j, e);
    total += e;
  }
  const float z = sum(total);
  for (int64_t j = 0; j < columns; j += kWidth) store(row + j, load(row + j) * (1.f / z));
  return m + std::log(z);
}

void attend(float *out, float *log_sums, const float *q, const float *k, const float *v, const Stretch &stretch,
            int64_t pair, Heads heads) {
  const int64_t size = heads.size, width = heads.key_values * size, out_width = heads.queries * size;
  const int64_t keys = stretch.keys(), step = padded(keys), wide = padded(size);
  float *turned = workspace(1, size * step), *values = workspace(2, keys * wide);
  float *scores = workspace(3, kTile * step), *result = workspace(4, kTile * wide);
  bring_together(turned, step, k + pair * size, width, stretch, size, true);
  bring_together(values, wide, v + pair * size, width, stretch, size, false);
  for (int64_t from = 0; from < stretch.count; from += kTile) {
    const int64_t rows = stretch.count - from < kTile ? stretch.count - from : kTile;
    const int64_t seen = stretch.keys_of(from + rows - 1);
    for (int64_t head = pair * heads.group(); head < (pair + 1) * heads.group(); head++) {
      const int64_t at = (stretch.first + from) * out_width + head * size;
      small_product(scores, step, rows, padded(seen), size, rows_of(q + at, out_width), turned, step);
      for (int64_t i = 0; i < rows; i++)
        log_sums[(stretch.first + from + i) * heads.queries + head] =
            softmax(scores + i * step, stretch.keys_of(from + i), padded(seen));
      small_product(result, wide, rows, wide, seen, rows_of(scores, step), values, wide);
      for (int64_t i = 0; i < rows; i++) memcpy(out + at + i * out_width, result + i * wide, 4 * size);
    }
  }
}

}  // namespace
}  // namespace native

using namespace native;

// Inputs: q [T, heads * D], already scaled, k, v [N, kv_heads * D], spans int32 [T, 4] as of stretches_of, a head's
// numbers as zeros [D]. Outputs: what is attended to [T, heads * D], log of each query's sum [T, heads].
OPERATOR(packed_attention) {
  const int64_t tokens = call.size(0, 0), size = call.size(4, 0);
  const Heads heads{call.size(0, 1) / size, call.size(1, 1) / size, size};
  const auto stretches = stretches_of(call.ints(3), tokens);
  memset(call.floats(5), 0, 4 * call.count(0));
  memset(call.floats(6), 0, 4 * tokens * heads.queries);
  in_turn(stretches.size() * heads.key_values, [&](int64_t number) {
    attend(call.floats(5), call.floats(6), call.floats(0), call.floats(1), call.floats(2),
           stretches[number / heads.key_values], number % heads.key_values, heads);
  });
  return 0;
}

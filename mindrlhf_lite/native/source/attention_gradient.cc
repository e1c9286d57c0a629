// The gradient of packed attention: probabilities again from the scores and the rows' sums (arXiv:2205.14135, sec. B).
#include <map>

#include "attention.h"
#include "call.h"
#include "threads.h"
#include "vectors.h"

using namespace native;

namespace {

struct Arrays {
  const float *q, *k, *v, *out, *log_sums, *dout;
  float *dq, *dk, *dv;
};

// Of a row: probabilities from scores, and the scores' gradient from the probabilities'.
void row_gradient(float *p, float *dp, int64_t keys, int64_t columns, float log_sum, float along) {
  by_vectors(keys, [&](int64_t at, int64_t n) {
    const Vector e = exp(load_at(p, at, n, -1e30f) - log_sum);
    store_at(p, at, n, e);
    store_at(dp, at, n, e * (load_at(dp, at, n) - along));
  });
  for (int64_t j = keys; j < columns; j++) p[j] = dp[j] = 0.f;
}

void gradient_of(const Arrays &a, const Stretch &stretch, int64_t pair, Heads heads) {
  const int64_t size = heads.size, width = heads.key_values * size, out_width = heads.queries * size;
  const int64_t keys = stretch.keys(), step = padded(keys), wide = padded(size);
  float *turned_keys = workspace(1, 2 * size * step), *turned_values = turned_keys + size * step;
  float *own_keys = workspace(2, keys * wide), *p = workspace(3, 2 * kTile * step), *dp = p + kTile * step;
  float *tiles = workspace(4, 3 * kTile * wide), *queries = tiles, *douts = tiles + kTile * wide;
  float *result = tiles + 2 * kTile * wide, *dkeys = workspace(5, 2 * keys * wide), *dvalues = dkeys + keys * wide;
  bring_together(turned_keys, step, a.k + pair * size, width, stretch, size, true);
  bring_together(turned_values, step, a.v + pair * size, width, stretch, size, true);
  bring_together(own_keys, wide, a.k + pair * size, width, stretch, size, false);
  memset(dkeys, 0, 8 * keys * wide);
  for (int64_t from = 0; from < stretch.count; from += kTile) {
    const int64_t rows = stretch.count - from < kTile ? stretch.count - from : kTile;
    const int64_t seen = stretch.keys_of(from + rows - 1), columns = padded(seen);
    for (int64_t head = pair * heads.group(); head < (pair + 1) * heads.group(); head++) {
      const int64_t first = stretch.first + from, at = first * out_width + head * size;
      for (int64_t i = 0; i < rows; i++) {
        memcpy(queries + i * wide, a.q + at + i * out_width, 4 * size);
        memcpy(douts + i * wide, a.dout + at + i * out_width, 4 * size);
      }
      small_product(p, step, rows, columns, size, rows_of(queries, wide), turned_keys, step);
      small_product(dp, step, rows, columns, size, rows_of(douts, wide), turned_values, step);
      for (int64_t i = 0; i < rows; i++) {
        Vector along{};
        by_vectors(size, [&](int64_t d, int64_t n) {
          along += load_at(douts + i * wide, d, n) * load_at(a.out + at + i * out_width, d, n);
        });
        const float log_sum = a.log_sums[(first + i) * heads.queries + head];
        row_gradient(p + i * step, dp + i * step, stretch.keys_of(from + i), columns, log_sum, sum(along));
      }
      small_product(result, wide, rows, wide, seen, rows_of(dp, step), own_keys, wide);
      for (int64_t i = 0; i < rows; i++) memcpy(a.dq + at + i * out_width, result + i * wide, 4 * size);
      small_product(dkeys, wide, seen, wide, rows, transposed(dp, step), queries, wide, true);
      small_product(dvalues, wide, seen, wide, rows, transposed(p, step), douts, wide, true);
    }
  }
  for (int64_t key = 0; key < keys; key++) {
    float *dk = a.dk + stretch.place(key) * width + pair * size, *dv = a.dv + stretch.place(key) * width + pair * size;
    by_vectors(size, [&](int64_t d, int64_t n) {
      store_at(dk, d, n, load_at(dk, d, n) + load_at(dkeys + key * wide, d, n));
      store_at(dv, d, n, load_at(dv, d, n) + load_at(dvalues + key * wide, d, n));
    });
  }
}

}  // namespace

// Inputs: q, k, v, spans, zeros [D] and both outputs of packed_attention, dout [T, heads * D]. Outputs: dq, dk, dv.
// Stretches that share keys are added up in order by one thread, so that the sums do not depend on how many there are.
OPERATOR(packed_attention_gradient) {
  const int64_t tokens = call.size(0, 0), size = call.size(4, 0);
  const Heads heads{call.size(0, 1) / size, call.size(1, 1) / size, size};
  const Arrays arrays{call.floats(0), call.floats(1), call.floats(2), call.floats(5),  call.floats(6),
                      call.floats(7), call.floats(8), call.floats(9), call.floats(10)};
  for (int number : {8, 9, 10}) memset(call.floats(number), 0, 4 * call.count(number));
  std::map<int64_t, std::vector<Stretch>> roots;
  for (const Stretch &each : stretches_of(call.ints(3), tokens)) roots[each.root()].push_back(each);
  std::vector<const std::vector<Stretch> *> families;
  for (const auto &root : roots) families.push_back(&root.second);
  in_turn(families.size() * heads.key_values, [&](int64_t number) {
    for (const Stretch &each : *families[number / heads.key_values])
      gradient_of(arrays, each, number % heads.key_values, heads);
  });
  return 0;
}

// One decoding step's attention over the cache, and the drawing of tokens.
#include <cmath>

#include "call.h"
#include "products.h"
#include "threads.h"
#include "vectors.h"

using namespace native;

namespace {

// scores [keys] of one query over `keys` rows of D numbers, sixteen rows at a time. Count: vectors of a row; 0: any size.
template <int Count> void score(float *scores, const float *query, const float *rows, int64_t keys, int64_t size) {
  Vector held[Count > 0 ? Count : 1];
  for (int d = 0; d < Count; d++) held[d] = load(query + d * kWidth);
  by_vectors(keys, [&](int64_t first, int64_t n) {
    Vector along[kWidth]{};
    for (int64_t i = 0; i < n; i++) {
      const float *row = rows + (first + i) * size;
      for (int d = 0; d < Count; d++) along[i] += held[d] * load(row + d * kWidth);
      if (Count == 0)
        by_vectors(size, [&](int64_t d, int64_t some) { along[i] += load_at(query, d, some) * load_at(row, d, some); });
    }
    store_at(scores, first, n, sums(along));
  });
}

using Score = void (*)(float *, const float *, const float *, int64_t, int64_t);
Score score_for(int64_t size) {
  switch (size) {
    case 32: return score<2>;
    case 64: return score<4>;
    case 128: return score<8>;
    default: return score<0>;
  }
}

void softmax(float *row, int64_t keys) {
  Vector most = all(-1e30f), total{};
  by_vectors(keys, [&](int64_t at, int64_t n) { most = larger(most, load_at(row, at, n, -1e30f)); });
  const float m = largest(most);
  by_vectors(keys, [&](int64_t at, int64_t n) {
    const Vector e = exp(load_at(row, at, n, -1e30f) - m);
    store_at(row, at, n, e);
    total += e;
  });
  const float scale = 1.f / sum(total);
  by_vectors(keys, [&](int64_t at, int64_t n) { store_at(row, at, n, load_at(row, at, n) * scale); });
}

// The row's largest number, and the sum of e^(x - largest), in chunks of kChunk whose sums are kept.
constexpr int64_t kChunk = 256;
double chunk_sums(double *chunks, const float *row, int64_t count, float most) {
  double total = 0;
  for (int64_t chunk = 0; chunk * kChunk < count; chunk++) {
    const int64_t first = chunk * kChunk, size = count - first < kChunk ? count - first : kChunk;
    Vector s{};
    by_vectors(size, [&](int64_t at, int64_t n) { s += exp(load_at(row + first, at, n, -INFINITY) - most); });
    chunks[chunk] = sum(s);
    total += chunks[chunk];
  }
  return total;
}

float largest_of(const float *row, int64_t count) {
  Vector most = all(-INFINITY);
  by_vectors(count, [&](int64_t at, int64_t n) { most = larger(most, load_at(row, at, n, -INFINITY)); });
  return largest(most);
}

float probability(float x, float most) { return exp(all(x - most))[0]; }

// The first token at which the running sum of probabilities exceeds `wanted`, and that has one.
int64_t drawn(const double *chunks, const float *row, int64_t count, float most, double wanted) {
  const int64_t last_chunk = (count - 1) / kChunk;
  double reached = 0;
  int64_t chunk = 0, found = -1;
  while (chunk < last_chunk && reached + chunks[chunk] <= wanted) reached += chunks[chunk++];
  for (; chunk >= 0 && found < 0; chunk--) {  // rounding alone can leave a chunk without one: then the one before
    for (int64_t i = chunk * kChunk; i < count && i < (chunk + 1) * kChunk; i++) {
      const float p = probability(row[i], most);
      if (p <= 0.f) continue;
      found = i;
      reached += p;
      if (reached > wanted) break;
    }
  }
  return found < 0 ? 0 : found;
}

}  // namespace

// The newest token of every slot. Inputs: q [slots, heads * D], already scaled, k, v [slots, kv_heads * D], positions
// int32 [slots], caches of keys and values [slots * kv_heads * S, D], written to in place. Output: [slots, heads * D].
OPERATOR(decode_attention) {
  const int64_t slots = call.size(0, 0), size = call.size(4, 1), width = call.size(1, 1), kv_heads = width / size;
  const int64_t length = call.size(4, 0) / (slots * kv_heads), out_width = call.size(0, 1);
  const int64_t group = out_width / width, wide = padded(size);
  const float *q = call.floats(0), *k = call.floats(1), *v = call.floats(2);
  const int32_t *positions = call.ints(3);
  float *out = call.floats(6);
  const Score score = score_for(size);
  in_turn(slots * kv_heads, [&](int64_t pair) {
    const int64_t slot = pair / kv_heads, head = pair % kv_heads, keys = positions[slot] + 1;
    float *key_cache = call.floats(4) + pair * length * size, *value_cache = call.floats(5) + pair * length * size;
    memcpy(key_cache + (keys - 1) * size, k + slot * width + head * size, 4 * size);
    memcpy(value_cache + (keys - 1) * size, v + slot * width + head * size, 4 * size);
    float *scores = workspace(1, group * length), *result = workspace(2, group * wide);
    const float *values = value_cache, *queries = q + slot * out_width + head * group * size;
    if (wide != size) {
      float *copy = workspace(3, keys * wide);
      for (int64_t i = 0; i < keys; i++) memcpy(copy + i * wide, value_cache + i * size, 4 * size);
      values = copy;
    }
    for (int64_t g = 0; g < group; g++) {
      score(scores + g * length, queries + g * size, key_cache, keys, size);
      softmax(scores + g * length, keys);
    }
    small_product(result, wide, group, wide, keys, rows_of(scores, length), values, wide);
    for (int64_t g = 0; g < group; g++)
      memcpy(out + slot * out_width + (head * group + g) * size, result + g * wide, 4 * size);
  });
  return 0;
}

// Draws a token a row, greedily or at inverse CDF. Inputs: logits [B, V], uniform [B], forbids [B]: whether the row's
// stop tokens are forbidden, stop_bias [V], numbers [3]: 1 / temperature, whether greedily, whether the policy is the
// tempered one. Outputs: token int32 [B], its logprob under what was drawn from [B], and under the policy [B].
OPERATOR(draw) {
  const int64_t rows = call.size(0, 0), count = call.size(0, 1);
  const float *logits = call.floats(0), *uniform = call.floats(1), *forbids = call.floats(2), *bias = call.floats(3);
  const float inverse = call.floats(4)[0];
  const bool is_greedy = call.floats(4)[1] != 0, is_tempered_policy = call.floats(4)[2] != 0;
  in_turn(rows, [&](int64_t b) {
    float *allowed = workspace(1, count);
    double *chunks = reinterpret_cast<double *>(workspace(2, 2 * (count / kChunk + 1)));
    const float *row = logits + b * count, forbid = forbids[b];
    by_vectors(count, [&](int64_t at, int64_t n) {
      const Vector x = load_at(row, at, n) * inverse;
      store_at(allowed, at, n, forbid != 0 ? x + load_at(bias, at, n) * forbid : x);
    });
    const float most = largest_of(allowed, count);
    const double total = chunk_sums(chunks, allowed, count, most);
    int64_t token = 0;
    if (is_greedy)
      while (token < count - 1 && allowed[token] != most) token++;
    else
      token = drawn(chunks, allowed, count, most, std::fmin(uniform[b], 1.f - 0x1p-23f) * total);
    const float logprob = allowed[token] - most - (float)std::log(total);
    float policy = logprob;
    if (forbid != 0 || (inverse != 1.f && !is_tempered_policy)) {
      const float scale = is_tempered_policy ? inverse : 1.f;
      by_vectors(count, [&](int64_t at, int64_t n) { store_at(allowed, at, n, load_at(row, at, n) * scale); });
      const float highest = largest_of(allowed, count);
      policy = allowed[token] - highest - (float)std::log(chunk_sums(chunks, allowed, count, highest));
    }
    call.ints(5)[b] = (int32_t)token;
    call.floats(6)[b] = logprob;
    call.floats(7)[b] = policy;
  });
  return 0;
}

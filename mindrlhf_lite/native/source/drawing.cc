// The drawing of tokens.
#include <cmath>

#include "call.h"
#include "threads.h"
#include "vectors.h"

using namespace native;

namespace {

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

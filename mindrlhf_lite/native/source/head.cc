// Logprobs of chosen tokens without a [tokens, vocabulary] array: logits of a chunk of tokens at a time, computed again
// for the gradient. Of a vocabulary that is split over ranks, each computes with its own rows.
#include <cmath>

#include "call.h"
#include "products.h"
#include "threads.h"
#include "vectors.h"

using namespace native;

namespace {

constexpr int64_t kLogits = 1 << 23;  // held at a time

int64_t rows_of_chunk(int64_t vocabulary) { return kLogits / vocabulary < 1 ? 1 : kLogits / vocabulary; }

// logits = hidden weight^T / temperature of a chunk; rows of the vocabulary from `real` on are padding.
int logits_of(float *logits, const float *hidden, const float *weight, int64_t rows, int64_t width, int64_t vocabulary) {
  return product(logits, rows, vocabulary, width, ::native::rows_of(hidden, width), transposed(weight, width));
}

}  // namespace

// Inputs: hidden [N, H], weight [R, H], labels int32 [N] as rows of the weight (others lie elsewhere), numbers [2]:
// 1 / temperature, how many of the R are no padding. Outputs, of every token [N]: the largest logit, the sum of
// e^(logit - largest), the same weighted by (logit - largest), and that difference for its label, or 0.
OPERATOR(token_sums) {
  const int64_t tokens = call.size(0, 0), width = call.size(0, 1), vocabulary = call.size(1, 0);
  const int64_t chunk = rows_of_chunk(vocabulary), real = (int64_t)call.floats(3)[1];
  const float inverse = call.floats(3)[0];
  float *logits = workspace(0, (tokens < chunk ? tokens : chunk) * vocabulary);
  for (int64_t from = 0; from < tokens; from += chunk) {
    const int64_t rows = tokens - from < chunk ? tokens - from : chunk;
    if (int status = logits_of(logits, call.floats(0) + from * width, call.floats(1), rows, width, vocabulary))
      return status;
    in_shares(rows, [&](int64_t first, int64_t end) {
      for (int64_t i = first; i < end; i++) {
        float *row = logits + i * vocabulary;
        Vector most = all(-1e30f), total{}, weighted{};
        by_vectors(real, [&](int64_t at, int64_t n) {
          const Vector x = load_at(row, at, n, -INFINITY) * inverse;
          store_at(row, at, n, x);
          most = larger(most, x);
        });
        const float m = largest(most);
        by_vectors(real, [&](int64_t at, int64_t n) {
          const Vector x = load_at(row, at, n, -1e30f) - m, e = exp(x);
          total += e;
          weighted += e * x;
        });
        const int64_t label = call.ints(2)[from + i], token = from + i;
        call.floats(4)[token] = m;
        call.floats(5)[token] = sum(total);
        call.floats(6)[token] = sum(weighted);
        call.floats(7)[token] = label >= 0 && label < real ? row[label] - m : 0.f;
      }
    });
  }
  return 0;
}

namespace {

// dweight: nullptr where it is not wanted.
// d logprob / d logit = onehot - p; d entropy / d logit = -p (log p + entropy); both divided by the temperature.
int gradients_of(const Call &call, float *dhidden, float *dweight) {
  const int64_t tokens = call.size(0, 0), width = call.size(0, 1), vocabulary = call.size(1, 0);
  const int64_t chunk = rows_of_chunk(vocabulary), real = (int64_t)call.floats(3)[1];
  const float inverse = call.floats(3)[0], *hidden = call.floats(0), *weight = call.floats(1);
  float *logits = workspace(0, (tokens < chunk ? tokens : chunk) * vocabulary);
  for (int64_t from = 0; from < tokens; from += chunk) {
    const int64_t rows = tokens - from < chunk ? tokens - from : chunk;
    if (int status = logits_of(logits, hidden + from * width, weight, rows, width, vocabulary)) return status;
    in_shares(rows, [&](int64_t first, int64_t end) {
      for (int64_t i = first; i < end; i++) {
        float *row = logits + i * vocabulary;
        const int64_t token = from + i, label = call.ints(2)[token];
        const float log_sum = call.floats(4)[token], entropy = call.floats(5)[token];
        const float dlogprob = call.floats(6)[token] * inverse, dentropy = call.floats(7)[token] * inverse;
        by_vectors(real, [&](int64_t at, int64_t n) {
          const Vector log_p = load_at(row, at, n, -1e30f) * inverse - log_sum;
          const Vector by_label = all(dlogprob), p = exp(log_p);
          store_at(row, at, n, -p * (dentropy == 0.f ? by_label : by_label + (log_p + entropy) * dentropy));
        });
        if (label >= 0 && label < real) row[label] += dlogprob;
        for (int64_t pad = real; pad < vocabulary; pad++) row[pad] = 0.f;
      }
    });
    int status = product(dhidden + from * width, rows, width, vocabulary, rows_of(logits, vocabulary),
                         rows_of(weight, width));
    if (dweight != nullptr)
      status |= product(dweight, vocabulary, width, rows, transposed(logits, vocabulary),
                        rows_of(hidden + from * width, width), nullptr, from > 0);
    if (status != 0) return status;
  }
  return 0;
}

}  // namespace

// Inputs: hidden, weight, labels, numbers as of token_sums; then of every token [N]: log of its whole sum, entropy, the
// gradients of its logprob and of its entropy. Outputs: dhidden [N, H], dweight [R, H].
OPERATOR(token_sums_gradient) { return gradients_of(call, call.floats(8), call.floats(9)); }

// Inputs as of token_sums_gradient. Output: dhidden.
OPERATOR(token_sums_of_frozen_gradient) { return gradients_of(call, call.floats(8), nullptr); }

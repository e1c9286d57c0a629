// What stands between the products of a layer, over rows of a stream of tokens.
#include <cmath>

#include "call.h"
#include "threads.h"
#include "vectors.h"

using namespace native;

// y = x / rms(x) * weight. Inputs: x [T, H], weight [H], eps [1].
OPERATOR(rms_norm) {
  const int64_t tokens = call.size(0, 0), width = call.size(0, 1);
  const float *x = call.floats(0), *weight = call.floats(1), eps = call.floats(2)[0];
  float *y = call.floats(3);
  in_shares(tokens, [&](int64_t first, int64_t end) {
    for (int64_t t = first; t < end; t++) {
      const float *row = x + t * width;
      Vector squares{};
      by_vectors(width, [&](int64_t at, int64_t n) { const Vector a = load_at(row, at, n); squares += a * a; });
      const float scale = 1.f / std::sqrt(sum(squares) / width + eps);
      by_vectors(width, [&](int64_t at, int64_t n) {
        store_at(y + t * width, at, n, load_at(row, at, n) * scale * load_at(weight, at, n));
      });
    }
  });
  return 0;
}

// Inputs: x, weight, eps as of rms_norm, dy. Outputs: dx [T, H], dweight [H].
OPERATOR(rms_norm_gradient) {
  constexpr int64_t kRows = 64;  // whose parts of dweight are added up first: the order does not depend on threads
  const int64_t tokens = call.size(0, 0), width = call.size(0, 1), blocks = (tokens + kRows - 1) / kRows;
  const float *x = call.floats(0), *weight = call.floats(1), eps = call.floats(2)[0], *dy = call.floats(3);
  float *dx = call.floats(4), *dweight = call.floats(5), *parts = workspace(0, blocks * width);
  in_turn(blocks, [&](int64_t block) {
    float *part = parts + block * width;
    memset(part, 0, 4 * width);
    for (int64_t t = block * kRows; t < tokens && t < (block + 1) * kRows; t++) {
      const float *row = x + t * width, *up = dy + t * width;
      Vector squares{}, along{};
      by_vectors(width, [&](int64_t at, int64_t n) {
        const Vector a = load_at(row, at, n);
        squares += a * a;
        along += a * load_at(up, at, n) * load_at(weight, at, n);
      });
      const float scale = 1.f / std::sqrt(sum(squares) / width + eps);
      const float back = sum(along) * scale * scale * scale / width;
      by_vectors(width, [&](int64_t at, int64_t n) {
        const Vector a = load_at(row, at, n), g = load_at(up, at, n);
        store_at(part, at, n, load_at(part, at, n) + g * a * scale);
        store_at(dx + t * width, at, n, g * load_at(weight, at, n) * scale - a * back);
      });
    }
  });
  memset(dweight, 0, 4 * width);
  for (int64_t block = 0; block < blocks; block++)
    by_vectors(width, [&](int64_t at, int64_t n) {
      store_at(dweight, at, n, load_at(dweight, at, n) + load_at(parts + block * width, at, n));
    });
  return 0;
}

// Rotary embedding in the half-split layout. Inputs: x [T, heads * D], cos [T, D], sin [T, D], sign [1]: -1 turns back.
OPERATOR(rotary) {
  const int64_t tokens = call.size(0, 0), width = call.size(0, 1), head = call.size(1, 1), half = head / 2;
  const float *x = call.floats(0), *cos = call.floats(1), *sin = call.floats(2), sign = call.floats(3)[0];
  float *y = call.floats(4);
  in_shares(tokens, [&](int64_t first_token, int64_t end) {
    for (int64_t t = first_token; t < end; t++)
      for (int64_t from = t * width; from < (t + 1) * width; from += head)
        by_vectors(half, [&](int64_t at, int64_t n) {
          const Vector first = load_at(x + from, at, n), second = load_at(x + from + half, at, n);
          const Vector c = load_at(cos + t * head, at, n), s = load_at(sin + t * head, at, n) * sign;
          store_at(y + from, at, n, first * c - second * s);
          store_at(y + from + half, at, n, second * c + first * s);
        });
  });
  return 0;
}

// y = silu(gate) * up. Inputs: gate, up [T, I].
OPERATOR(gated) {
  const float *gate = call.floats(0), *up = call.floats(1);
  float *y = call.floats(2);
  in_shares(call.size(0, 0), [&](int64_t first, int64_t end) {
    const int64_t width = call.size(0, 1), from = first * width;
    by_vectors((end - first) * width, [&](int64_t at, int64_t n) {
      const Vector g = load_at(gate + from, at, n);
      store_at(y + from, at, n, g / (1.f + exp(-g)) * load_at(up + from, at, n));
    });
  });
  return 0;
}

// Inputs: gate, up, dy [T, I]. Outputs: dgate, dup.
OPERATOR(gated_gradient) {
  const float *gate = call.floats(0), *up = call.floats(1), *dy = call.floats(2);
  float *dgate = call.floats(3), *dup = call.floats(4);
  in_shares(call.size(0, 0), [&](int64_t first, int64_t end) {
    const int64_t width = call.size(0, 1), from = first * width;
    by_vectors((end - first) * width, [&](int64_t at, int64_t n) {
      const Vector g = load_at(gate + from, at, n), d = load_at(dy + from, at, n), s = 1.f / (1.f + exp(-g));
      store_at(dup + from, at, n, d * g * s);
      store_at(dgate + from, at, n, d * load_at(up + from, at, n) * s * (1.f + g * (1.f - s)));
    });
  });
  return 0;
}

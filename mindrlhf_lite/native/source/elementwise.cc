#include "elementwise.h"

#include <cmath>

#include "call.h"
#include "threads.h"
#include "vectors.h"

namespace native {

void norm_rows(float *y, const float *x, const float *weight, float eps, int64_t rows, int64_t width) {
  in_shares(rows, [&](int64_t first, int64_t end) {
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
}

void norm_gradient(float *dx, float *dweight, const float *x, const float *weight, float eps, const float *dy,
                   const float *residual, int64_t rows, int64_t width) {
  constexpr int64_t kRows = 64;  // whose parts of dweight are added up first: the order does not depend on threads
  const int64_t blocks = (rows + kRows - 1) / kRows;
  float *parts = workspace(0, blocks * width);
  in_turn(blocks, [&](int64_t block) {
    float *part = parts + block * width;
    memset(part, 0, 4 * width);
    for (int64_t t = block * kRows; t < rows && t < (block + 1) * kRows; t++) {
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
        const Vector own = g * load_at(weight, at, n) * scale - a * back;
        store_at(dx + t * width, at, n, residual == nullptr ? own : own + load_at(residual + t * width, at, n));
      });
    }
  });
  if (dweight == nullptr) return;
  for (int64_t block = 0; block < blocks; block++)
    by_vectors(width, [&](int64_t at, int64_t n) {
      store_at(dweight, at, n, load_at(dweight, at, n) + load_at(parts + block * width, at, n));
    });
}

void rotate_rows(float *y, const float *x, const float *cos, const float *sin, float sign, float scale, int64_t rows,
                 int64_t width, int64_t head) {
  const int64_t half = head / 2;
  in_shares(rows, [&](int64_t first_row, int64_t end) {
    for (int64_t t = first_row; t < end; t++)
      for (int64_t from = t * width; from < (t + 1) * width; from += head)
        by_vectors(half, [&](int64_t at, int64_t n) {
          const Vector first = load_at(x + from, at, n), second = load_at(x + from + half, at, n);
          const Vector c = load_at(cos + t * head, at, n) * scale, s = load_at(sin + t * head, at, n) * (sign * scale);
          store_at(y + from, at, n, first * c - second * s);
          store_at(y + from + half, at, n, second * c + first * s);
        });
  });
}

void gate_rows(float *y, const float *gate, const float *up, int64_t count) {
  in_shares((count + kWidth - 1) / kWidth, [&](int64_t first, int64_t end) {
    const int64_t from = first * kWidth, to = end * kWidth < count ? end * kWidth : count;
    by_vectors(to - from, [&](int64_t at, int64_t n) {
      const Vector g = load_at(gate + from, at, n);
      store_at(y + from, at, n, g / (1.f + exp(-g)) * load_at(up + from, at, n));
    });
  });
}

void gate_gradient(float *dgate, float *dup, const float *gate, const float *up, const float *dy, int64_t count) {
  in_shares((count + kWidth - 1) / kWidth, [&](int64_t first, int64_t end) {
    const int64_t from = first * kWidth, to = end * kWidth < count ? end * kWidth : count;
    by_vectors(to - from, [&](int64_t at, int64_t n) {
      const Vector g = load_at(gate + from, at, n), d = load_at(dy + from, at, n), s = 1.f / (1.f + exp(-g));
      store_at(dup + from, at, n, d * g * s);
      store_at(dgate + from, at, n, d * load_at(up + from, at, n) * s * (1.f + g * (1.f - s)));
    });
  });
}

void add_columns(float *sums, const float *x, int64_t rows, int64_t width) {
  in_shares((width + kWidth - 1) / kWidth, [&](int64_t first, int64_t end) {
    for (int64_t block = first; block < end; block++) {
      const int64_t at = block * kWidth, some = width - at < kWidth ? width - at : kWidth;
      Vector s = load_at(sums, at, some);
      for (int64_t i = 0; i < rows; i++) s += load_at(x + i * width, at, some);
      store_at(sums, at, some, s);
    }
  });
}

void multiply(float *y, float factor, int64_t count) {
  in_shares((count + kWidth - 1) / kWidth, [&](int64_t first, int64_t end) {
    for (int64_t at = first * kWidth; at < end * kWidth && at < count; at += kWidth) {
      const int64_t n = count - at < kWidth ? count - at : kWidth;
      store_at(y, at, n, load_at(y, at, n) * factor);
    }
  });
}

void copy(float *y, const float *x, int64_t count) {
  in_shares(count, [&](int64_t first, int64_t end) { memcpy(y + first, x + first, 4 * (end - first)); });
}

}  // namespace native

using namespace native;

// y = x / rms(x) * weight. Inputs: x [T, H], weight [H], eps [1].
OPERATOR(rms_norm) {
  norm_rows(call.floats(3), call.floats(0), call.floats(1), call.floats(2)[0], call.size(0, 0), call.size(0, 1));
  return 0;
}

// Inputs: x, weight, eps as of rms_norm, dy. Outputs: dx [T, H], dweight [H].
OPERATOR(rms_norm_gradient) {
  memset(call.floats(5), 0, 4 * call.count(5));
  norm_gradient(call.floats(4), call.floats(5), call.floats(0), call.floats(1), call.floats(2)[0], call.floats(3),
                nullptr, call.size(0, 0), call.size(0, 1));
  return 0;
}

// Inputs: x [T, heads * D], cos [T, D], sin [T, D], sign [1]. Output: as of rotate_rows.
OPERATOR(rotary) {
  rotate_rows(call.floats(4), call.floats(0), call.floats(1), call.floats(2), call.floats(3)[0], 1.f, call.size(0, 0),
              call.size(0, 1), call.size(1, 1));
  return 0;
}

// y = silu(gate) * up. Inputs: gate, up [T, I].
OPERATOR(gated) {
  gate_rows(call.floats(2), call.floats(0), call.floats(1), call.count(0));
  return 0;
}

// Inputs: gate, up, dy [T, I]. Outputs: dgate, dup.
OPERATOR(gated_gradient) {
  gate_gradient(call.floats(3), call.floats(4), call.floats(0), call.floats(1), call.floats(2), call.count(0));
  return 0;
}

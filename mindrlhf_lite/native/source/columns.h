// A decoding step's arrays: a feature's numbers of all slots lie side by side, so that sixteen slots are one vector and
// a weight is read once, where it lies. Slots stand in panels of at most sixty-four: a panel is [features, width].
#pragma once
#include <cstdint>
#include <vector>

#include "vectors.h"

namespace native {

constexpr int64_t kPanel = 64;

struct Panels {
  int64_t slots;  // a multiple of sixteen; those that are not there compute too

  int64_t count() const { return (slots + kPanel - 1) / kPanel; }
  int64_t width(int64_t panel) const { return slots - panel * kPanel < kPanel ? slots - panel * kPanel : kPanel; }
  template <class T> T *at(T *columns, int64_t features, int64_t panel) const {
    return columns + panel * kPanel * features;
  }
  // The first number of sixteen slots; the next feature's lie `width` further.
  template <class T> T *vector(T *columns, int64_t features, int64_t number) const {
    const int64_t slot = number * kWidth;
    return at(columns, features, slot / kPanel) + slot % kPanel;
  }
};

// One matrix of several that take the same input: out [n, slots] = weight [n, k] in [k, slots] + bias [n] + residual.
struct Factor {
  float *out;
  const float *weight;
  int64_t n;
  const float *bias = nullptr, *residual = nullptr;
  bool is_added = false;  // to what is in `out`
};

// What is added to a product's out: scale B (A in), A [rank, k], B [n, rank].
struct Adapter {
  float *out;
  int64_t n;
  const float *down, *up;
  int64_t rank;
};

void products_of_columns(const std::vector<Factor> &factors, const float *in, int64_t k, Panels panels);

void add_adapters(const std::vector<Adapter> &adapters, float scale, const float *in, int64_t k, Panels panels);

// out = silu(out) * up, both [n, slots].
void gate_columns(float *out, const float *up, int64_t n, Panels panels);

// out = silu(gate in) * (up in), both weights [n, k].
void gated_columns(float *out, const float *gate, const float *up, int64_t n, const float *in, int64_t k, Panels panels);

// rows [slots, n] = (weight [n, k] in [k, slots])^T, of the first `slots`.
void rows_of_columns(float *rows, int64_t slots, const float *weight, int64_t n, const float *in, int64_t k,
                     Panels panels);

// y = x / rms(x) * weight, both [features, slots].
void norm_columns(float *y, const float *x, const float *weight, int64_t features, float eps, Panels panels);

// Columns of a panel, [n, step], of its sixteen slots from there on, as rows of `width` numbers of the first `slots`.
void to_rows(float *rows, int64_t width, const float *columns, int64_t step, int64_t n, int64_t slots);

// rows [slots, n] -> [n, panels.slots].
void to_columns(float *columns, const float *rows, int64_t slots, int64_t n, Panels panels);

}  // namespace native

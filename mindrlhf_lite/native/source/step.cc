// The blocks of a layer over the newest token of every slot, in columns (columns.h). What they add goes onto the residual
// stream here, or after a sum over ranks that each have a part of the products.
#include <cmath>

#include "call.h"
#include "columns.h"
#include "linear.h"
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

// `heads` heads of sixteen slots, [heads * size, slots]: norm where there is a weight, rotary embedding with tables
// [size, slots], times `scale`; then as rows, one of `width` numbers a slot.
void turn(float *rows, int64_t width, const float *columns, int64_t step, int64_t size, const float *norm, float eps,
          const float *cos, const float *sin, float scale, int64_t slots) {
  const int64_t half = size / 2;
  float *turned = workspace(4, padded(size) * kWidth);
  Vector gain = all(scale);
  if (norm != nullptr) {
    Vector squares{};
    for (int64_t d = 0; d < size; d++) squares += load(columns + d * step) * load(columns + d * step);
    for (int64_t i = 0; i < kWidth; i++) gain[i] = scale / std::sqrt(squares[i] / size + eps);
  }
  for (int64_t d = 0; d < half; d++) {
    Vector first = load(columns + d * step) * gain, second = load(columns + (d + half) * step) * gain;
    if (norm != nullptr) first *= norm[d], second *= norm[d + half];
    const Vector c = load(cos + d * step), s = load(sin + d * step);
    store(turned + d * kWidth, first * c - second * s);
    store(turned + (d + half) * kWidth, second * c + first * s);
  }
  to_rows(rows, width, turned, kWidth, size, slots);
}

// A key-value head's queries over its slot's cache, whose newest row is `keys` - 1.
void attend(float *out, const float *queries, int64_t group, const float *key_cache, const float *value_cache,
            int64_t keys, int64_t size) {
  const int64_t wide = padded(size), step = padded(keys);
  float *scores = workspace(1, group * step), *result = workspace(2, group * wide);
  const float *values = value_cache;
  if (wide != size) {
    float *copy = workspace(3, keys * wide);
    for (int64_t i = 0; i < keys; i++) memcpy(copy + i * wide, value_cache + i * size, 4 * size);
    values = copy;
  }
  for (int64_t g = 0; g < group; g++) {
    score_for(size)(scores + g * step, queries + g * size, key_cache, keys, size);
    softmax(scores + g * step, keys);
  }
  small_product(result, wide, group, wide, keys, rows_of(scores, step), values, wide);
  for (int64_t g = 0; g < group; g++) memcpy(out + g * size, result + g * wide, 4 * size);
}

// Those of adapters that are there: of each out of `outs` with its rows, A and B from `first` on.
std::vector<Adapter> adapters_of(const Call &call, int first, std::vector<std::pair<float *, int64_t>> outs) {
  std::vector<Adapter> found;
  for (size_t i = 0; i < outs.size(); i++) {
    const int down = first + 2 * (int)i;
    if (float *weight = optional(call, down))
      found.push_back({outs[i].first, outs[i].second, weight, call.floats(down + 1), call.size(down, 0)});
  }
  return found;
}

}  // namespace

// Inputs: stream [H, slots], norm [H], q, k, v, o [heads * D, H] ..., their biases and the norms of q and k, [1] where
// there is none, cos, sin [D, slots], positions int32 [B], caches of keys and values [B * kv_heads * S, D], written to in
// place, numbers [4]: eps, the queries' scale, 1: the stream is added, the adapters' scale; adapters of q, k, v, o, [1] where
// there is none. Output: [H, slots].
OPERATOR(attention_step) {
  const int64_t width = call.size(0, 0), slots = call.size(13, 0), size = call.size(14, 1);
  const int64_t out_width = call.size(2, 0), kv_width = call.size(3, 0), kv_heads = kv_width / size;
  const int64_t length = call.size(14, 0) / (slots * kv_heads), group = out_width / kv_width;
  const Panels panels{call.size(0, 1)};
  const float *numbers = call.floats(16), eps = numbers[0];
  const int64_t sizes[] = {width, out_width, kv_width, kv_width, out_width};
  float *at = workspace(0, (width + 3 * out_width + 2 * kv_width) * panels.slots), *parts[6];
  for (int i = 0; i < 5; at += sizes[i++] * panels.slots) parts[i] = at;
  float *normed = parts[0], *q = parts[1], *k = parts[2], *v = parts[3], *queries = parts[4], *attended = at;
  norm_columns(normed, call.floats(0), call.floats(1), width, eps, panels);
  products_of_columns({{q, call.floats(2), out_width, optional(call, 6)},
                       {k, call.floats(3), kv_width, optional(call, 7)},
                       {v, call.floats(4), kv_width, optional(call, 8)}},
                      normed, width, panels);
  const auto adapters = adapters_of(call, 17, {{q, out_width}, {k, kv_width}, {v, kv_width}});
  if (!adapters.empty()) add_adapters(adapters, numbers[3], normed, width, panels);
  in_turn(panels.slots / kWidth * kv_heads, [&](int64_t task) {
    const int64_t number = task / kv_heads, head = task % kv_heads, first = number * kWidth;
    const int64_t step = panels.width(first / kPanel), some = slots - first < kWidth ? slots - first : kWidth;
    const float *cos = panels.vector(call.floats(11), size, number), *sin = panels.vector(call.floats(12), size, number);
    const float *key = panels.vector(k, kv_width, number), *value = panels.vector(v, kv_width, number);
    const float *query = panels.vector(q, out_width, number);
    for (int64_t g = head * group; g < (head + 1) * group; g++)
      turn(queries + first * out_width + g * size, out_width, query + g * size * step, step, size, optional(call, 9), eps, cos,
           sin, numbers[1], some);
    float *rows = workspace(5, kWidth * size);
    const auto write = [&](int number_of_cache) {
      for (int64_t s = 0; s < some; s++) {
        const int64_t place = ((first + s) * kv_heads + head) * length + call.ints(13)[first + s];
        memcpy(call.floats(number_of_cache) + place * size, rows + s * size, 4 * size);
      }
    };
    turn(rows, size, key + head * size * step, step, size, optional(call, 10), eps, cos, sin, 1.f, some);
    write(14);
    to_rows(rows, size, value + head * size * step, step, size, some);
    write(15);
  });
  in_turn(slots * kv_heads, [&](int64_t pair) {
    const int64_t slot = pair / kv_heads, heads = slot * out_width + pair % kv_heads * group * size;
    attend(attended + heads, queries + heads, group, call.floats(14) + pair * length * size,
           call.floats(15) + pair * length * size, call.ints(13)[slot] + 1, size);
  });
  float *columns = q;
  to_columns(columns, attended, slots, out_width, panels);
  float *out = call.floats(25);
  const float *residual = numbers[2] != 0 ? call.floats(0) : nullptr;
  products_of_columns({{out, call.floats(5), width, nullptr, residual}}, columns, out_width, panels);
  const auto adapters_of_o = adapters_of(call, 23, {{out, width}});
  if (!adapters_of_o.empty()) add_adapters(adapters_of_o, numbers[3], columns, out_width, panels);
  return 0;
}

// Inputs: stream [H, slots], norm [H], gate, up [I, H], down [H, I], numbers [3]: eps, 1: the stream is added,
// the adapters' scale; adapters of gate, up, down. Output: [H, slots].
OPERATOR(mlp_step) {
  const int64_t width = call.size(0, 0), inner = call.size(2, 0);
  const Panels panels{call.size(0, 1)};
  const float *numbers = call.floats(5), *residual = numbers[1] != 0 ? call.floats(0) : nullptr;
  float *normed = workspace(0, (width + 2 * inner) * panels.slots), *between = normed + width * panels.slots;
  float *ups = between + inner * panels.slots, *out = call.floats(12);
  norm_columns(normed, call.floats(0), call.floats(1), width, numbers[0], panels);
  const auto adapters = adapters_of(call, 6, {{between, inner}, {ups, inner}});
  if (adapters.empty()) {
    gated_columns(between, call.floats(2), call.floats(3), inner, normed, width, panels);
  } else {
    products_of_columns({{between, call.floats(2), inner}, {ups, call.floats(3), inner}}, normed, width, panels);
    add_adapters(adapters, numbers[2], normed, width, panels);
    gate_columns(between, ups, inner, panels);
  }
  products_of_columns({{out, call.floats(4), width, nullptr, residual}}, between, inner, panels);
  const auto adapters_of_down = adapters_of(call, 10, {{out, width}});
  if (!adapters_of_down.empty()) add_adapters(adapters_of_down, numbers[2], between, inner, panels);
  return 0;
}

// Inputs: stream [H, slots], norm [H], head [R, H], eps [1], one number a slot [B]. Output: logits [B, R].
OPERATOR(head_step) {
  const int64_t width = call.size(0, 0);
  const Panels panels{call.size(0, 1)};
  float *normed = workspace(0, width * panels.slots);
  norm_columns(normed, call.floats(0), call.floats(1), width, call.floats(3)[0], panels);
  rows_of_columns(call.floats(5), call.size(4, 0), call.floats(2), call.size(2, 0), normed, width, panels);
  return 0;
}

// Tokens behind what their slots' caches hold. Inputs: q [T, heads * D], turned and scaled, k, v [T, kv_heads * D], slots,
// positions int32 [T] (below 0: padding), caches of keys and values [B * kv_heads * S, D], written to in place, numbers
// [1]: S. Output: what is attended to [T, heads * D].
OPERATOR(attention_behind) {
  const int64_t tokens = call.size(0, 0), out_width = call.size(0, 1), kv_width = call.size(1, 1), size = call.size(5, 1);
  const int64_t kv_heads = kv_width / size, group = out_width / kv_width, length = call.floats(7)[0];
  const int32_t *slots = call.ints(3), *positions = call.ints(4);
  memset(call.floats(8), 0, 4 * call.count(0));
  const auto cache = [&](int number, int64_t task) {
    return call.floats(number) + (slots[task / kv_heads] * kv_heads + task % kv_heads) * length * size;
  };
  in_turn(tokens * kv_heads, [&](int64_t task) {
    const int64_t position = positions[task / kv_heads];
    if (position < 0) return;
    memcpy(cache(5, task) + position * size, call.floats(1) + task * size, 4 * size);
    memcpy(cache(6, task) + position * size, call.floats(2) + task * size, 4 * size);
  });
  in_turn(tokens * kv_heads, [&](int64_t task) {
    const int64_t position = positions[task / kv_heads], heads = task * group * size;
    if (position < 0) return;
    attend(call.floats(8) + heads, call.floats(0) + heads, group, cache(5, task), cache(6, task), position + 1, size);
  });
  return 0;
}

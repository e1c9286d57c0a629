#include "columns.h"

#include <cmath>

#include "call.h"
#include "products.h"
#include "threads.h"

namespace native {
namespace {

constexpr int64_t kBlock = 48;   // rows of a weight that one thread takes: a multiple of a tile's, and of sixteen
constexpr int64_t kDepth = 128;  // of the input that stays in the first cache while a block passes

// to [columns, 16] = from [rows, columns] transposed, both of at most sixteen; missing rows are 0. Four perfect shuffles
// of sixteen vectors: each turns the bits of (row, column) by one.
void transpose(float *to, int64_t to_step, const float *from, int64_t from_step, int64_t rows, int64_t columns) {
  Vector held[kWidth], turned[kWidth];
  for (int64_t i = 0; i < kWidth; i++) held[i] = i < rows ? load_at(from + i * from_step, 0, columns) : Vector{};
  for (int round = 0; round < 4; round++) {
    for (int i = 0; i < 8; i++) {
      turned[2 * i] = first_halves(held[i], held[i + 8]);
      turned[2 * i + 1] = second_halves(held[i], held[i + 8]);
    }
    memcpy(held, turned, sizeof held);
  }
  for (int64_t i = 0; i < columns; i++) store(to + i * to_step, held[i]);
}

int64_t blocks_of(int64_t n) { return (n + kBlock - 1) / kBlock; }

// Asks for numbers of `rows` rows of a weight that will be needed soon: each is read once, from memory.
void fetch(const float *weight, int64_t rows, int64_t k, int64_t count) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < count; j += kWidth) __builtin_prefetch(weight + i * k + j, 0, 2);
}

// out [rows, width] = weight [rows, k] in [k, width], or that added; the order of a sum does not depend on width or rows.
void product_of_panel(float *out, const float *weight, int64_t rows, const float *in, int64_t k, int64_t width,
                      bool is_added = false) {
  for (int64_t from = 0; from < k; from += kDepth) {
    const int64_t depth = k - from < kDepth ? k - from : kDepth, next = from + depth;
    for (int64_t i = 0; i < rows; i += kTileRows) {
      const int64_t some = rows - i < kTileRows ? rows - i : kTileRows;
      if (next < k) fetch(weight + i * k + next, some, k, k - next < kDepth ? k - next : kDepth);
      small_product(out + i * width, width, some, width, depth, rows_of(weight + i * k + from, k), in + from * width,
                    width, is_added || from > 0);
    }
  }
}

// out = silu(out) * up, of `count` numbers, a multiple of sixteen.
void apply_gate(float *out, const float *up, int64_t count) {
  for (int64_t j = 0; j < count; j += kWidth) {
    const Vector g = load(out + j);
    store(out + j, g / (1.f + exp(-g)) * load(up + j));
  }
}

// f(first row, rows, panel) of a block, panel by panel.
template <class F> void by_panel(int64_t block, int64_t n, Panels panels, const F &f) {
  const int64_t first = block * kBlock, rows = n - first < kBlock ? n - first : kBlock;
  for (int64_t panel = 0; panel < panels.count(); panel++) f(first, rows, panel);
}

void product_of_block(const Factor &factor, int64_t block, const float *in, int64_t k, Panels panels) {
  by_panel(block, factor.n, panels, [&](int64_t first, int64_t rows, int64_t panel) {
    const int64_t width = panels.width(panel), at = first * width;
    float *out = panels.at(factor.out, factor.n, panel) + at;
    product_of_panel(out, factor.weight + first * k, rows, panels.at(in, k, panel), k, width, factor.is_added);
    const float *residual = factor.residual ? panels.at(factor.residual, factor.n, panel) + at : nullptr;
    if (factor.bias == nullptr && residual == nullptr) return;
    for (int64_t i = 0; i < rows; i++)
      for (int64_t j = i * width; j < (i + 1) * width; j += kWidth) {
        Vector x = load(out + j);
        if (factor.bias != nullptr) x += factor.bias[first + i];
        store(out + j, residual == nullptr ? x : x + load(residual + j));
      }
  });
}

}  // namespace

void products_of_columns(const std::vector<Factor> &factors, const float *in, int64_t k, Panels panels) {
  int64_t blocks = 0;
  for (const Factor &factor : factors) blocks += blocks_of(factor.n);
  in_turn(blocks, [&](int64_t block) {
    for (const Factor &factor : factors) {
      if (block < blocks_of(factor.n)) return product_of_block(factor, block, in, k, panels);
      block -= blocks_of(factor.n);
    }
  });
}

void add_adapters(const std::vector<Adapter> &adapters, float scale, const float *in, int64_t k, Panels panels) {
  int64_t total = 0;
  for (const Adapter &adapter : adapters) total += adapter.rank;
  float *narrow = workspace(7, total * panels.slots), *at = narrow;
  std::vector<Factor> down, up;
  for (const Adapter &adapter : adapters) {
    down.push_back({at, adapter.down, adapter.rank});
    at += adapter.rank * panels.slots;
  }
  products_of_columns(down, in, k, panels);
  for (int64_t i = 0; i < total * panels.slots; i += kWidth) store(narrow + i, load(narrow + i) * scale);
  for (size_t i = 0; i < adapters.size(); i++) {
    const Adapter &each = adapters[i];
    products_of_columns({{each.out, each.up, each.n, nullptr, nullptr, true}}, down[i].out, each.rank, panels);
  }
}

void gate_columns(float *out, const float *up, int64_t n, Panels panels) {
  in_shares(n * panels.slots / kWidth, [&](int64_t first, int64_t end) {
    apply_gate(out + first * kWidth, up + first * kWidth, (end - first) * kWidth);
  });
}

void gated_columns(float *out, const float *gate, const float *up, int64_t n, const float *in, int64_t k,
                   Panels panels) {
  in_turn(blocks_of(n), [&](int64_t block) {
    float *ups = workspace(6, kBlock * kPanel);
    by_panel(block, n, panels, [&](int64_t first, int64_t rows, int64_t panel) {
      const int64_t width = panels.width(panel);
      float *gates = panels.at(out, n, panel) + first * width;
      product_of_panel(gates, gate + first * k, rows, panels.at(in, k, panel), k, width);
      product_of_panel(ups, up + first * k, rows, panels.at(in, k, panel), k, width);
      apply_gate(gates, ups, rows * width);
    });
  });
}

void rows_of_columns(float *rows_out, int64_t slots, const float *weight, int64_t n, const float *in, int64_t k,
                     Panels panels) {
  in_turn(blocks_of(n), [&](int64_t block) {
    float *found = workspace(6, kBlock * kPanel);
    by_panel(block, n, panels, [&](int64_t first, int64_t rows, int64_t panel) {
      const int64_t width = panels.width(panel);
      product_of_panel(found, weight + first * k, rows, panels.at(in, k, panel), k, width);
      for (int64_t slot = 0; slot < width && panel * kPanel + slot < slots; slot += kWidth) {
        const int64_t begin = panel * kPanel + slot;
        to_rows(rows_out + begin * n + first, n, found + slot, width, rows, slots - begin);
      }
    });
  });
}

void norm_columns(float *y, const float *x, const float *weight, int64_t features, float eps, Panels panels) {
  constexpr int64_t kSums = 4;
  in_turn(panels.slots / kWidth, [&](int64_t number) {
    const int64_t width = panels.width(number * kWidth / kPanel);
    const float *from = panels.vector(x, features, number);
    float *to = panels.vector(y, features, number);
    Vector squares[kSums]{}, scale;
    for (int64_t h = 0; h < features; h++) squares[h % kSums] += load(from + h * width) * load(from + h * width);
    const Vector mean = ((squares[0] + squares[1]) + (squares[2] + squares[3])) * (1.f / features) + eps;
    for (int64_t i = 0; i < kWidth; i++) scale[i] = 1.f / std::sqrt(mean[i]);
    for (int64_t h = 0; h < features; h++) store(to + h * width, load(from + h * width) * scale * weight[h]);
  });
}

void to_rows(float *rows, int64_t width, const float *columns, int64_t step, int64_t n, int64_t slots) {
  const int64_t present = slots < kWidth ? slots : kWidth;
  for (int64_t at = 0; at < n; at += kWidth) {
    const int64_t some = n - at < kWidth ? n - at : kWidth;
    if (some == kWidth) {
      transpose(rows + at, width, columns + at * step, step, kWidth, present);
      continue;
    }
    float square[kWidth * kWidth];  // so that nothing is written beyond the row
    transpose(square, kWidth, columns + at * step, step, some, present);
    for (int64_t s = 0; s < present; s++) memcpy(rows + at + s * width, square + s * kWidth, 4 * some);
  }
}

void to_columns(float *columns, const float *rows, int64_t slots, int64_t n, Panels panels) {
  in_turn(panels.slots / kWidth, [&](int64_t number) {
    const int64_t width = panels.width(number * kWidth / kPanel), first = number * kWidth;
    float *to = panels.vector(columns, n, number);
    for (int64_t at = 0; at < n; at += kWidth)
      transpose(to + at * width, width, rows + first * n + at, n, slots - first, n - at < kWidth ? n - at : kWidth);
  });
}

}  // namespace native

using namespace native;

// Rows as columns. Inputs: rows [B, N]. Output: [N, slots], slots: B rounded up to a multiple of sixteen.
OPERATOR(columns) {
  to_columns(call.floats(1), call.floats(0), call.size(0, 0), call.size(0, 1), Panels{padded(call.size(0, 0))});
  return 0;
}

// Which keys a query sees, and stretches of queries that see alike.
#pragma once
#include <cstdint>
#include <vector>

#include "products.h"

namespace native {

// Queries `first` and the `count - 1` after it. All see keys [prompt_first, prompt_end); query `first + i` also sees
// [own_first, own_end + i).
struct Stretch {
  int64_t first, count, prompt_first, prompt_end, own_first, own_end;

  int64_t prompt() const { return prompt_end - prompt_first; }
  int64_t keys_of(int64_t i) const { return prompt() + own_end + i - own_first; }
  int64_t keys() const { return keys_of(count - 1); }
  // Where the key of a number lies: the prompt's first, then its own.
  int64_t place(int64_t key) const { return key < prompt() ? prompt_first + key : own_first + key - prompt(); }
  // Stretches of one root share keys.
  int64_t root() const { return prompt() > 0 ? prompt_first : own_first; }
};

// spans [T, 4]: of every query, prompt_first, prompt_end, own_first, own_end. Queries that see nothing have no stretch.
std::vector<Stretch> stretches_of(const int32_t *spans, int64_t tokens);

struct Heads {
  int64_t queries, key_values, size;  // heads of each kind, numbers of a head
  int64_t group() const { return queries / key_values; }
};

// The keys (or values) of a stretch and a head side by side: [size, step] where `is_turned`, else [keys, step].
void bring_together(float *to, int64_t step, const float *from, int64_t width, const Stretch &stretch, int64_t size,
                    bool is_turned);

constexpr int64_t kTile = 32;  // queries whose scores are in memory together

}  // namespace native

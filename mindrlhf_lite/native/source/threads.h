// The library's own threads. No OpenMP: libgomp's teams stop spinning once two threads of a process have one, and
// MindSpore's do; a decoding step then takes ten times as long.
#pragma once
#include <cstdint>
#include <functional>

namespace native {

// Threads that a call works with, this one included.
int num_threads();
void set_num_threads(int count);

// Whether the caller is one of them at work.
bool is_at_work();

// f(index) for every index below num_threads(), on as many threads as are free; by the caller alone where they are
// busy. Returns when all are done.
void on_all_threads(const std::function<void(int)> &f);

// f(first, end) over equal shares of [0, count): for work that is alike.
template <class F> void in_shares(int64_t count, const F &f) {
  const int threads = num_threads();
  on_all_threads([&](int index) { f(count * index / threads, count * (index + 1) / threads); });
}

// f(number) for every number below `count`, by whoever is free: for work that differs.
void in_turn(int64_t count, const std::function<void(int64_t)> &f);

}  // namespace native

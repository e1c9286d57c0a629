// Large memory of an operator, kept for the next one, whichever thread calls that: no page is touched for the first time.
#pragma once
#include <cstdint>

namespace native {

class Scratch {
 public:
  explicit Scratch(int64_t count);
  ~Scratch();
  Scratch(const Scratch &) = delete;
  Scratch &operator=(const Scratch &) = delete;

  // The next `count` floats of those that were asked for.
  float *take(int64_t count) {
    used_ += count;
    return data_ + used_ - count;
  }

 private:
  float *data_;
  int64_t size_, used_ = 0;
};

}  // namespace native

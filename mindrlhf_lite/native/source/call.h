// What MindSpore hands to a custom operator (ops.Custom, func_type "aot"): inputs, then outputs, by number.
#pragma once
#include <cstdint>
#include <vector>

namespace native {

class Call {
 public:
  Call(void **arrays, int *ranks, int64_t **shapes) : arrays_(arrays), ranks_(ranks), shapes_(shapes) {}

  float *floats(int number) const { return static_cast<float *>(arrays_[number]); }
  int32_t *ints(int number) const { return static_cast<int32_t *>(arrays_[number]); }
  int64_t size(int number, int dimension) const { return shapes_[number][dimension]; }
  int64_t count(int number) const {
    int64_t product = 1;
    for (int i = 0; i < ranks_[number]; i++) product *= shapes_[number][i];
    return product;
  }

 private:
  void **arrays_;
  int *ranks_;
  int64_t **shapes_;
};

// Memory that a thread keeps from call to call: nothing is allocated, no page is touched for the first time.
inline float *workspace(int number, int64_t count) {
  thread_local std::vector<float> spaces[8];
  if ((int64_t)spaces[number].size() < count) spaces[number].resize(count);
  return spaces[number].data();
}

}  // namespace native

#define OPERATOR(name) \
  static int name##_of(const native::Call &call); \
  extern "C" int name(int count, void **arrays, int *ranks, int64_t **shapes, const char **types, void *, void *) { \
    return name##_of(native::Call(arrays, ranks, shapes)); \
  } \
  static int name##_of(const native::Call &call)

// Sixteen floats at a time, by GCC's vector extensions: one register of AVX-512, two of AVX2, four of NEON.
#pragma once
#include <cstdint>
#include <cstring>

namespace native {

constexpr int64_t kWidth = 16;
typedef float Vector __attribute__((vector_size(4 * kWidth)));
typedef int Whole __attribute__((vector_size(4 * kWidth)));

// One register: where it is less than sixteen, compilers keep a Vector in memory, and innermost loops take these.
#if defined(__AVX512F__)
constexpr int64_t kPart = 16;
#elif defined(__AVX2__)
constexpr int64_t kPart = 8;
#else
constexpr int64_t kPart = 4;
#endif
typedef float Part __attribute__((vector_size(4 * kPart)));

inline Part load_part(const float *at) {
  Part x;
  memcpy(&x, at, sizeof x);
  return x;
}
inline void store_part(float *at, Part x) { memcpy(at, &x, sizeof x); }

inline int64_t padded(int64_t n) { return (n + kWidth - 1) / kWidth * kWidth; }

inline Vector load(const float *at) {
  Vector x;
  memcpy(&x, at, sizeof x);
  return x;
}
inline void store(float *at, Vector x) { memcpy(at, &x, sizeof x); }
inline Vector all(float x) { return Vector{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }  // not 0 + x: an addition

// The first `n` numbers; the others are `filler`.
inline Vector load_some(const float *at, int64_t n, float filler = 0.f) {
  Vector x = all(filler);
  memcpy(&x, at, 4 * n);
  return x;
}
inline void store_some(float *at, Vector x, int64_t n) { memcpy(at, &x, 4 * n); }

// f(place, how many of sixteen) over `n` numbers; the last may be fewer.
template <class F> inline void by_vectors(int64_t n, const F &f) {
  int64_t at = 0;
  for (; at + kWidth <= n; at += kWidth) f(at, kWidth);
  if (at < n) f(at, n - at);
}
inline Vector load_at(const float *from, int64_t at, int64_t n, float filler = 0.f) {
  return n == kWidth ? load(from + at) : load_some(from + at, n, filler);
}
inline void store_at(float *to, int64_t at, int64_t n, Vector x) {
  if (n == kWidth) store(to + at, x);
  else store_some(to + at, x, n);
}

inline Vector larger(Vector a, Vector b) { return a > b ? a : b; }
inline float sum(Vector x) {
  float s[kWidth];
  memcpy(s, &x, sizeof s);
  for (int half = kWidth / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) s[i] += s[i + half];
  return s[0];
}
inline float largest(Vector x) {
  float m = x[0];
  for (int i = 1; i < kWidth; i++) m = x[i] > m ? x[i] : m;
  return m;
}

// Sixteen of the numbers of a and b, by place.
#if defined(__clang__)
#define CHOSEN(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define CHOSEN(a, b, ...) __builtin_shuffle(a, b, Whole{__VA_ARGS__})
#endif
inline Vector evens(Vector a, Vector b) {
  return CHOSEN(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
}
inline Vector odds(Vector a, Vector b) {
  return CHOSEN(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}
// a's first number, b's first, a's second, ...
inline Vector first_halves(Vector a, Vector b) {
  return CHOSEN(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
inline Vector second_halves(Vector a, Vector b) {
  return CHOSEN(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

// The sum of each of sixteen vectors: neighbours are added up four times.
inline Vector sums(const Vector *x) {
  Vector level[kWidth];
  memcpy(level, x, sizeof level);
  for (int half = kWidth / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++)
      level[i] = evens(level[2 * i], level[2 * i + 1]) + odds(level[2 * i], level[2 * i + 1]);
  return level[0];
}

// e^x to 2 units in the last place (Cephes' polynomial); 0 below -87.3, where float32 has no normal number left.
inline Vector exp(Vector x) {
  const Vector held = x < -87.3f ? all(-87.3f) : (x > 88.f ? all(88.f) : x);
  const Whole power = __builtin_convertvector(held * 1.44269504f + 128.5f, Whole) - 128;
  const Vector turns = __builtin_convertvector(power, Vector);
  const Vector f = held - turns * 0.693359375f + turns * 2.12194440e-4f;
  Vector y = f * 1.9875691500e-4f + 1.3981999507e-3f;
  y = y * f + 8.3334519073e-3f;
  y = y * f + 4.1665795894e-2f;
  y = y * f + 1.6666665459e-1f;
  y = y * f + 5.0000001201e-1f;
  y = y * f * f + f + 1.f;
  y = y * (Vector)((power + 127) << 23);
  return x < -87.3f ? all(0.f) : y;
}

}  // namespace native

// Sixteen numbers at once, the types that numbers are kept in, and norms of rows.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include "structs.h"

namespace {

constexpr int LANES = 16, PANEL = 2 * LANES;

typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t i16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t u16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t h16 __attribute__((vector_size(32), aligned(2), may_alias));
typedef int8_t b16 __attribute__((vector_size(16), aligned(1), may_alias));

inline v16 load(const float *p) { return *reinterpret_cast<const v16 *>(p); }
inline void store(float *p, v16 x) { *reinterpret_cast<v16 *>(p) = x; }
inline v16 all(float x) { return v16{} + x; }

inline uint16_t narrow(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
inline v16 widen(const uint16_t *p) {
  u16 u = __builtin_convertvector(*reinterpret_cast<const h16 *>(p), u16) << 16;
  return (v16)u;
}

template <int T> struct Types {
  typedef float Activation;
  typedef uint16_t Kept;
};
template <> struct Types<F32> {
  typedef float Activation;
  typedef float Kept;
};
#if defined(__AVX512BF16__)
template <> struct Types<BF16> {
  typedef uint16_t Activation;
  typedef uint16_t Kept;
};
#endif

inline void put(float *p, float x) { *p = x; }
inline void put(uint16_t *p, float x) { *p = narrow(x); }
inline void put(float *p, v16 x) { store(p, x); }
inline void put(uint16_t *p, v16 x) {
  const u16 u = (u16)x;
  *reinterpret_cast<h16 *>(p) = __builtin_convertvector((u + 0x7fffu + ((u >> 16) & 1u)) >> 16, h16);
}
inline v16 get(const float *p) { return load(p); }
inline v16 get(const uint16_t *p) { return widen(p); }

// e^x by Cephes' polynomial: relative error below 2e-7 between -87 and 88, where it is cut.
inline v16 exponential(v16 x) {
  x = x > 88.0f ? all(88.0f) : x;
  x = x < -87.3f ? all(-87.3f) : x;
  v16 n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
  v16 r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  v16 p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  i16 power = (__builtin_convertvector(n, i16) + 127) << 23;
  return p * (v16)power;
}

inline v16 tangent(v16 x) { return 1.0f - 2.0f / (exponential(2.0f * x) + 1.0f); }

inline v16 activated(v16 x, int kind) {
  switch (kind) {
  case SILU:
    return x / (1.0f + exponential(-x));
  case GELU:
    for (int i = 0; i < LANES; i++)
      x[i] = 0.5f * x[i] * (1.0f + std::erf(x[i] * 0.70710678f));
    return x;
  case GELU_TANH:
    return 0.5f * x * (1.0f + tangent(0.79788456f * (x + 0.044715f * x * x * x)));
  case RELU:
    return x > 0.0f ? x : v16{};
  default:
    x = x > 0.0f ? x : v16{};
    return x * x;
  }
}

inline void spill(float *y, v16 x, int count, bool add) {
  if (count >= LANES) {
    store(y, add ? load(y) + x : x);
  } else {
    for (int i = 0; i < count; i++)
      y[i] = add ? y[i] + x[i] : x[i];
  }
}

inline float sum(v16 x) {
  float s = 0;
  for (int i = 0; i < LANES; i++)
    s += x[i];
  return s;
}

// --- norms ----------------------------------------------------------------------------------------------------

inline float dot(const float *a, const float *b, int n) {
  v16 s{};
  int i = 0;
  for (; i + LANES <= n; i += LANES)
    s += load(a + i) * load(b + i);
  float found = sum(s);
  for (; i < n; i++)
    found += a[i] * b[i];
  return found;
}

inline float total(const float *a, int n) {
  v16 s{};
  int i = 0;
  for (; i + LANES <= n; i += LANES)
    s += load(a + i);
  float found = sum(s);
  for (; i < n; i++)
    found += a[i];
  return found;
}

// x / rms(x), with a weight if there is one, in place.
inline void unit(float *x, const float *weight, int n, float epsilon) {
  const float by = 1.0f / std::sqrt(dot(x, x, n) / n + epsilon);
  for (int i = 0; i < n; i++)
    x[i] = x[i] * by * (weight ? weight[i] : 1.0f);
}

// One row. Without the norm it is copied. Where `y` may be `x` itself.
template <class A> inline void normed(const Norm &norm, const float *x, A *y, int n) {
  int i = 0;
  if (!norm.there) {
    for (; i + LANES <= n; i += LANES)
      put(y + i, load(x + i));
    for (; i < n; i++)
      put(y + i, x[i]);
  } else if (norm.centred) {
    const float mean = total(x, n) / n;
    v16 s{};
    for (; i + LANES <= n; i += LANES) {
      const v16 d = load(x + i) - mean;
      s += d * d;
    }
    float variance = sum(s);
    for (; i < n; i++)
      variance += (x[i] - mean) * (x[i] - mean);
    const float by = 1.0f / std::sqrt(variance / n + norm.epsilon);
    for (i = 0; i + LANES <= n; i += LANES)
      put(y + i, (load(x + i) - mean) * by * load(norm.weight + i) + (norm.bias ? load(norm.bias + i) : v16{}));
    for (; i < n; i++)
      put(y + i, (x[i] - mean) * by * norm.weight[i] + (norm.bias ? norm.bias[i] : 0.0f));
  } else {
    const float by = 1.0f / std::sqrt(dot(x, x, n) / n + norm.epsilon);
    for (; i + LANES <= n; i += LANES)
      put(y + i, load(x + i) * by * load(norm.weight + i));
    for (; i < n; i++)
      put(y + i, x[i] * by * norm.weight[i]);
  }
}

}  // namespace

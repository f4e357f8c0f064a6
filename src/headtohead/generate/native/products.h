// Products of rows with matrices in panels of 32 outputs, and the feed-forward's hidden layer.

#pragma once

#include "numbers.h"

namespace {

inline long padded(long k) { return (k + 1) & ~1L; }  // bf16 goes in pairs
inline int panels(const Matrix &m) { return (m.n + PANEL - 1) / PANEL; }

template <int T> inline const char *panel_of(const Matrix &m, int p) {
  const long size = T == F32 ? 4L * m.k : T == BF16 ? 2L * padded(m.k) : m.k;
  return static_cast<const char *>(m.weight) + size * PANEL * p;
}

// The sums of R rows of x (each `stride` apart) with the 32 outputs of one panel.
template <int T, int R>
inline void multiply(const char *panel, const typename Types<T>::Activation *x, long stride, int k, v16 (&acc)[R][2]) {
  for (int r = 0; r < R; r++)
    acc[r][0] = acc[r][1] = v16{};
  if constexpr (T == F32) {
    const float *w = reinterpret_cast<const float *>(panel);
    for (int i = 0; i < k; i++, w += PANEL) {
      const v16 a = load(w), b = load(w + LANES);
      for (int r = 0; r < R; r++) {
        acc[r][0] += a * x[r * stride + i];
        acc[r][1] += b * x[r * stride + i];
      }
    }
  } else if constexpr (T == BF16) {
    const int pairs = static_cast<int>(padded(k) / 2);
#if defined(__AVX512BF16__)
    __m512 found[R][2];
    for (int r = 0; r < R; r++)
      found[r][0] = found[r][1] = _mm512_setzero_ps();
    for (int i = 0; i < pairs; i++, panel += 4 * PANEL) {
      const __m512bh a = (__m512bh)_mm512_loadu_si512(panel);
      const __m512bh b = (__m512bh)_mm512_loadu_si512(panel + 64);
      for (int r = 0; r < R; r++) {
        int32_t two;
        std::memcpy(&two, x + r * stride + 2 * i, 4);
        const __m512bh both = (__m512bh)_mm512_set1_epi32(two);
        found[r][0] = _mm512_dpbf16_ps(found[r][0], a, both);
        found[r][1] = _mm512_dpbf16_ps(found[r][1], b, both);
      }
    }
    for (int r = 0; r < R; r++) {
      acc[r][0] = (v16)found[r][0];
      acc[r][1] = (v16)found[r][1];
    }
#else
    for (int i = 0; i < pairs; i++, panel += 4 * PANEL)
      for (int half = 0; half < 2; half++) {
        u16 both = *reinterpret_cast<const u16 *>(panel + 64 * half);
        u16 even = both << 16, odd = both & 0xffff0000u;
        for (int r = 0; r < R; r++) {
          acc[r][half] += (v16)even * x[r * stride + 2 * i];
          acc[r][half] += (v16)odd * x[r * stride + 2 * i + 1];
        }
      }
#endif
  } else {
    const int8_t *w = reinterpret_cast<const int8_t *>(panel);
    for (int i = 0; i < k; i++, w += PANEL) {
      const v16 a = __builtin_convertvector(*reinterpret_cast<const b16 *>(w), v16);
      const v16 b = __builtin_convertvector(*reinterpret_cast<const b16 *>(w + LANES), v16);
      for (int r = 0; r < R; r++) {
        acc[r][0] += a * x[r * stride + i];
        acc[r][1] += b * x[r * stride + i];
      }
    }
  }
}

template <int T, int R> inline void finish(const Matrix &m, int p, v16 (&acc)[R][2]) {
  for (int half = 0; half < 2; half++) {
    const int at = p * PANEL + half * LANES;
    if (T == INT8)
      for (int r = 0; r < R; r++)
        acc[r][half] *= load(m.scale + at);  // scales and biases are padded to whole panels
    if (m.bias)
      for (int r = 0; r < R; r++)
        acc[r][half] += load(m.bias + at);
  }
}

template <int T, int R>
inline void some_rows(const Matrix &m, int p, const typename Types<T>::Activation *x, long stride, float *y, long across,
                      bool add) {
  v16 acc[R][2];
  multiply<T, R>(panel_of<T>(m, p), x, stride, m.k, acc);
  finish<T, R>(m, p, acc);
  for (int r = 0; r < R; r++)
    for (int half = 0; half < 2; half++) {
      const int at = p * PANEL + half * LANES;
      if (at < m.n)
        spill(y + r * across + at, acc[r][half], m.n - at, add);
    }
}

// y (rows, `across` apart) = or += W x, this thread's panels.
template <int T>
void product(const Matrix &m, const typename Types<T>::Activation *x, long stride, int rows, float *y, long across, bool add,
             int thread, int threads) {
  const long count = panels(m);
  for (int p = count * thread / threads; p < count * (thread + 1) / threads; p++) {
    int r = 0;
    for (; r + 8 <= rows; r += 8)
      some_rows<T, 8>(m, p, x + r * stride, stride, y + r * across, across, add);
    if (r + 4 <= rows) {
      some_rows<T, 4>(m, p, x + r * stride, stride, y + r * across, across, add);
      r += 4;
    }
    if (r + 2 <= rows) {
      some_rows<T, 2>(m, p, x + r * stride, stride, y + r * across, across, add);
      r += 2;
    }
    if (r < rows)
      some_rows<T, 1>(m, p, x + r * stride, stride, y + r * across, across, add);
  }
}

template <int T, int R>
inline void some_hidden(const Layer &l, int p, const typename Types<T>::Activation *x, long stride,
                        typename Types<T>::Activation *h, long across) {
  v16 acc[R][2], gate[R][2];
  const Matrix &m = l.up;
  if (l.gated) {
    multiply<T, R>(panel_of<T>(m, 2 * p), x, stride, m.k, gate);
    finish<T, R>(m, 2 * p, gate);
    multiply<T, R>(panel_of<T>(m, 2 * p + 1), x, stride, m.k, acc);
    finish<T, R>(m, 2 * p + 1, acc);
  } else {
    multiply<T, R>(panel_of<T>(m, p), x, stride, m.k, acc);
    finish<T, R>(m, p, acc);
  }
  for (int r = 0; r < R; r++)
    for (int half = 0; half < 2; half++) {
      const v16 made =
          l.gated ? activated(gate[r][half], l.activation) * acc[r][half] : activated(acc[r][half], l.activation);
      const int at = p * PANEL + half * LANES;
      if (at + LANES <= l.d_ff)
        put(h + r * across + at, made);
      else
        for (int i = 0; at + i < l.d_ff; i++)
          put(h + r * across + at + i, made[i]);
    }
}

// h = f(gate) · up or f(up): this thread's panels of d_ff.
template <int T>
void hidden(const Layer &l, const typename Types<T>::Activation *x, long stride, int rows, typename Types<T>::Activation *h,
            long across, int thread, int threads) {
  const long count = (l.d_ff + PANEL - 1) / PANEL;
  for (int p = count * thread / threads; p < count * (thread + 1) / threads; p++) {
    int r = 0;
    for (; r + 4 <= rows; r += 4)
      some_hidden<T, 4>(l, p, x + r * stride, stride, h + r * across, across);
    if (r + 2 <= rows) {
      some_hidden<T, 2>(l, p, x + r * stride, stride, h + r * across, across);
      r += 2;
    }
    if (r < rows)
      some_hidden<T, 1>(l, p, x + r * stride, stride, h + r * across, across);
  }
}

}  // namespace

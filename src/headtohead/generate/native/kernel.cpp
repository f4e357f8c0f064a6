// One stream of a network over new tokens of some slots, with their keys and values kept in place: what `plan.py`
// describes and `runner.py` calls. Softmax attention only.
//
// A row is one new token. Every number of a row is computed in an order that does not depend on the other rows, so a
// row's result is the same, to the bit, alone and in a batch. Weights lie in panels of 32 outputs, read from beginning to
// end; sums, norms, softmax and the residual are in fp32.

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <omp.h>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace {

constexpr int LANES = 16, PANEL = 2 * LANES, ALONE = 8;  // ALONE: fewer rows than this are normed by each thread

typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t i16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t u16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t h16 __attribute__((vector_size(32), aligned(2), may_alias));
typedef int8_t b16 __attribute__((vector_size(16), aligned(1), may_alias));

enum { F32 = 0, BF16 = 1, INT8 = 2 };
enum { BEFORE = 0, AFTER = 1, BOTH = 2 };
enum { SILU = 0, GELU = 1, GELU_TANH = 2, RELU = 3, RELU2 = 4 };

}  // namespace

extern "C" {

struct Norm {
  const float *weight, *bias;
  int32_t there, centred;
  float epsilon;
  int32_t unused;
};

// y = W x + bias; W (n, k) in panels, of the type that the whole network has; scale (n): of int8.
struct Matrix {
  const void *weight;
  const float *scale, *bias;
  int32_t n, k;
};

// keys (slots, heads, room / 16, d_head, 16), values (slots, heads, room, padded d_head). own: of this stream's tokens.
struct Read {
  void *keys, *values;
  int32_t own, mask, room, unused;
  const float *bias;  // (heads, 2 * far + 1) by key's standing minus query's, or null
};

struct Sublayer {
  Norm before, after;
  Matrix query, key_value, out;  // fused: `query` makes q, k and v of this stream's tokens
  const float *query_weight, *key_weight, *cosines, *sines;
  int32_t heads, key_heads, d_head, fused, reads, norm_query_key, norm_value, norm_output;
  float epsilon, scale, soft_cap;
  int32_t unused;
  Read read[2];
};

struct Layer {
  Sublayer *sublayer;
  Norm before, after;
  Matrix up, down;  // gated: panels of gate and up in turn
  int32_t sublayers, d_ff, gated, activation;
};

struct Stream {
  Layer *layer;
  Norm final;
  int32_t layers, d_model, place, far;
};

// For each row and head (or all heads alike): `count` stretches of key places, first and after last; empty ones are (0, 0).
struct Mask {
  const int32_t *stretch;
  int32_t count, heads;
};

// Rows of one slot stand together. states: of the new tokens of the stream that is read (more rows), or null.
struct Call {
  float *x;  // (rows, d_model): embeddings in, final states out
  const int32_t *slot, *place, *standing;
  const float *states;
  const int32_t *state_slot, *state_place, *state_standing;
  const Mask *mask;
  const int32_t *own_standing, *read_standing;  // (slots, room) of all tokens kept
  int32_t rows, state_rows, own_room, read_room, threads, type;
};

struct Head {
  Matrix transform, matrix;
  Norm norm;
  float scale, soft_cap;
  int32_t transformed, unused;
};
}

namespace {

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

inline float sum(v16 x) {
  float s = 0;
  for (int i = 0; i < LANES; i++)
    s += x[i];
  return s;
}

// --- products -------------------------------------------------------------------------------------------------

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

inline void spill(float *y, v16 x, int count, bool add) {
  if (count >= LANES) {
    store(y, add ? load(y) + x : x);
  } else {
    for (int i = 0; i < count; i++)
      y[i] = add ? y[i] + x[i] : x[i];
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

// --- attention ------------------------------------------------------------------------------------------------

// Component i of a head pairs with i + d / 2.
inline void turn(float *x, const float *cosines, const float *sines, int d) {
  const int half = d / 2;
  for (int i = 0; i < half; i++) {
    const float a = x[i], b = x[i + half];
    x[i] = a * cosines[i] - b * sines[i];
    x[i + half] = b * cosines[i] + a * sines[i];
  }
}

inline int wide(int d_head) { return (d_head + LANES - 1) / LANES * LANES; }

// Put one key and one value of head `h`, as projected, where they belong.
template <class K>
void keep(const Sublayer &s, const Read &r, const float *key, const float *value, int slot, int place, int standing, int h) {
  const int d = s.d_head, dv = wide(d);
  float made[1024];
  std::memcpy(made, key, 4 * d);
  if (s.norm_query_key)
    unit(made, s.key_weight, d, s.epsilon);
  if (s.cosines)
    turn(made, s.cosines + static_cast<long>(standing) * (d / 2), s.sines + static_cast<long>(standing) * (d / 2), d);
  K *k = static_cast<K *>(r.keys) + ((static_cast<long>(slot) * s.key_heads + h) * r.room + place / LANES * LANES) * d +
         place % LANES;
  for (int i = 0; i < d; i++)
    put(k + i * LANES, made[i]);
  std::memcpy(made, value, 4 * d);
  if (s.norm_value)
    unit(made, nullptr, d, s.epsilon);
  K *v = static_cast<K *>(r.values) + ((static_cast<long>(slot) * s.key_heads + h) * r.room + place) * dv;
  for (int i = 0; i < d; i++)
    put(v + i, made[i]);
}

// One head of one row: out (d_head). `q`: as projected; `scores`: room for the keys of all reads.
template <class K>
void attend(const Sublayer &s, const Call &c, int row, int h, const float *q, float *scores, float *out, int far) {
  const int d = s.d_head, dv = wide(d), kh = h / (s.heads / s.key_heads), slot = c.slot[row];
  float query[1024];
  std::memcpy(query, q, 4 * d);
  if (s.norm_query_key)
    unit(query, s.query_weight, d, s.epsilon);
  if (s.cosines) {
    const long at = static_cast<long>(c.standing[row]) * (d / 2);
    turn(query, s.cosines + at, s.sines + at, d);
  }
  for (int i = 0; i < d; i++)
    query[i] *= s.scale;
  const float none = -INFINITY;
  v16 most = all(none);
  long offset[2] = {0, 0}, low[2] = {0, 0}, high[2] = {0, 0}, used = 0;
  for (int r = 0; r < s.reads; r++) {
    const Read &read = s.read[r];
    const Mask &mask = c.mask[read.mask];
    const int32_t *stretch = mask.stretch + (static_cast<long>(row) * mask.heads + (mask.heads > 1 ? h : 0)) * mask.count * 2;
    long first = -1, last = 0;
    for (int i = 0; i < mask.count; i++)
      if (stretch[2 * i] < stretch[2 * i + 1]) {
        first = first < 0 ? stretch[2 * i] : first;
        last = stretch[2 * i + 1];
      }
    if (first < 0)
      continue;
    first = first / LANES * LANES;
    last = (last + LANES - 1) / LANES * LANES;
    offset[r] = used - first;
    low[r] = first;
    high[r] = last;
    float *here = scores + offset[r];
    for (long j = first; j < last; j += LANES)
      store(here + j, all(none));
    const K *keys = static_cast<const K *>(read.keys) + (static_cast<long>(slot) * s.key_heads + kh) * read.room * d;
    const int32_t *stands =
        read.own ? c.own_standing + static_cast<long>(slot) * c.own_room : c.read_standing + static_cast<long>(slot) * c.read_room;
    for (int i = 0; i < mask.count; i++) {
      const long f = stretch[2 * i], e = stretch[2 * i + 1];
      if (f >= e)
        continue;
      for (long j = f / LANES * LANES; j < e; j += LANES) {
        const K *k = keys + j * d;
        v16 a{}, b{}, g{}, t{};
        int n = 0;
        for (; n + 4 <= d; n += 4) {
          a += get(k + n * LANES) * query[n];
          b += get(k + (n + 1) * LANES) * query[n + 1];
          g += get(k + (n + 2) * LANES) * query[n + 2];
          t += get(k + (n + 3) * LANES) * query[n + 3];
        }
        for (; n < d; n++)
          a += get(k + n * LANES) * query[n];
        v16 score = (a + b) + (g + t);
        if (s.soft_cap > 0)
          score = s.soft_cap * tangent(score / s.soft_cap);
        if (read.bias) {
          const float *bias = read.bias + static_cast<long>(h) * (2 * far + 1) + far - c.standing[row];
          for (int x = 0; x < LANES; x++)
            if (j + x >= f && j + x < e)
              score[x] += bias[stands[j + x]];
        }
        if (j < f || j + LANES > e) {
          for (int x = 0; x < LANES; x++)
            if (j + x >= f && j + x < e)
              here[j + x] = score[x];
          score = load(here + j);
        } else {
          store(here + j, score);
        }
        most = score > most ? score : most;
      }
    }
    used += last - first;
  }
  float top = none;
  for (int x = 0; x < LANES; x++)
    top = most[x] > top ? most[x] : top;
  if (top == none) {  // a query that sees nothing gets zeros
    std::memset(out, 0, 4 * d);
    return;
  }
  v16 whole{};
  for (long j = 0; j < used; j += LANES) {
    const v16 score = load(scores + j);
    const v16 p = score > -1e30f ? exponential(score - top) : v16{};
    store(scores + j, p);
    whole += p;
  }
  const float by = 1.0f / sum(whole);
  for (int n = 0; n < dv; n += 4 * LANES) {
    const int vectors = (dv - n) / LANES < 4 ? (dv - n) / LANES : 4;
    v16 acc[4] = {};
    for (int r = 0; r < s.reads; r++) {
      const Read &read = s.read[r];
      const K *values =
          static_cast<const K *>(read.values) + (static_cast<long>(slot) * s.key_heads + kh) * read.room * dv + n;
      const float *p = scores + offset[r];
      if (vectors == 4) {
        for (long j = low[r]; j < high[r]; j++) {
          const K *v = values + j * dv;
          acc[0] += p[j] * get(v);
          acc[1] += p[j] * get(v + LANES);
          acc[2] += p[j] * get(v + 2 * LANES);
          acc[3] += p[j] * get(v + 3 * LANES);
        }
      } else {
        for (long j = low[r]; j < high[r]; j++)
          for (int x = 0; x < vectors; x++)
            acc[x] += p[j] * get(values + j * dv + x * LANES);
      }
    }
    for (int x = 0; x < vectors; x++)
      spill(out + n + x * LANES, acc[x] * by, d - n - x * LANES, false);
  }
}

// --- the stream -----------------------------------------------------------------------------------------------

struct Space {  // memory that stays between calls of a thread of the program
  char *at = nullptr;
  size_t size = 0;
  ~Space() { std::free(at); }
  char *take(size_t wanted) {
    if (wanted > size) {
      std::free(at);
      size = wanted + wanted / 4;
      at = static_cast<char *>(std::aligned_alloc(64, (size + 63) / 64 * 64));
    }
    return at;
  }
};

inline size_t round_up(size_t bytes) { return (bytes + 63) / 64 * 64; }

template <int T> int stream_of(const Stream &s, const Call &c) {
  typedef typename Types<T>::Activation A;
  typedef typename Types<T>::Kept K;
  static thread_local Space space;
  const int d = s.d_model, rows = c.rows, threads = c.threads;
  long widest = d, projected = 0, states = 0, kept = 0, states_width = 0;
  for (int l = 0; l < s.layers; l++) {
    const Layer &layer = s.layer[l];
    widest = layer.d_ff > widest ? layer.d_ff : widest;
    for (int i = 0; i < layer.sublayers; i++) {
      const Sublayer &sub = layer.sublayer[i];
      const long queries = static_cast<long>(sub.heads) * sub.d_head;
      widest = queries > widest ? queries : widest;
      projected = sub.query.n > projected ? sub.query.n : projected;
      states = sub.key_value.n > states ? sub.key_value.n : states;
      long there = 0;
      for (int r = 0; r < sub.reads; r++) {
        there += sub.read[r].room + LANES;
        if (!sub.read[r].own)
          states_width = sub.key_value.k;
      }
      kept = there > kept ? there : kept;
    }
  }
  const long stride = padded(widest) + 2;
  const size_t activation = round_up(sizeof(A) * stride * (rows > c.state_rows ? rows : c.state_rows));
  const size_t sizes[] = {
      activation * (rows < ALONE ? threads + 1 : 2), round_up(4 * projected * rows), round_up(4 * states * c.state_rows),
      round_up(4 * widest * rows), round_up(4 * (kept + LANES)) * threads, activation};
  size_t starts[7] = {0};
  for (int i = 0; i < 6; i++)
    starts[i + 1] = starts[i] + sizes[i];
  char *memory = space.take(starts[6]);
  if (memory == nullptr)
    return 1;
  A *const mine_first = reinterpret_cast<A *>(memory), *const inner = reinterpret_cast<A *>(memory + starts[5]);
  float *const qkv = reinterpret_cast<float *>(memory + starts[1]), *const kv = reinterpret_cast<float *>(memory + starts[2]),
               *const made = reinterpret_cast<float *>(memory + starts[3]);
  std::memset(memory, 0, starts[1]);  // bf16's odd component, which stays 0
  std::memset(inner, 0, sizes[5]);

#pragma omp parallel num_threads(threads)
  {
    const int thread = omp_get_thread_num();
    const bool alone = rows < ALONE;
    A *const mine = alone ? reinterpret_cast<A *>(reinterpret_cast<char *>(mine_first) + activation * thread) : mine_first;
    A *const fed = reinterpret_cast<A *>(reinterpret_cast<char *>(mine_first) + activation * (alone ? threads : 1));
    float *const scores = reinterpret_cast<float *>(memory + starts[4] + sizes[4] / threads * thread);
    const int begin = alone ? 0 : static_cast<long>(rows) * thread / threads;
    const int end = alone ? rows : static_cast<long>(rows) * (thread + 1) / threads;
    // Rows of `from` as they go into a product: by each thread for itself, or by all for all.
    auto prepare = [&](const Norm &norm, const float *from, long across, int n) {
      for (int r = begin; r < end; r++)
        normed(norm, from + r * across, mine + r * stride, n);
      if (!alone) {
#pragma omp barrier
      }
    };
    const Norm nothing = {};
    // x takes up what a sublayer made: added already, or after a norm of its own.
    auto settle = [&](const Norm &after) {
      if (s.place == BEFORE)
        return;
      const int from = static_cast<long>(rows) * thread / threads, to = static_cast<long>(rows) * (thread + 1) / threads;
      for (int r = from; r < to; r++) {
        float *x = c.x + static_cast<long>(r) * d, *y = made + static_cast<long>(r) * widest;
        if (s.place == BOTH)
          normed(after, y, y, d);
        for (int i = 0; i < d; i++)
          x[i] += y[i];
        if (s.place == AFTER)
          normed(after, x, x, d);
      }
#pragma omp barrier
    };
    auto residual = [&](const Matrix &m, const A *from, long across) {
      if (s.place == BEFORE)
        product<T>(m, from, across, rows, c.x, d, true, thread, threads);
      else
        product<T>(m, from, across, rows, made, widest, false, thread, threads);
#pragma omp barrier
    };
    for (int l = 0; l < s.layers; l++) {
      const Layer &layer = s.layer[l];
      for (int i = 0; i < layer.sublayers; i++) {
        const Sublayer &sub = layer.sublayer[i];
        const int dh = sub.d_head, queries = sub.heads * dh, width = sub.key_heads * dh;
        bool reads_states = false;
        for (int r = 0; r < sub.reads; r++)
          reads_states |= !sub.read[r].own && c.state_rows > 0;
        if (reads_states) {
          for (int r = static_cast<long>(c.state_rows) * thread / threads;
               r < static_cast<long>(c.state_rows) * (thread + 1) / threads; r++)
            normed(nothing, c.states + static_cast<long>(r) * states_width, inner + r * stride, sub.key_value.k);
#pragma omp barrier
          product<T>(sub.key_value, inner, stride, c.state_rows, kv, 2 * width, false, thread, threads);
        }
        prepare(s.place == AFTER ? nothing : sub.before, c.x, d, d);
        product<T>(sub.query, mine, stride, rows, qkv, sub.query.n, false, thread, threads);
#pragma omp barrier
        for (int r = 0; r < sub.reads; r++) {
          const Read &read = sub.read[r];
          const int count = (read.own ? rows : c.state_rows) * sub.key_heads;
          if (read.own && !sub.fused)
            continue;
          for (int j = static_cast<long>(count) * thread / threads; j < static_cast<long>(count) * (thread + 1) / threads; j++) {
            const int row = j / sub.key_heads, h = j % sub.key_heads;
            const float *k = read.own ? qkv + static_cast<long>(row) * sub.query.n + queries : kv + static_cast<long>(row) * 2 * width;
            const int slot = read.own ? c.slot[row] : c.state_slot[row], place = read.own ? c.place[row] : c.state_place[row];
            const int standing = read.own ? c.standing[row] : c.state_standing[row];
            keep<K>(sub, read, k + h * dh, k + width + h * dh, slot, place, standing, h);
          }
        }
#pragma omp barrier
        // Later rows see more keys: rows are dealt in turn, so that threads have equal shares.
        for (int j = thread; j < rows * sub.heads; j += threads) {
          const int row = j / sub.heads, h = j % sub.heads;
          attend<K>(sub, c, row, h, qkv + static_cast<long>(row) * sub.query.n + h * dh, scores,
                    made + static_cast<long>(row) * widest + h * dh, s.far);
        }
#pragma omp barrier
        if (sub.norm_output) {
          if (alone) {
            for (int r = 0; r < rows; r++) {
              const float *from = made + static_cast<long>(r) * widest;
              const float by = 1.0f / std::sqrt(dot(from, from, queries) / queries + sub.epsilon);
              for (int x = 0; x < queries; x++)
                put(mine + r * stride + x, from[x] * by);
            }
          } else {
            for (int r = begin; r < end; r++)
              unit(made + static_cast<long>(r) * widest, nullptr, queries, sub.epsilon);
            prepare(nothing, made, widest, queries);
          }
        } else {
          prepare(nothing, made, widest, queries);
        }
        if (s.place != BEFORE) {  // `made` is about to be overwritten by others
#pragma omp barrier
        }
        residual(sub.out, mine, stride);
        settle(sub.after);
      }
      prepare(s.place == AFTER ? nothing : layer.before, c.x, d, d);
      hidden<T>(layer, mine, stride, rows, fed, stride, thread, threads);
#pragma omp barrier
      residual(layer.down, fed, stride);
      settle(layer.after);
    }
    if (s.final.there)
      for (int r = static_cast<long>(rows) * thread / threads; r < static_cast<long>(rows) * (thread + 1) / threads; r++)
        normed(s.final, c.x + static_cast<long>(r) * d, c.x + static_cast<long>(r) * d, d);
  }
  return 0;
}

template <int T> int head_of(const Head &head, const float *h, int rows, float *logits, int threads) {
  typedef typename Types<T>::Activation A;
  static thread_local Space space;
  const int d = head.matrix.k, from = head.transformed ? head.transform.k : d;
  const long stride = padded(d > from ? d : from) + 2;
  const size_t activation = round_up(sizeof(A) * stride * rows);
  char *memory = space.take(2 * activation + round_up(4L * d * rows));
  if (memory == nullptr)
    return 1;
  std::memset(memory, 0, 2 * activation);
  A *const first = reinterpret_cast<A *>(memory), *const second = reinterpret_cast<A *>(memory + activation);
  float *const made = reinterpret_cast<float *>(memory + 2 * activation);
  const Norm nothing = {};
  for (int r = 0; r < rows; r++)
    normed(nothing, h + static_cast<long>(r) * from, first + r * stride, from);
#pragma omp parallel num_threads(threads)
  {
    const int thread = omp_get_thread_num();
    if (head.transformed) {
      product<T>(head.transform, first, stride, rows, made, d, false, thread, threads);
#pragma omp barrier
#pragma omp single
      for (int r = 0; r < rows; r++) {
        float *x = made + static_cast<long>(r) * d;
        for (int i = 0; i < d; i++)
          x[i] = 0.5f * x[i] * (1.0f + std::erf(x[i] * 0.70710678f));
        normed(head.norm, x, second + r * stride, d);
      }
    }
    const Matrix &m = head.matrix;
    product<T>(m, head.transformed ? second : first, stride, rows, logits, m.n, false, thread, threads);
  }
  if (head.scale != 1.0f || head.soft_cap > 0)
    for (long i = 0; i < static_cast<long>(rows) * head.matrix.n; i++) {
      logits[i] *= head.scale;
      if (head.soft_cap > 0)
        logits[i] = head.soft_cap * std::tanh(logits[i] / head.soft_cap);
    }
  return 0;
}

}  // namespace

extern "C" {

// Sizes of the structs, for the caller to compare with its own.
void layout(int32_t *sizes) {
  const size_t found[] = {sizeof(Norm), sizeof(Matrix), sizeof(Read), sizeof(Sublayer), sizeof(Layer),
                          sizeof(Stream), sizeof(Mask), sizeof(Call), sizeof(Head)};
  for (int i = 0; i < 9; i++)
    sizes[i] = static_cast<int32_t>(found[i]);
}

// 0, or 1 without memory.
int run_stream(const Stream *s, const Call *c) {
  return c->type == F32 ? stream_of<F32>(*s, *c) : c->type == BF16 ? stream_of<BF16>(*s, *c) : stream_of<INT8>(*s, *c);
}

int run_head(const Head *head, const float *h, int rows, float *logits, int threads, int type) {
  return type == F32    ? head_of<F32>(*head, h, rows, logits, threads)
         : type == BF16 ? head_of<BF16>(*head, h, rows, logits, threads)
                        : head_of<INT8>(*head, h, rows, logits, threads);
}
}

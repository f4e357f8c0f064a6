// Attention of rows to the keys and values that their slots keep. A row's numbers are added up in one order, whether it
// goes alone or with others.

#pragma once

#include <algorithm>

#include "numbers.h"

namespace {

constexpr int TOGETHER = 4;   // rows of one slot that read its keys and values together
constexpr int WIDEST = 1024;  // components of a head

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
  float made[WIDEST];
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

// A row while one of its heads is worked out. scores: from `low` to `high` of each read, `offset` before place 0.
struct Row {
  float query[WIDEST];
  const int32_t *stretch[2];
  float *scores;
  long offset[2], low[2], high[2], used;
  int standing;
  v16 most;
  float by;  // 1 / the sum of its weights, or 0 where it sees nothing
};

// `q`: as projected; `scores`: room for the keys of all reads.
inline void begin(Row &w, const Sublayer &s, const Call &c, int row, int h, const float *q, float *scores) {
  const int d = s.d_head;
  std::memcpy(w.query, q, 4 * d);
  if (s.norm_query_key)
    unit(w.query, s.query_weight, d, s.epsilon);
  if (s.cosines) {
    const long at = static_cast<long>(c.standing[row]) * (d / 2);
    turn(w.query, s.cosines + at, s.sines + at, d);
  }
  for (int i = 0; i < d; i++)
    w.query[i] *= s.scale;
  w.scores = scores;
  w.used = 0;
  w.standing = c.standing[row];
  w.most = all(-INFINITY);
  for (int r = 0; r < s.reads; r++) {
    const Mask &mask = c.mask[s.read[r].mask];
    const int32_t *stretch = mask.stretch + (static_cast<long>(row) * mask.heads + (mask.heads > 1 ? h : 0)) * mask.count * 2;
    long first = -1, last = 0;
    for (int i = 0; i < mask.count; i++)
      if (stretch[2 * i] < stretch[2 * i + 1]) {
        first = first < 0 ? stretch[2 * i] : first;
        last = stretch[2 * i + 1];
      }
    w.stretch[r] = stretch;
    w.offset[r] = w.low[r] = w.high[r] = 0;
    if (first < 0)
      continue;
    w.low[r] = first / LANES * LANES;
    w.high[r] = (last + LANES - 1) / LANES * LANES;
    w.offset[r] = w.used - w.low[r];
    for (long j = w.low[r]; j < w.high[r]; j += LANES)
      store(scores + w.offset[r] + j, all(-INFINITY));
    w.used += w.high[r] - w.low[r];
  }
}

inline bool sees(const int32_t *stretch, int count, long j) {
  for (int i = 0; i < count; i++)
    if (std::max<long>(stretch[2 * i], j) < std::min<long>(stretch[2 * i + 1], j + LANES))
      return true;
  return false;
}

// The scores of R queries with sixteen keys.
template <class K, int R> inline void score(const K *keys, int d, const Row *rows, v16 (&found)[R]) {
  v16 part[R][4];
  for (int r = 0; r < R; r++)
    part[r][0] = part[r][1] = part[r][2] = part[r][3] = v16{};
  int n = 0;
  for (; n + 4 <= d; n += 4)
    for (int x = 0; x < 4; x++) {
      const v16 key = get(keys + (n + x) * LANES);
      for (int r = 0; r < R; r++)
        part[r][x] += key * rows[r].query[n + x];
    }
  for (; n < d; n++) {
    const v16 key = get(keys + n * LANES);
    for (int r = 0; r < R; r++)
      part[r][0] += key * rows[r].query[n];
  }
  for (int r = 0; r < R; r++)
    found[r] = (part[r][0] + part[r][1]) + (part[r][2] + part[r][3]);
}

// Keep the scores of places j to j + 15, those that the row sees. `bias`: by a key's standing, or null.
inline void take(Row &w, int r, long j, v16 found, int count, float soft_cap, const float *bias, const int32_t *stands) {
  if (soft_cap > 0)
    found = soft_cap * tangent(found / soft_cap);
  float *here = w.scores + w.offset[r] + j;
  for (int i = 0; i < count; i++) {
    const long f = std::max<long>(w.stretch[r][2 * i] - j, 0), e = std::min<long>(w.stretch[r][2 * i + 1] - j, LANES);
    if (!bias && f == 0 && e == LANES)
      store(here, found);
    else
      for (long x = f; x < e; x++)
        here[x] = bias ? found[x] + bias[stands[j + x] - w.standing] : found[x];
  }
  const v16 kept = load(here);
  w.most = kept > w.most ? kept : w.most;
}

// From scores to weights that are still to be multiplied by `by`.
inline void soften(Row &w) {
  float top = -INFINITY;
  for (int x = 0; x < LANES; x++)
    top = w.most[x] > top ? w.most[x] : top;
  w.by = 0;
  if (top == -INFINITY) {  // a query that sees nothing gets zeros
    w.high[0] = w.low[0] = w.high[1] = w.low[1] = 0;
    return;
  }
  v16 whole{};
  for (long j = 0; j < w.used; j += LANES) {
    const v16 found = load(w.scores + j);
    const v16 p = found > -1e30f ? exponential(found - top) : v16{};
    store(w.scores + j, p);
    whole += p;
  }
  w.by = 1.0f / sum(whole);
}

// Values of places `from` to `to`, weighed by R rows, their V vectors beginning at `values`.
template <class K, int R, int V>
inline void add(const K *values, int dv, const Row *rows, int r, long from, long to, v16 (&acc)[R][V]) {
  const float *p[R];
  for (int w = 0; w < R; w++)
    p[w] = rows[w].scores + rows[w].offset[r];
  for (long j = from; j < to; j++)
    for (int x = 0; x < V; x++) {
      const v16 value = get(values + j * dv + x * LANES);
      for (int w = 0; w < R; w++)
        acc[w][x] += p[w][j] * value;
    }
}

template <class K, int R, int V>
inline void weigh(const Sublayer &s, const Row *rows, long head, int n, float *out, long across) {
  const int dv = wide(s.d_head);
  v16 acc[R][V];
  for (int w = 0; w < R; w++)
    for (int x = 0; x < V; x++)
      acc[w][x] = v16{};
  for (int r = 0; r < s.reads; r++) {
    const K *values = static_cast<const K *>(s.read[r].values) + head * s.read[r].room * dv + n;
    long from = rows[0].low[r], to = rows[0].high[r];
    for (int w = 1; w < R; w++) {
      from = std::max(from, rows[w].low[r]);
      to = std::min(to, rows[w].high[r]);
    }
    to = std::max(from, to);
    auto alone = [&](int w, long first, long last) {
      v16 own[1][V];
      for (int x = 0; x < V; x++)
        own[0][x] = acc[w][x];
      add<K, 1, V>(values, dv, rows + w, r, first, last, own);
      for (int x = 0; x < V; x++)
        acc[w][x] = own[0][x];
    };
    for (int w = 0; w < R; w++)
      alone(w, rows[w].low[r], std::min(from, rows[w].high[r]));
    add<K, R, V>(values, dv, rows, r, from, to, acc);
    for (int w = 0; w < R; w++)
      alone(w, std::max(to, rows[w].low[r]), rows[w].high[r]);
  }
  for (int w = 0; w < R; w++)
    for (int x = 0; x < V; x++)
      spill(out + w * across + n + x * LANES, acc[w][x] * rows[w].by, s.d_head - n - x * LANES, false);
}

// One head of R rows of one slot, from `row` on: queries `stride` apart as projected, out `across` apart. `scores`: room
// for the keys of all reads, R times.
template <class K, int R>
void attend(const Sublayer &s, const Call &c, int row, int h, const float *q, long stride, float *scores, long room, float *out,
            long across, int far) {
  const int d = s.d_head, slot = c.slot[row];
  const long head = static_cast<long>(slot) * s.key_heads + h / (s.heads / s.key_heads);
  Row rows[R];
  for (int w = 0; w < R; w++)
    begin(rows[w], s, c, row + w, h, q + w * stride, scores + w * room);
  for (int r = 0; r < s.reads; r++) {
    const Read &read = s.read[r];
    const int count = c.mask[read.mask].count;
    const K *keys = static_cast<const K *>(read.keys) + head * read.room * d;
    const int32_t *stands =
        read.own ? c.own_standing + static_cast<long>(slot) * c.own_room : c.read_standing + static_cast<long>(slot) * c.read_room;
    const float *bias = read.bias ? read.bias + static_cast<long>(h) * (2 * far + 1) + far : nullptr;
    long from = rows[0].low[r], to = rows[0].high[r];
    for (int w = 1; w < R; w++)
      if (rows[w].low[r] < rows[w].high[r]) {
        from = from < to ? std::min(from, rows[w].low[r]) : rows[w].low[r];
        to = std::max(to, rows[w].high[r]);
      }
    for (long j = from; j < to; j += LANES) {
      bool seen[R], some = false;
      for (int w = 0; w < R; w++)
        some |= seen[w] = sees(rows[w].stretch[r], count, j);
      if (!some)
        continue;
      v16 found[R];
      score<K, R>(keys + j * d, d, rows, found);
      for (int w = 0; w < R; w++)
        if (seen[w])
          take(rows[w], r, j, found[w], count, s.soft_cap, bias, stands);
    }
  }
  for (int w = 0; w < R; w++)
    soften(rows[w]);
  const int vectors = wide(d) / LANES;
  int n = 0;
  for (; n + 4 <= vectors; n += 4)
    weigh<K, R, 4>(s, rows, head, n * LANES, out, across);
  for (; n + 2 <= vectors; n += 2)
    weigh<K, R, 2>(s, rows, head, n * LANES, out, across);
  if (n < vectors)
    weigh<K, R, 1>(s, rows, head, n * LANES, out, across);
}

}  // namespace

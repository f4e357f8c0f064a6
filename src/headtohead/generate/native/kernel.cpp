// One stream of a network over new tokens of some slots, with their keys and values kept in place: what `plan.py`
// describes and `runner.py` calls. Softmax attention only.
//
// A row is one new token. Every number of a row is computed in an order that does not depend on the other rows, so a
// row's result is the same, to the bit, alone and in a batch. Weights lie in panels of 32 outputs, read from beginning to
// end; sums, norms, softmax and the residual are in fp32.

#include <cstdlib>
#include <omp.h>

#include "attention.h"
#include "products.h"

namespace {

constexpr int ALONE = 8;  // fewer rows than this are normed by each thread

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
  const int group = rows >= TOGETHER && c.slot[0] == c.slot[rows - 1] ? TOGETHER : 1;
  const long room = (kept + 2 * LANES) / LANES * LANES;  // of the scores of one row
  const long stride = padded(widest) + 2;
  const size_t activation = round_up(sizeof(A) * stride * (rows > c.state_rows ? rows : c.state_rows));
  const size_t sizes[] = {
      activation * (rows < ALONE ? threads + 1 : 2), round_up(4 * projected * rows), round_up(4 * states * c.state_rows),
      round_up(4 * widest * rows), 4 * room * group * threads, activation};
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
        for (int j = thread; j < (rows + group - 1) / group * sub.heads; j += threads) {
          const int h = j % sub.heads;
          for (int row = j / sub.heads * group, last = row + group < rows ? row + group : rows; row < last;) {
            const float *q = qkv + static_cast<long>(row) * sub.query.n + h * dh;
            float *out = made + static_cast<long>(row) * widest + h * dh;
            if (row + TOGETHER <= last) {
              attend<K, TOGETHER>(sub, c, row, h, q, sub.query.n, scores, room, out, widest, s.far);
              row += TOGETHER;
            } else {
              attend<K, 1>(sub, c, row, h, q, sub.query.n, scores, room, out, widest, s.far);
              row++;
            }
          }
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

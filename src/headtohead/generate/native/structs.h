// What `structs.py` lays out in memory for the kernel: a network's plan, and one call.

#pragma once

#include <cstdint>

enum { F32 = 0, BF16 = 1, INT8 = 2 };
enum { BEFORE = 0, AFTER = 1, BOTH = 2 };
enum { SILU = 0, GELU = 1, GELU_TANH = 2, RELU = 3, RELU2 = 4 };

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

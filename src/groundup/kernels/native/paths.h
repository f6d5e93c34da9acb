// What a path (one instruction set's way to multiply) is given and gives. Everything here is plain C++17.
//
// Weights lie in tiles of 16 outputs, so that one load feeds 16 sums. A code is kept unsigned and means (code - zero):
//
//   kind   zero  a group of 32 inputs of a tile                                      a tile's scales
//   q8_0   128   8 x [16 outputs][4 inputs] bytes                                    a group: 16 float16 d
//   q4_0   8     4 x [16 outputs][4 inputs] bytes, inputs 0-15 low, 16-31 high       a group: 16 float16 d
//   q4_1   0     the same                                                            a group: 16 float16 d, 16 float16 m
//   int8   128   as q8_0                                                             16 float32
//
// All codes come first, [tile][group], then all scales. An output is  sum over groups  d * s * (sum of (code - zero) * x) + m * s * (sum of x)
// with x the rounded inputs of the group (int8) and s their scale.
#pragma once
#include <cstddef>
#include <cstdint>

#include "plan.h"

enum Kind { Q8_0, Q4_0, Q4_1, INT8 };

constexpr long GROUP = 32, TILE = 16;

constexpr bool four(int kind) { return kind == Q4_0 || kind == Q4_1; }
constexpr int zero_shift(int kind) { return kind == Q4_0 ? 3 : kind == Q4_1 ? -1 : 7; }  // zero is 1 << shift, or none
constexpr long code_bytes(int kind) { return four(kind) ? TILE * GROUP / 2 : TILE * GROUP; }
constexpr long scale_bytes(int kind) { return kind == INT8 ? 0 : kind == Q4_1 ? 4 * TILE : 2 * TILE; }  // of a group

struct Weights {
  const uint8_t *codes, *scales;
  long inputs, outputs, groups, tiles;
  int kind;
  Weights(int kind, const uint8_t* packed, long inputs, long outputs)
      : codes(packed), inputs(inputs), outputs(outputs), groups((inputs + GROUP - 1) / GROUP),
        tiles((outputs + TILE - 1) / TILE), kind(kind) {
    scales = packed + tiles * groups * code_bytes(kind);
  }
};

// Rounded inputs of `count` rows, in blocks of `block` rows (the last may have fewer): within a block of n rows
// [group][n][32] codes, and [group][n] of each of the others.
struct Rows {
  int8_t* codes;
  float* scale;    // absmax / 127
  int32_t* minus;  // the sum of a group's codes, negated
  float* lift;     // scale times the sum
  long count, groups;
  int block;
  long first(long row) const { return row / block * block; }
  long in_block(long row) const { return count - first(row) < block ? count - first(row) : block; }
};

struct Path {
  const char* name;
  int block;  // rows that one pass over a tile serves
  bool (*here)();
  // rounds the rows [first, last) of x [count, inputs]
  void (*round)(const Rows&, const float* x, long inputs, long first, long last);
  // the outputs of the tiles [first, last) for all rows: a thread's share; y [count, outputs]; bias may be null
  void (*product)(const Weights&, const Rows&, const float* bias, float* y, long first, long last);
  // this thread's share of some operations of a plan
  void (*step)(const Op* ops, long count, const Call&, Gang&);
};

// A group whose largest number is below this counts as zeros: 127 divided by it would be infinite.
constexpr float SMALLEST = 7.8886090522101181e-31f;  // 2^-100

inline float scale_of(uint32_t largest_bits, float largest) {
  return largest_bits >= 0x7f800000u ? __builtin_nanf("") : largest < SMALLEST ? 0.0f : largest / 127.0f;
}
inline float inverse_of(uint32_t largest_bits, float largest) {
  return largest_bits >= 0x7f800000u || largest < SMALLEST ? 0.0f : 127.0f / largest;
}

inline float number_of(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000u) << 16, rest = half & 0x7fffu;
  uint32_t bits = sign | ((rest << 13) + ((127 - 15) << 23));
  if (rest >= 0x7c00u) bits = sign | 0x7f800000u | (rest & 0x3ffu) << 13;  // infinite, or no number
  float f;
  __builtin_memcpy(&f, &bits, 4);
  return rest < 0x400u ? float(rest) * 0x1p-24f * (sign ? -1.0f : 1.0f) : f;  // subnormal
}

extern const Path portable, avx2, avxvnni, avx512, neon, dotprod;

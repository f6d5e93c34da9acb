// A plan: the operations of one step of a decoder, for one token of each of some rows. Built in Python (kernels/plan.py).
#pragma once
#include <cstddef>
#include <cstdint>
#include <new>

#include "pool.h"

enum Code : int32_t { RMS_NORM, LAYER_NORM, PRODUCT, DENSE, LOW_RANK, STRETCH, ACTIVATE, GATE, ADD, CAP, ATTEND };
enum Activation : int32_t { RELU, GELU, GELU_TANH, QUICK_GELU, SILU, TANH, SIGMOID };
enum Format : int32_t { FLOAT32, BFLOAT16 };

// Registers hold [rows, width] float32. One at `r` begins r · rows numbers behind `shared`, or ~r · rows behind the
// thread's own room where r < 0. An operation writes its thread's share of columns (whole tiles of 16); a norm, which
// reads all columns, is computed by every thread for itself.
struct Op {
  int32_t code;
  int32_t barrier;  // wait for the other threads first
  int32_t in, other, third, out;
  int32_t inputs, width;  // numbers of a row that are read, and written
  int32_t kind;           // of packed weights, a format, or an activation
  int32_t who;            // the adapter whose rows it concerns, or the number of a cache
  int32_t heads, kv_heads, head_dim, pairs;  // pairs: that turn; of LOW_RANK the rank
  int32_t table;                             // of cosines and sines, or -1
  int32_t window;                            // keys that are seen, or 0: all
  float scale, cap, eps, clip;               // cap, clip: 0 for none
  const void *p, *q, *r;
};

struct Call {
  int64_t rows;
  float *shared, *own;
  int64_t own_each;           // numbers of a thread's own room
  const int64_t *positions;   // [rows] of the tokens
  const int64_t *past;        // [rows] keys that a row holds
  const uint8_t* uses;        // [adapters, rows]
  void* const* caches;        // keys, values of each: [rows, capacity, kv_heads, head_dim]
  int64_t capacity;
  const float* const* tables;  // each [positions, 2, pairs]: cosines, then sines
  int32_t cache_format, threads;
};

class Scratch {  // memory that a thread keeps from call to call
 public:
  char* of(size_t bytes) {
    if (bytes > size) {
      free();
      at = static_cast<char*>(::operator new(bytes, std::align_val_t(64)));
      size = bytes;
    }
    return at;
  }
  float* numbers(size_t count) { return reinterpret_cast<float*>(of(count * sizeof(float))); }
  ~Scratch() { free(); }

 private:
  void free() {
    if (at) ::operator delete(at, std::align_val_t(64));
    at = nullptr;
    size = 0;
  }
  char* at = nullptr;
  size_t size = 0;
};

// The threads that run a plan together: this one's number among them, and its own memory.
struct Gang {
  int number, count;
  Barrier& barrier;
  Scratch &rounded, &scores, &local;
};

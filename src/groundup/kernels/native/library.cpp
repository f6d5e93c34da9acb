// The C functions that Python calls.
#include <algorithm>
#include <atomic>
#include <new>

#include "pack.h"
#include "paths.h"
#include "pool.h"

namespace {

const Path* const PATHS[] = {&portable, &neon, &dotprod, &avx2, &avxvnni, &avx512};  // the best last
constexpr int COUNT = sizeof PATHS / sizeof *PATHS;

constexpr long ROWS_BYTES = 512 << 10;  // rounded inputs that are held at once: they stay in the second cache
constexpr long SHARES = 8;              // pieces of work for each thread, so that a slow one holds up little

Rows rows_in(Scratch& scratch, long count, long groups, int block) {
  const long each = count * groups;
  char* at = scratch.of(each * (GROUP + 12));
  float* numbers = reinterpret_cast<float*>(at + each * GROUP);
  return {reinterpret_cast<int8_t*>(at), numbers, reinterpret_cast<int32_t*>(numbers + each), numbers + 2 * each,
          count, groups, block};
}

// Calls part(first, last) for pieces of [0, count) until all are done, on several threads.
template <class Part>
void shared_out(long count, long piece, int threads, const Part& part) {
  std::atomic<long> next{0};
  Pool::run(int(std::min<long>(threads, (count + piece - 1) / piece)), [&] {
    for (long first; (first = next.fetch_add(piece)) < count;) part(first, std::min(first + piece, count));
  });
}

}  // namespace

#define C_FUNCTION extern "C" __attribute__((visibility("default")))

// Changes whenever a function below or the packed layout does.
C_FUNCTION int groundup_version() { return 3; }

// The path's name, the best last; null behind the last one.
C_FUNCTION const char* groundup_path(int i) { return i < COUNT ? PATHS[i]->name : nullptr; }

// 0: not compiled for this sort of processor, 1: this processor cannot run it, 2: usable.
C_FUNCTION int groundup_usable(int i) { return !PATHS[i]->product ? 0 : PATHS[i]->here() ? 2 : 1; }

// The rows of a file -> packed weights.
C_FUNCTION void groundup_pack(int kind, const uint8_t* rows, const float* row_scales, uint8_t* packed, long inputs,
                              long outputs, int threads) {
  shared_out((outputs + TILE - 1) / TILE, 8, threads,
             [&](long a, long b) { pack_tiles(kind, rows, row_scales, packed, inputs, outputs, a, b); });
}

// Rows of packed weights as numbers [count, inputs].
C_FUNCTION void groundup_rows(int kind, const uint8_t* packed, const int64_t* ids, long count, float* numbers, long inputs,
                              long outputs) {
  unpack_rows(Weights(kind, packed, inputs, outputs), ids, count, numbers);
}

// y [count, outputs] = x [count, inputs] rounded, times the packed weights, plus bias (or null). 0, or 1: no memory.
C_FUNCTION int groundup_product(int path, int kind, const uint8_t* packed, const float* bias, const float* x, float* y,
                                long count, long inputs, long outputs, int threads) try {
  const Path& way = *PATHS[path];
  const Weights w(kind, packed, inputs, outputs);
  thread_local Scratch scratch;
  const long fit = std::max<long>(ROWS_BYTES / (w.groups * GROUP) / way.block, 4) * way.block;
  const long tiles = std::max<long>(1, w.tiles / (threads * SHARES));
  for (long row = 0; row < count; row += fit) {
    const long n = std::min(fit, count - row);
    const Rows rows = rows_in(scratch, n, w.groups, way.block);
    const float* from = x + row * inputs;
    float* to = y + row * outputs;
    const auto round = [&](long a, long b) { way.round(rows, from, inputs, a, b); };
    n < 4 * way.block ? round(0, n) : shared_out(n, way.block, threads, round);
    shared_out(w.tiles, tiles, threads, [&](long a, long b) { way.product(w, rows, bias, to, a, b); });
  }
  return 0;
} catch (const std::bad_alloc&) {
  return 1;
}

// Runs `count` operations of a plan on call.threads threads. 0, or 1: no memory.
C_FUNCTION int groundup_step(int path, const Op* ops, long count, const Call* call) {
  Barrier barrier;
  Pool::together(call->threads, [&](int number, int among) {
    thread_local Scratch rounded, scores, local;
    Gang gang{number, among, barrier, rounded, scores, local};
    try {
      PATHS[path]->step(ops, count, *call, gang);
    } catch (const std::bad_alloc&) {
      barrier.failed = true;
    }
  });
  return barrier.failed;
}

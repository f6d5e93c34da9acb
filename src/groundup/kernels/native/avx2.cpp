// AVX2 with FMA and float16 conversion: no product of bytes into 32 bits, so pairs are summed in 16 bits first.
#include <cmath>
#include <cstring>

#include "paths.h"

#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif

namespace {

#include "avx2.inc"

struct V : V256 {
  // Two products of an unsigned byte and a code of x fit 16 bits while the byte is at most 128; so a weight of eight
  // bits is split into its size and its sign, and the sign goes to x (whose codes never are -128).
  struct Eight { __m256i size, sign; };
  struct Four { __m256i code; };

  template <int SHIFT> static Sum start(int32_t minus) {
    if (SHIFT != 3) return _mm256_setzero_si256();  // the sign is in Eight already
    return _mm256_slli_epi32(_mm256_set1_epi32(minus), 3);
  }
  static Eight eight(const uint8_t* c) {
    const __m256i w = _mm256_xor_si256(bytes(c), _mm256_set1_epi8(-128));
    return {_mm256_abs_epi8(w), w};
  }
  static Four low(const uint8_t* c) { return {low_half(bytes(c))}; }
  static Four high(const uint8_t* c) { return {high_half(bytes(c))}; }
  static Sum add_pairs(Sum s, __m256i pairs) {
    return _mm256_add_epi32(s, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  static Sum dot(Sum s, Eight c, int32_t x) {
    return add_pairs(s, _mm256_maddubs_epi16(c.size, _mm256_sign_epi8(_mm256_set1_epi32(x), c.sign)));
  }
  static Sum dot(Sum s, Four c, int32_t x) { return add_pairs(s, _mm256_maddubs_epi16(c.code, _mm256_set1_epi32(x))); }
};

#include "product.inc"
#include "step.inc"

bool here() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"); }

}  // namespace

extern const Path avx2 = {"avx2", V::BLOCK, here, round_rows, product, step};

#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
extern const Path avx2 = {"avx2", 0, nullptr, nullptr, nullptr, nullptr};
#endif

// AVX2's vectors with the product of unsigned and signed bytes into 32 bits: processors without AVX-512.
#include <cmath>
#include <cstring>

#include "paths.h"

#if defined(__x86_64__) && (__GNUC__ >= 11 || __clang_major__ >= 12)
#include <cpuid.h>
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avxvnni"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c,avxvnni")
#endif

namespace {

#include "avx2.inc"

struct V : V256 {
  template <int SHIFT> static Sum start(int32_t minus) {
    return SHIFT < 0 ? _mm256_setzero_si256() : _mm256_slli_epi32(_mm256_set1_epi32(minus), SHIFT);
  }
  static __m256i eight(const uint8_t* c) { return bytes(c); }
  static __m256i low(const uint8_t* c) { return low_half(bytes(c)); }
  static __m256i high(const uint8_t* c) { return high_half(bytes(c)); }
  static Sum dot(Sum s, __m256i c, int32_t x) { return _mm256_dpbusd_avx_epi32(s, c, _mm256_set1_epi32(x)); }
};

#include "product.inc"
#include "step.inc"

bool here() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return avx2.here() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

}  // namespace

extern const Path avxvnni = {"avxvnni", V::BLOCK, here, round_rows, product, step};

#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
extern const Path avxvnni = {"avxvnni", 0, nullptr, nullptr, nullptr, nullptr};
#endif

// AVX-512 with VNNI: sixteen outputs a vector, products of unsigned and signed bytes into 32 bits.
#include <cmath>
#include <cstring>

#include "paths.h"

#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")
#endif

namespace {

struct V {
  static constexpr int LANES = 16, BLOCK = 8;
  using Real = __m512;
  using Sum = __m512i;

  static Real all(float v) { return _mm512_set1_ps(v); }
  static Real load(const uint8_t* from) { return _mm512_loadu_ps(from); }
  static void store(float* to, Real v) { _mm512_storeu_ps(to, v); }
  static Real real(Sum s) { return _mm512_cvtepi32_ps(s); }
  static Real product(Real a, Real b) { return _mm512_mul_ps(a, b); }
  static Real add_product(Real a, Real b, Real c) { return _mm512_fmadd_ps(a, b, c); }
  static Real half(const uint8_t* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }

  template <int SHIFT> static Sum start(int32_t minus) {
    return SHIFT < 0 ? _mm512_setzero_si512() : _mm512_slli_epi32(_mm512_set1_epi32(minus), SHIFT);
  }
  static __m512i eight(const uint8_t* c) { return _mm512_loadu_si512(c); }
  static __m512i low(const uint8_t* c) { return _mm512_and_si512(eight(c), _mm512_set1_epi8(15)); }
  static __m512i high(const uint8_t* c) {
    return _mm512_and_si512(_mm512_srli_epi16(eight(c), 4), _mm512_set1_epi8(15));
  }
  static Sum dot(Sum s, __m512i c, int32_t x) { return _mm512_dpbusd_epi32(s, c, _mm512_set1_epi32(x)); }

  static float round32(const float* x, int8_t* codes, int32_t& total) {
    const __m512 v[2] = {_mm512_loadu_ps(x), _mm512_loadu_ps(x + 16)};
    const __m512i plain = _mm512_set1_epi32(0x7fffffff);
    const __m512i most = _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(v[0]), plain),
                                          _mm512_and_si512(_mm512_castps_si512(v[1]), plain));
    const uint32_t bits = uint32_t(_mm512_reduce_max_epi32(most));
    float largest;
    std::memcpy(&largest, &bits, 4);
    const float inverse = inverse_of(bits, largest);
    __m512i q[2];
    for (int i = 0; i < 2; i++) {
      q[i] = inverse == 0.0f ? _mm512_setzero_si512()
                             : _mm512_cvtps_epi32(_mm512_mul_ps(v[i], _mm512_set1_ps(inverse)));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + 16 * i), _mm512_cvtepi32_epi8(q[i]));
    }
    total = _mm512_reduce_add_epi32(_mm512_add_epi32(q[0], q[1]));
    return scale_of(bits, largest);
  }
};

#include "product.inc"
#include "step.inc"

bool here() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
}

}  // namespace

extern const Path avx512 = {"avx512", V::BLOCK, here, round_rows, product, step};

#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
extern const Path avx512 = {"avx512", 0, nullptr, nullptr, nullptr, nullptr};
#endif

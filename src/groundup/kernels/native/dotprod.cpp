// NEON with the product of signed bytes into 32 bits (ARMv8.2 and later).
#include <cmath>
#include <cstring>

#include "paths.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif

namespace {

#include "neon.inc"

struct V : V128 {
  static Sum dot(Sum s, int8x16_t c, int32_t x) { return vdotq_s32(s, c, vreinterpretq_s8_s32(vdupq_n_s32(x))); }
};

#include "product.inc"
#include "step.inc"

bool here() {
#if defined(__linux__)
  return getauxval(AT_HWCAP) >> 20 & 1;  // HWCAP_ASIMDDP
#else
  return true;  // every processor of Apple's
#endif
}

}  // namespace

extern const Path dotprod = {"dotprod", V::BLOCK, here, round_rows, product, step};

#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
extern const Path dotprod = {"dotprod", 0, nullptr, nullptr, nullptr, nullptr};
#endif

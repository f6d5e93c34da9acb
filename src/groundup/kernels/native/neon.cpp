// NEON as every 64-bit ARM has it, and with the product of bytes into 32 bits (dotprod) in dotprod.cpp.
#include <cmath>
#include <cstring>

#include "paths.h"

#if defined(__aarch64__)
#include <arm_neon.h>

namespace {

#include "neon.inc"

struct V : V128 {
  static Sum dot(Sum s, int8x16_t c, int32_t four) {
    const int8x8_t x = vreinterpret_s8_s32(vdup_n_s32(four));
    const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(c), x)), high = vpaddlq_s16(vmull_s8(vget_high_s8(c), x));
    return vaddq_s32(s, vpaddq_s32(low, high));
  }
};

#include "product.inc"
#include "step.inc"

}  // namespace

extern const Path neon = {"neon", V::BLOCK, [] { return true; }, round_rows, product, step};
#else
extern const Path neon = {"neon", 0, nullptr, nullptr, nullptr, nullptr};
#endif

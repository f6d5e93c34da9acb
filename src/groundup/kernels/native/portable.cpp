// For any processor; the compiler makes of it what it can.
#include <cmath>
#include <cstring>

#include "paths.h"

namespace {

struct V {
  static constexpr int LANES = 16, BLOCK = 1;
  struct Real { float at[LANES]; };
  struct Sum { int32_t at[LANES]; };
  struct Codes { int16_t at[4 * LANES]; };

  static Real all(float v) { Real r; for (float& a : r.at) a = v; return r; }
  static Real load(const uint8_t* from) { Real r; std::memcpy(&r, from, sizeof r); return r; }
  static void store(float* to, Real v) { std::memcpy(to, &v, sizeof v); }
  static Real real(Sum s) { Real r; for (int i = 0; i < LANES; i++) r.at[i] = float(s.at[i]); return r; }
  static Real product(Real a, Real b) { for (int i = 0; i < LANES; i++) a.at[i] *= b.at[i]; return a; }
  static Real add_product(Real a, Real b, Real c) {
    for (int i = 0; i < LANES; i++) c.at[i] += a.at[i] * b.at[i];
    return c;
  }

  static Real half(const uint8_t* from) {
    Real r;
    for (int i = 0; i < LANES; i++) {
      uint16_t h;
      std::memcpy(&h, from + 2 * i, 2);
      r.at[i] = number_of(h);
    }
    return r;
  }

  template <int SHIFT> static Sum start(int32_t minus) {
    Sum s;
    for (int32_t& a : s.at) a = SHIFT < 0 ? 0 : minus * (1 << (SHIFT < 0 ? 0 : SHIFT));
    return s;
  }
  static Codes eight(const uint8_t* c) { Codes r; for (int i = 0; i < 64; i++) r.at[i] = c[i]; return r; }
  static Codes low(const uint8_t* c) { Codes r; for (int i = 0; i < 64; i++) r.at[i] = c[i] & 15; return r; }
  static Codes high(const uint8_t* c) { Codes r; for (int i = 0; i < 64; i++) r.at[i] = c[i] >> 4; return r; }
  static Sum dot(Sum s, const Codes& c, int32_t four) {
    int8_t x[4];
    std::memcpy(x, &four, 4);
    for (int i = 0; i < LANES; i++)
      s.at[i] += c.at[4 * i] * x[0] + c.at[4 * i + 1] * x[1] + c.at[4 * i + 2] * x[2] + c.at[4 * i + 3] * x[3];
    return s;
  }

  static float round32(const float* x, int8_t* codes, int32_t& total) {
    uint32_t most = 0;
    for (int i = 0; i < 32; i++) {
      uint32_t bits;
      std::memcpy(&bits, x + i, 4);
      bits &= 0x7fffffffu;
      most = bits > most ? bits : most;
    }
    float largest;
    std::memcpy(&largest, &most, 4);
    const float inverse = inverse_of(most, largest);
    for (int i = 0; i < 32; i++) {
      codes[i] = inverse == 0.0f ? 0 : int8_t(std::lrint(x[i] * inverse));
      total += codes[i];
    }
    return scale_of(most, largest);
  }
};

#include "product.inc"
#include "step.inc"

}  // namespace

extern const Path portable = {"portable", V::BLOCK, [] { return true; }, round_rows, product, step};

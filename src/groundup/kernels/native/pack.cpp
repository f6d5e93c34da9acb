// From the rows of a file (GGUF's blocks, or int8 codes with a scale for each row) to tiles; see paths.h for both ends.
#include "pack.h"

#include <algorithm>
#include <cstring>

namespace {

// Byte `i` of an output's codes in a group -> where it lies in the tile.
inline long place(long output, long i) { return i / 4 * 64 + output * 4 + i % 4; }

struct Tile {
  uint8_t *codes, *scales;
};

void group_of_block(int kind, const uint8_t* block, long output, Tile to) {
  const long numbers = kind == Q4_1 ? 4 : 2;  // bytes of d, or of d and m
  std::memcpy(to.scales + 2 * output, block, 2);
  if (kind == Q4_1) std::memcpy(to.scales + 2 * TILE + 2 * output, block + 2, 2);
  const uint8_t* codes = block + numbers;
  for (long i = 0; i < (four(kind) ? GROUP / 2 : GROUP); i++) to.codes[place(output, i)] = kind == Q8_0 ? codes[i] ^ 128 : codes[i];
}

}  // namespace

void pack_tiles(int kind, const uint8_t* rows, const float* row_scales, uint8_t* packed, long inputs, long outputs, long first,
                long last) {
  const Weights w(kind, packed, inputs, outputs);
  const long block = (kind == Q4_1 ? 4 : 2) + (four(kind) ? GROUP / 2 : GROUP);
  const uint8_t nothing = kind == Q8_0 || kind == INT8 ? 128 : kind == Q4_0 ? 0x88 : 0;
  for (long tile = first; tile < last; tile++) {
    uint8_t* scales = const_cast<uint8_t*>(w.scales) + tile * (kind == INT8 ? 4 * TILE : w.groups * scale_bytes(kind));
    uint8_t* codes = packed + tile * w.groups * code_bytes(kind);
    const long wide = std::min(TILE, outputs - tile * TILE);
    if (wide < TILE || kind == INT8) {
      std::memset(codes, nothing, w.groups * code_bytes(kind));
      std::memset(scales, 0, kind == INT8 ? 4 * TILE : w.groups * scale_bytes(kind));
    }
    if (kind == INT8) std::memcpy(scales, row_scales + tile * TILE, wide * sizeof(float));
    for (long g = 0; g < w.groups; g++) {
      const Tile to{codes + g * code_bytes(kind), scales + g * scale_bytes(kind)};
      for (long o = 0; o < wide; o++) {
        const long row = tile * TILE + o;
        if (kind == INT8) {
          const uint8_t* from = rows + row * inputs + g * GROUP;
          for (long i = 0; i < std::min(GROUP, inputs - g * GROUP); i++) to.codes[place(o, i)] = from[i] ^ 128;
        } else {
          group_of_block(kind, rows + (row * w.groups + g) * block, o, to);
        }
      }
    }
  }
}

void unpack_rows(const Weights& w, const int64_t* ids, long count, float* numbers) {
  const int zero = zero_shift(w.kind) < 0 ? 0 : 1 << zero_shift(w.kind);
  for (long n = 0; n < count; n++) {
    const long tile = ids[n] / TILE, output = ids[n] % TILE;
    const uint8_t* codes = w.codes + tile * w.groups * code_bytes(w.kind);
    const uint8_t* scales = w.scales + tile * (w.kind == INT8 ? 4 * TILE : w.groups * scale_bytes(w.kind));
    for (long g = 0; g < w.groups; g++, codes += code_bytes(w.kind)) {
      float scale, least = 0.0f;
      if (w.kind == INT8) {
        std::memcpy(&scale, scales + 4 * output, 4);
      } else {
        uint16_t d, m;
        std::memcpy(&d, scales + g * scale_bytes(w.kind) + 2 * output, 2);
        scale = number_of(d);
        if (w.kind == Q4_1) {
          std::memcpy(&m, scales + g * scale_bytes(w.kind) + 2 * TILE + 2 * output, 2);
          least = number_of(m);
        }
      }
      float* to = numbers + n * w.inputs + g * GROUP;
      for (long i = 0; i < std::min(GROUP, w.inputs - g * GROUP); i++) {
        const uint8_t byte = codes[place(output, four(w.kind) ? i % 16 : i)];
        const int code = !four(w.kind) ? byte : i < 16 ? byte & 15 : byte >> 4;
        to[i] = scale * float(code - zero) + least;
      }
    }
  }
}

#pragma once
#include "paths.h"

// The tiles [first, last): a thread's share. row_scales: of INT8 alone.
void pack_tiles(int kind, const uint8_t* rows, const float* row_scales, uint8_t* packed, long inputs, long outputs, long first,
                long last);

// Rows of the matrix: numbers [count, inputs].
void unpack_rows(const Weights&, const int64_t* ids, long count, float* numbers);

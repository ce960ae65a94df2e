// The 16 numbers of 4-bit weights, CODES_CENTRE added, so that they are unsigned.
#ifndef GLASSFORMER_CODES_H
#define GLASSFORMER_CODES_H

#include <stdint.h>

static const int CODES_CENTRE = 32;

// Fitted to normal weights in groups of 32 under the search for scales in packing.inc (Lloyd's algorithm), zero kept,
// and rounded to 6 bits: so small, 16 products with activations add up within 16 bits (quantised.inc).
static const uint8_t CODES[16] = {0, 7, 12, 16, 20, 23, 26, 29, 32, 35, 38, 41, 45, 49, 54, 62};

#endif

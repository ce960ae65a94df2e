// The 16 numbers of 4-bit weights, 128 added, as bytes of weights are stored.
#ifndef GLASSFORMER_CODES_H
#define GLASSFORMER_CODES_H

#include <stdint.h>

// Fitted to normal weights in groups of 32 under the search for scales in packing.inc (Lloyd's algorithm), zero kept.
static const uint8_t CODES[16] = {1, 29, 49, 65, 80, 92, 104, 116, 128, 139, 151, 164, 178, 195, 216, 247};

#endif

// Elements of panels, one at a time: for what reads little of a matrix. What panels look like stands in linear.inc and
// quantised.inc.
#ifndef GLASSFORMER_ELEMENT_H
#define GLASSFORMER_ELEMENT_H

#include <stdint.h>

#include "codes.h"
#include "program.h"

static inline float of_bf16(const uint8_t* p) {
    uint16_t half;
    __builtin_memcpy(&half, p, 2);
    const uint32_t whole = static_cast<uint32_t>(half) << 16;
    float f;
    __builtin_memcpy(&f, &whole, 4);
    return f;
}

// Element (lane, i) of a panel.
static inline float element(int format, const uint8_t* panel, int64_t lane, int64_t i) {
    const int64_t pair = i / 64, second = i / 32 % 2, k = i % 32;
    float f = 0.0f;
    switch (format) {
        case GF_F32_PANEL: __builtin_memcpy(&f, panel + (i * 16 + lane) * 4, 4); return f;
        case GF_BF16_PANEL: return of_bf16(panel + ((i / 2 * 16 + lane) * 2 + i % 2) * 2);
        case GF_Q8_PANEL:
            panel += pair * 1088;
            return (panel[second * 512 + k / 4 * 64 + lane * 4 + k % 4] - 128) *
                   of_bf16(panel + 1024 + (second * 16 + lane) * 2);
        default: {
            panel += pair * 576;
            const uint8_t both = panel[second * 256 + k / 8 * 64 + lane * 4 + k % 4];
            return (CODES[k / 4 % 2 ? both >> 4 : both & 15] - CODES_CENTRE) *
                   of_bf16(panel + 512 + (second * 16 + lane) * 2);
        }
    }
}

#endif

// The kernels for AVX2 with FMA and F16C.
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#include <stdint.h>

#include "codes.h"
#include "isa.h"

// After the standard headers, so that nothing of theirs is compiled for it and shared with other units.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif

#define GF_AVX2 1

namespace {

#include "unit.inc"

}  // namespace

extern const Kernels kernels_avx2{"avx2", run_op, pack};

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif

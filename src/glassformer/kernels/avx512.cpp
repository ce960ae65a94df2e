// The kernels for AVX-512 with VNNI and BF16.
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#include <stdint.h>

#include "codes.h"
#include "isa.h"

// After the standard headers, so that nothing of theirs is compiled for it and shared with other units.
#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16"))), \
    apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")
#endif

#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // of GCC 12's own header
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#define GF_AVX512 1

namespace {

#include "unit.inc"

}  // namespace

extern const Kernels kernels_avx512{"avx512", run_op, pack};

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif

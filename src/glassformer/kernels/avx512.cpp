// The kernels for AVX-512 with VNNI and BF16, and where there is AMX, those of many rows for it.
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#include <stdint.h>

#include "codes.h"
#include "isa.h"

// After the standard headers, so that nothing of theirs is compiled for it and shared with other units.
#ifdef GF_HAS_AMX
#define GF_TILES ",amx-tile,amx-bf16"
#else
#define GF_TILES ""
#endif
#define GF_TARGET "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16" GF_TILES
#define GF_PRAGMA(text) _Pragma(#text)
#define GF_PRAGMA_OF(text) GF_PRAGMA(text)  // GCC's takes no macro
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target(GF_TARGET))), apply_to = function)
#else
GF_PRAGMA_OF(GCC target(GF_TARGET))
#endif

#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // of GCC 12's own header
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#define GF_AVX512 1

namespace {

#include "unit.inc"
#ifdef GF_HAS_AMX
#include "amx.inc"
#endif

}  // namespace

extern const Kernels kernels_avx512{"avx512", run_op, pack};
#ifdef GF_HAS_AMX
extern const Kernels kernels_amx{"amx", run_amx, pack};
#endif

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif

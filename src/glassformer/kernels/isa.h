// One table of kernels for each instruction set.
#ifndef GLASSFORMER_ISA_H
#define GLASSFORMER_ISA_H

#include "program.h"
#include "team.h"

// A matrix to be packed: what gf_pack was called with.
struct Packing {
    int format;
    int64_t outputs, inputs;
    const void* source;
    int source_type;  // 0 fp32, 1 bf16
    int64_t row_stride, column_stride;
    void* packed;
};

struct Kernels {
    const char* name;
    // A thread's share of an operation.
    void (*run)(const gf_op& op, const gf_call& call, Team& team);
    // Packs the panels of 16 outputs from `first` up to `last`.
    void (*pack)(const Packing& packing, int64_t first, int64_t last);
};

// Tiles need a compiler that knows them, and Linux to grant them.
#if defined(__x86_64__) && defined(__linux__) && __has_include(<amxbf16intrin.h>)
#define GF_HAS_AMX 1
extern const Kernels kernels_amx;
#endif
#if defined(__x86_64__) || defined(_M_X64)
extern const Kernels kernels_avx2, kernels_avx512;
#elif defined(__aarch64__)
extern const Kernels kernels_neon;
#endif
extern const Kernels kernels_portable;

// The table in use: the best that this processor has, or the one that was forced.
const Kernels& kernels_in_use();

#endif

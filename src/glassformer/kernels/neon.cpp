// The kernels for NEON.
#if defined(__aarch64__)
#include <arm_neon.h>
#include <stdint.h>

#include "codes.h"
#include "isa.h"

#define GF_NEON 1

namespace {

#include "unit.inc"

}  // namespace

extern const Kernels kernels_neon{"neon", run_op, pack};
#endif

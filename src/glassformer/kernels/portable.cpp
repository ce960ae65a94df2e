// The kernels for What any processor has, in the compiler's own vectors.
#include <stdint.h>

#include "codes.h"
#include "isa.h"

namespace {

#include "unit.inc"

}  // namespace

extern const Kernels kernels_portable{"portable", run_op, pack};

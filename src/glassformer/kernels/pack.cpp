// gf_pack, gf_unpack and gf_packed_bytes. What panels look like stands in linear.inc and quantised.inc.
#include <stdint.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "element.h"
#include "isa.h"

namespace {

constexpr int64_t AT_ONCE = 4;  // panels that a thread takes at a time

void pack_panels(Team& team, const void* argument) {
    const Packing& packing = *static_cast<const Packing*>(argument);
    const int64_t panels = (packing.outputs + 15) / 16;
    for (int64_t first = team.claim(AT_ONCE); first < panels; first = team.claim(AT_ONCE))
        kernels_in_use().pack(packing, first, first + AT_ONCE < panels ? first + AT_ONCE : panels);
}

// Asks for huge pages where the memory is new and large: weights that do not fit the caches are read twice as fast.
void ask_for_huge_pages(void* memory, int64_t bytes) {
#if defined(__linux__)
    constexpr uintptr_t HUGE_PAGE = 2 << 20;
    const uintptr_t start = reinterpret_cast<uintptr_t>(memory), end = (start + bytes) / HUGE_PAGE * HUGE_PAGE;
    const uintptr_t first = (start + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    if (first < end) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#else
    (void)memory, (void)bytes;
#endif
}

}  // namespace

extern "C" {

int64_t gf_packed_bytes(int format, int64_t outputs, int64_t inputs) {
    if (outputs <= 0 || inputs <= 0) return 0;
    const int64_t panels = (outputs + 15) / 16, pairs = (inputs + 63) / 64;
    switch (format) {
        case GF_F32_PANEL: return panels * inputs * 64;
        case GF_BF16_PANEL: return panels * ((inputs + 1) / 2) * 64;
        case GF_Q8_PANEL: return panels * pairs * 1088;
        case GF_Q4_PANEL: return panels * pairs * 576;
        default: return 0;
    }
}

int gf_pack(int format, int64_t outputs, int64_t inputs, const void* source, int source_type, int64_t row_stride,
            int64_t column_stride, void* packed, int threads) {
    if (gf_packed_bytes(format, outputs, inputs) == 0 || (source_type != 0 && source_type != 1)) return -1;
    ask_for_huge_pages(packed, gf_packed_bytes(format, outputs, inputs));
    const Packing packing{format, outputs, inputs, source, source_type, row_stride, column_stride, packed};
    on_team(threads, 1, pack_panels, &packing);
    return 0;
}

void gf_narrow(const float* x, uint16_t* out, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits;
        __builtin_memcpy(&bits, x + i, sizeof bits);
        const uint32_t nearest = bits + 0x7fff + ((bits >> 16) & 1);  // ties to even
        out[i] = static_cast<uint16_t>(((bits & 0x7fffffff) > 0x7f800000 ? bits | 0x400000 : nearest) >> 16);
    }
}

void gf_widen(const uint16_t* x, float* out, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        const uint32_t bits = static_cast<uint32_t>(x[i]) << 16;
        __builtin_memcpy(out + i, &bits, sizeof bits);
    }
}

int gf_unpack(int format, int64_t outputs, int64_t inputs, const void* packed, float* out) {
    if (gf_packed_bytes(format, outputs, inputs) == 0) return -1;
    const int64_t bytes = gf_packed_bytes(format, 16, inputs);
    for (int64_t o = 0; o < outputs; o++)
        for (int64_t i = 0; i < inputs; i++)
            out[o * inputs + i] =
                element(format, static_cast<const uint8_t*>(packed) + o / 16 * bytes, o % 16, i);
    return 0;
}

}  // extern "C"

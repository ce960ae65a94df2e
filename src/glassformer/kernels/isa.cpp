// The choice of an instruction set: the best that the processor and the system have, or the one that was forced.
#include "isa.h"

#include <atomic>
#include <cstring>
#include <vector>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#ifdef GF_HAS_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "program.h"

namespace {

std::atomic<const Kernels*> chosen{nullptr};

#if defined(__x86_64__)
// What not every compiler's __builtin_cpu_supports knows: one bit of a leaf's register (0 to 3 for a to d).
bool has(unsigned leaf, unsigned part, int place, int bit) {
    unsigned registers[4] = {};
    return __get_cpuid_count(leaf, part, &registers[0], &registers[1], &registers[2], &registers[3]) &&
           registers[place] >> bit & 1;
}
#endif

#ifdef GF_HAS_AMX
// Tiles of bf16, which Linux gives to a process that asks for them, its threads and its children.
bool may_use_tiles() {
    constexpr int REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
    return has(7, 0, 3, 24) && has(7, 0, 3, 22) && syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
#endif

// The tables that can be run here, the best first.
std::vector<const Kernels*> runnable() {
    std::vector<const Kernels*> tables;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool f16c = has(1, 0, 2, 29), bf16 = has(7, 1, 0, 5);
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c;
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vnni") && bf16;
#ifdef GF_HAS_AMX
    if (avx512 && may_use_tiles()) tables.push_back(&kernels_amx);
#endif
    if (avx512) tables.push_back(&kernels_avx512);
    if (avx2) tables.push_back(&kernels_avx2);
#elif defined(__aarch64__)
    tables.push_back(&kernels_neon);
#endif
    tables.push_back(&kernels_portable);
    return tables;
}

}  // namespace

const Kernels& kernels_in_use() {
    const Kernels* table = chosen.load();
    if (table == nullptr) chosen.store(table = runnable().front());
    return *table;
}

extern "C" {

const char* gf_isa(void) { return kernels_in_use().name; }

int gf_force_isa(const char* name) {
    for (const Kernels* table : runnable())
        if (std::strcmp(table->name, name) == 0) {
            chosen.store(table);
            return 0;
        }
    return -1;
}

int gf_version(void) { return GF_VERSION; }

}  // extern "C"

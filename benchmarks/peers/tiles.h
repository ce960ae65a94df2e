// Included before all of llama.cpp's C++: GCC 12 takes loading a tile configuration to read 8 of its 64 bytes, and drops
// the writing of the others.
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg %0" : : "m"(*(const char (*)[64])(config)))
#endif

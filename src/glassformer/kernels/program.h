// The program: what the engine hands over and the kernels run. Plain C, so that Python fills it by ctypes.
//
// A call lays the tokens of all texts end to end: N tokens in all, no padding. Activations are fp32, one row a token.
// Every operation reads and writes buffers of such rows; operations follow each other in order, and threads meet after
// each that says so.
#ifndef GLASSFORMER_PROGRAM_H
#define GLASSFORMER_PROGRAM_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#ifdef __GNUC__
#pragma GCC visibility push(default)
#endif

#define GF_VERSION 6

// How a matrix of `outputs` rows and `inputs` columns lies in memory.
enum gf_format {
    GF_F32 = 0,         // fp32, element (o, i) at o * ld + i: torch's Linear, as it was loaded
    GF_F32_T = 1,       // fp32, element (o, i) at i * ld + o: stored the other way round, as GPT-2's files are
    GF_F32_PANEL = 2,   // fp32 in panels of 16 outputs: panel p holds inputs x 16 numbers, input after input
    GF_BF16_PANEL = 3,  // bf16 in panels of 16 outputs, alike
    GF_Q8_PANEL = 4,    // int8 in groups of 32 inputs with one bf16 scale an output and group: quantised.inc
    GF_Q4_PANEL = 5,    // int4, alike
    GF_BF16 = 6,        // bf16, as GF_F32
    GF_BF16_T = 7       // bf16, as GF_F32_T
};

enum gf_activation {
    GF_NONE = 0, GF_RELU = 1, GF_GELU = 2 /* erf */, GF_GELU_TANH = 3, GF_SILU = 4, GF_TANH = 5, GF_SIGMOID = 6,
    GF_QUICK_GELU = 7, GF_RELU2 = 8
};

enum gf_kind {
    GF_EMBED = 0,      // out[n] = scale * tokens[ids[n]] (+ types[type_ids[n]]) (+ positions[position_ids[n] + offset])
                       // without ids, x[n] stands for the scaled token
    GF_LAYER_NORM = 1, // out[n] = (x - mean) / sqrt(var + eps) * weight + bias
    GF_RMS_NORM = 2,   // out[n] = x / sqrt(mean(x^2) + eps) * weight
    GF_LINEAR = 3,     // out[n] = act(W x[n] * scale + bias) (* gate[n]) (+ out[n] if it accumulates)
    GF_ROTARY = 4,     // turns `heads` heads of x in place by cos[n], sin[n] (dimension i pairs with i + dim / 2)
    GF_STORE = 5,      // x[n], `heads` x head_dim, to the keys or values of a cache at the token's place
    GF_ATTENTION = 6,  // out[n] = softmax(q[n] k^T * scale + bias) v over the keys its text may look at, or zeros.
                       // A query's own key is at its token's place (without `places`, queries are the last of the
                       // keys): where causal, it sees those up to it. Without a cache (layer -1) the keys of a text
                       // are its own rows, counted from its first token: of `gate`, and the values of `weight`
    GF_ADD = 7,        // out[n] += x[n]
    GF_SCALE = 8,      // out[n] = x[n] * scale, to the nearest bf16 where the format is GF_BF16
    GF_CHOOSE = 9      // chosen[n] = the first place of the largest of x[n], in bf16 where the format says so; of NaN, if
                       // there is one
};

// One operation. What it does not use is zero.
typedef struct gf_op {
    int32_t kind;
    int32_t sync;        // whether threads meet after it; between EMBED, norms, ROTARY, STORE and ADD they need not, as
                         // each thread has the same rows in all of them
    int32_t activation;  // LINEAR
    int32_t accumulate;  // LINEAR: whether it adds to what is there
    int32_t format;      // LINEAR: gf_format of `weight`; EMBED: GF_F32, GF_BF16, or a format of panels; SCALE, CHOOSE
    int32_t heads, kv_heads, head_dim, causal, layer; // ATTENTION, ROTARY, STORE; `layer` is the cache's,
                         // or -1 where keys and values are the call's own (see `gate`)
    int32_t value;       // STORE: 0 keys, 1 values
    int64_t inputs, outputs;  // widths of x and out
    int64_t ld;          // of `weight`: from a row to the next; of ATTENTION's values too
    int64_t x_stride, out_stride, gate_stride; // numbers from a row to the next; gate_stride of ATTENTION's keys too
    int64_t offset;      // EMBED: of positions
    float eps, scale;    // scale: 0 means 1, but for ATTENTION
    const float* x;
    float* out;
    const void* weight;  // LINEAR, norms (or null), EMBED (tokens), ATTENTION without a cache (values)
    const float* bias;   // LINEAR, LAYER_NORM (or null)
    const float* gate;   // LINEAR; ATTENTION without a cache (keys)
    const float* types;  // EMBED: rows without a gap, or null
    const float* positions; // EMBED: alike
    const float* cos;    // ROTARY: rows of `rotary` numbers, the call's from `turned` on
    const float* sin;
    int64_t rotary;      // ROTARY: how many dimensions of a head turn
    const float* relative; // ATTENTION: (heads, 2 * relative_span - 1), what distance key - query adds; or null
    int64_t relative_span; // larger distances count as the largest
} gf_op;

// Keys or values of one layer: element (row, head, token, d) at row * row_stride + head * head_stride + token * head_dim + d.
typedef struct gf_kv {
    float* keys;
    float* values;
    int64_t row_stride, head_stride;
} gf_kv;

typedef struct gf_call {
    int64_t tokens;            // N
    int64_t texts;             // B
    const int64_t* starts;     // (B + 1): the first token of each text
    const int64_t* ids;        // (N), or null where `x` of the first operation is given
    const int64_t* type_ids;   // (N) or null for zeros
    const int64_t* position_ids; // (N)
    const int64_t* places;     // (N): where in its row of the cache a token's keys and values go
    const int64_t* first_key;  // (B): the first key that a text may look at (padding at the left lies before it);
                               // without a cache it and `keys` may be null: a text looks at all of its own
    const int64_t* keys;       // (B): one past the last key, of self-attention, with the new tokens in
    const int64_t* memory_first; // (B): the same for cross-attention
    const int64_t* memory_keys;
    const gf_kv* cache;        // a layer: self-attention
    const gf_kv* memory;       // a layer: cross-attention; operations with layer >= 1000 mean layer - 1000 of it
    const int64_t* rows;       // (B): which row of the cache a text has; or null for its own number
    const int64_t* memory_rows; // (B): the same for cross-attention, where texts may share a row
    const gf_kv* prefix;       // a layer: keys and values before those of the cache, which texts may share; or null
    const int64_t* prefix_rows; // (B): which row of them a text begins with
    int64_t prefix_keys;       // how many there are, in every row: the cache begins with the place after the last
    int64_t turned;            // ROTARY: rows of cos and sin before the call's
    int64_t* chosen;           // (N): CHOOSE
} gf_call;

// Steps of one token a text, each of which reads what the one before it chose.
typedef struct gf_burst_call {
    int64_t steps;             // at most
    int64_t milliseconds;      // after so many no other begins
    int64_t* ids;              // (B): the call's own, which the steps write
    int64_t* chosen;           // (steps, B)
    int64_t* moving;           // the numbers of the call that grow by one from step to step
    int64_t moved;             // how many there are
    const int64_t* ends;       // tokens after which no other step begins
    int64_t end_count;
} gf_burst_call;

// Run from now on on the threads of OpenMP, whose GOMP_parallel, omp_get_thread_num and omp_get_num_threads these are;
// with nulls on threads of its own.
void gf_borrow_threads(void* parallel, void* thread, void* threads);

// Run a program on `threads` threads; 0, or -1 where an operation is not known.
int gf_run(const gf_op* ops, int64_t count, const gf_call* call, int threads);

// Run a program that ends with a choice once for each step; how many have run, or -1 where an operation is not known.
int64_t gf_burst(const gf_op* ops, int64_t count, gf_call* call, const gf_burst_call* burst, int threads);

// Bytes of a matrix in a format, and packing it from fp32 or bf16 rows (source: 0 fp32, 1 bf16) of strides (row, column).
int64_t gf_packed_bytes(int format, int64_t outputs, int64_t inputs);
int gf_pack(int format, int64_t outputs, int64_t inputs, const void* source, int source_type, int64_t row_stride,
            int64_t column_stride, void* packed, int threads);
// The matrix back in fp32, (outputs, inputs): what the kernels compute with.
int gf_unpack(int format, int64_t outputs, int64_t inputs, const void* packed, float* out);

// fp32 to the nearest bf16 and back, on the caller's thread alone.
void gf_narrow(const float* x, uint16_t* out, int64_t count);
void gf_widen(const uint16_t* x, float* out, int64_t count);

// "amx" (AVX-512, and tiles of bf16 for many rows), "avx512" (with VNNI and BF16), "avx2", "neon" or "portable": what
// is used, and choosing less (for tests); -1 if it cannot be.
const char* gf_isa(void);
int gf_force_isa(const char* name);
int gf_version(void);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif

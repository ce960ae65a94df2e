// Random programs over every operation, format and instruction set, for builds with sanitizers (make sanitise): all
// memory is exactly as large as it must be, and results are alike on any number of threads and any instruction set.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <memory>
#include <thread>
#include <vector>

#include "program.h"

namespace {

struct Random {
    uint64_t state;
    uint64_t next() {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        return state;
    }
    int64_t between(int64_t first, int64_t last) {
        return first + int64_t((next() >> 11) % uint64_t(last - first + 1));
    }
    float number() { return float(next() >> 40) / 8388608.0f - 1.0f; }
};

// A stage of numbers, and everything that a program points to.
struct Case {
    Random random;
    std::vector<std::vector<float>> floats;
    std::vector<std::vector<int64_t>> integers;
    std::vector<std::unique_ptr<void, decltype(&free)>> packed;
    std::vector<gf_op> ops;
    std::vector<gf_kv> cache, memory, prefix;
    gf_call call{};

    explicit Case(uint64_t seed) : random{seed * 0x9e3779b97f4a7c15ull + 1} {}

    float* numbers(int64_t count) {
        floats.emplace_back(count);
        for (float& f : floats.back()) f = random.number();
        return floats.back().data();
    }

    int64_t* whole(std::vector<int64_t> values) {
        integers.push_back(std::move(values));
        return integers.back().data();
    }

    gf_op& add(int kind, const float* x, int64_t inputs, float* out, int64_t outputs) {
        gf_op op{};
        op.kind = kind, op.sync = 1, op.scale = 1.0f, op.eps = 1e-5f;
        op.x = x, op.x_stride = op.inputs = inputs, op.out = out, op.out_stride = op.outputs = outputs;
        ops.push_back(op);
        return ops.back();
    }

    gf_op& linear(const float* x, int64_t inputs, float* out, int64_t outputs, int activation) {
        const int format = int(random.between(GF_F32, GF_BF16_T));
        const float* weight = numbers(outputs * inputs);
        for (int64_t i = 0; i < outputs * inputs; i++) floats.back()[i] /= sqrtf(float(inputs));
        const float* bias = random.between(0, 1) ? numbers(outputs) : nullptr;
        gf_op& op = add(GF_LINEAR, x, inputs, out, outputs);
        op.format = format, op.activation = activation, op.bias = bias;
        op.ld = format == GF_F32_T || format == GF_BF16_T ? outputs : inputs, op.weight = weight;
        if (format >= GF_BF16) {
            // The upper halves of the numbers, in memory that is just as large.
            packed.emplace_back(malloc(size_t(outputs * inputs * 2)), &free);
            uint16_t* halves = static_cast<uint16_t*>(packed.back().get());
            for (int64_t i = 0; i < outputs * inputs; i++)
                memcpy(halves + i, reinterpret_cast<const char*>(weight + i) + 2, 2);
            op.weight = halves;
        } else if (format >= GF_F32_PANEL) {
            void* made = nullptr;
            if (posix_memalign(&made, 64, gf_packed_bytes(format, outputs, inputs))) abort();
            packed.emplace_back(made, &free);
            gf_pack(format, outputs, inputs, weight, 0, inputs, 1, made, 2);
            gf_unpack(format, outputs, inputs, made, numbers(outputs * inputs));
            op.weight = made;
        }
        return op;
    }

    gf_kv layer(int64_t texts, int64_t heads, int64_t room, int64_t head_dim) {
        const int64_t size = texts * heads * room * head_dim;
        return {numbers(size), numbers(size), heads * room * head_dim, room * head_dim};
    }
};

// One layer of a decoder over its cache and a memory, with all that goes before and behind.
void build(Case& c) {
    Random& r = c.random;
    c.floats.reserve(256), c.integers.reserve(64);
    const int64_t texts = r.between(1, 4), kv_heads = r.between(1, 3), group = r.between(1, 3);
    const int64_t head_dim = 2 * r.between(1, 40), heads = kv_heads * group, width = heads * head_dim;
    const int64_t kv_width = kv_heads * head_dim, inner = r.between(1, 150);
    const bool few = r.between(0, 1), cached = r.between(0, 2) > 0;
    std::vector<int64_t> starts{0}, places, first(texts), keys(texts), memory_first(texts), memory_keys(texts), ids;
    std::vector<int64_t> types, positions, rows, shared;
    int64_t room = 1, memory_room = 1, shortest = 1200;
    for (int64_t t = 0; t < texts; t++) {
        const int64_t length = few ? r.between(1, 3) : r.between(1, 70), past = r.between(0, few ? 1200 : 60);
        for (int64_t i = 0; i < length; i++) {
            places.push_back(past + i), ids.push_back(r.between(0, 9)), types.push_back(r.between(0, 1));
            positions.push_back(r.between(0, 5));
        }
        starts.push_back(starts.back() + length);
        room = std::max(room, past + length), shortest = std::min(shortest, past);
        keys[t] = cached ? past + length : r.between(0, length);
        first[t] = r.between(0, cached ? past : keys[t]);
        memory_keys[t] = r.between(0, 90), memory_first[t] = r.between(0, memory_keys[t]);
        memory_room = std::max(memory_room, memory_keys[t]);
    }
    const int64_t n = starts.back();
    // Texts in any rows of a cache that may begin behind a prefix, which they share, as they do the memory.
    const int64_t split = cached && r.between(0, 1) ? r.between(0, shortest) : 0;
    for (int64_t t = 0; t < texts; t++) shared.push_back(r.between(0, texts - 1)), rows.push_back(texts - 1 - t);
    c.cache = {c.layer(texts, kv_heads, room - split, head_dim)};
    c.prefix = {c.layer(texts, kv_heads, split, head_dim)};
    c.memory = {c.layer(texts, kv_heads, memory_room, head_dim)};

    float *a = c.numbers(n * width), *b = c.numbers(n * width), *mixed = c.numbers(n * width);
    const int64_t joined = width + 2 * kv_width;
    float *qkv = c.numbers(n * joined), *gate = c.numbers(n * inner), *up = c.numbers(n * inner);
    std::vector<float>& table = (c.numbers(10 * width), c.floats.back());  // as bf16 it would be half of this
    gf_op& embed = c.add(GF_EMBED, nullptr, 0, a, width);
    embed.format = r.between(0, 1) ? GF_BF16 : GF_F32, embed.ld = width;
    if (embed.format == GF_BF16) {
        uint16_t* narrow = reinterpret_cast<uint16_t*>(table.data());
        for (int64_t i = 0; i < 20 * width; i++) narrow[i] = uint16_t(0x3e00 + r.between(0, 511));
    }
    embed.weight = table.data(), embed.types = table.data(), embed.positions = table.data(), embed.offset = 2;
    embed.sync = 0;
    gf_op& norm = c.add(GF_LAYER_NORM, a, width, b, width);
    norm.weight = c.numbers(width), norm.bias = c.numbers(width);
    c.linear(b, width, qkv, joined, GF_NONE);
    const int64_t rotary = head_dim / 4 * 2 + 2 > head_dim ? head_dim : head_dim / 4 * 2 + 2;
    for (int part = 0; part < 2; part++) {
        gf_op& turn = c.add(GF_ROTARY, qkv + part * width, joined, nullptr, 0);
        turn.heads = int(part ? kv_heads : heads), turn.head_dim = int(head_dim), turn.rotary = rotary;
        turn.cos = c.numbers(n * rotary), turn.sin = c.numbers(n * rotary);
        turn.sync = 0;  // as rows stay with their thread
    }
    for (int value = 0; value < 2; value++) {
        gf_op& store = c.add(GF_STORE, qkv + width + value * kv_width, joined, nullptr, 0);
        store.heads = int(kv_heads), store.head_dim = int(head_dim), store.value = value, store.sync = value;
    }
    for (int cross = 0; cross < 2; cross++) {
        gf_op& look = c.add(GF_ATTENTION, qkv, joined, mixed, width);
        look.heads = int(heads), look.kv_heads = int(kv_heads), look.head_dim = int(head_dim);
        look.scale = 1.0f / sqrtf(float(head_dim)), look.causal = !cross && r.between(0, 1);
        look.layer = cross ? 1000 : cached ? 0 : -1;
        if (!cached && !cross)
            look.gate = qkv + width, look.gate_stride = joined, look.weight = qkv + width + kv_width, look.ld = joined;
        if (!cross && r.between(0, 1)) {
            look.relative_span = r.between(1, room);
            look.relative = c.numbers(heads * (2 * look.relative_span - 1));
        }
        c.linear(mixed, width, a, width, GF_NONE).accumulate = 1;
    }
    c.add(GF_RMS_NORM, a, width, b, width).weight = c.numbers(width);
    c.linear(b, width, gate, inner, int(r.between(GF_NONE, GF_RELU2)));
    gf_op& gated = c.linear(b, width, up, inner, GF_NONE);
    gated.gate = gate, gated.gate_stride = inner;
    c.linear(up, inner, a, width, GF_NONE).accumulate = 1;
    c.add(GF_ADD, b, width, a, width);
    c.add(GF_SCALE, a, width, a, width).format = r.between(0, 1) ? GF_BF16 : GF_F32;
    float* logits = c.numbers(n * inner);
    c.linear(a, width, logits, inner, GF_NONE);
    c.add(GF_CHOOSE, logits, inner, logits, inner).format = GF_BF16;
    c.call.chosen = c.whole(std::vector<int64_t>(size_t(n)));

    c.call.tokens = n, c.call.texts = texts;
    c.call.starts = c.whole(starts), c.call.ids = c.whole(ids), c.call.type_ids = c.whole(types);
    c.call.position_ids = c.whole(positions), c.call.places = c.whole(places);
    c.call.first_key = c.whole(first), c.call.keys = c.whole(keys);
    c.call.memory_first = c.whole(memory_first), c.call.memory_keys = c.whole(memory_keys);
    c.call.cache = c.cache.data(), c.call.memory = c.memory.data();
    c.call.rows = c.whole(rows), c.call.memory_rows = c.whole(shared);
    if (split > 0) c.call.prefix = c.prefix.data(), c.call.prefix_rows = c.whole(shared), c.call.prefix_keys = split;
}

// The logits of a program of some seed.
std::vector<float> logits_of(uint64_t seed, int threads) {
    Case c(seed);
    build(c);
    if (gf_run(c.ops.data(), (int64_t)c.ops.size(), &c.call, threads)) abort();
    const gf_op& last = c.ops.back();
    return std::vector<float>(last.out, last.out + c.call.tokens * last.outputs);
}

using Numbers = std::vector<float>;

void compare(uint64_t seed, const Numbers& a, const Numbers& b, float tolerance, const char* how) {
    for (size_t i = 0; i < a.size(); i++)
        if (!(fabsf(a[i] - b[i]) <= tolerance * (1.0f + fabsf(a[i])))) {
            fprintf(stderr, "program %d: logit %d is %g, and %g %s\n", int(seed), int(i), a[i], b[i], how);
            exit(1);
        }
}

// On several threads as on one; on any instruction set as in portable code, but for what rows lose beside weights of
// bytes: to eight bits in portable code, to sixteen with AVX2, to bf16 in the tiles of AMX.
void check(uint64_t seed, const char* isa) {
    const int threads = 2 + int(seed % 4);
    const Numbers alone = logits_of(seed, 1);
    compare(seed, alone, logits_of(seed, threads), 1e-5f, "on several threads");
    gf_force_isa("portable");
    compare(seed, alone, logits_of(seed, threads), 5e-2f, "in portable code");
    gf_force_isa(isa);
}

}  // namespace

int main(int count, char** arguments) {
    const int programs = count > 1 ? atoi(arguments[1]) : 25;
    for (const char* isa : {"portable", "neon", "avx2", "avx512", "amx"}) {
        if (gf_force_isa(isa)) continue;
        for (int seed = 0; seed < programs; seed++) check(uint64_t(seed), isa);
        std::thread other([] {
            for (int seed = 0; seed < 5; seed++) logits_of(uint64_t(seed), 2);
        });
        for (int seed = 5; seed < 10; seed++) logits_of(uint64_t(seed), 3);
        other.join();
        printf("%s: %d programs\n", isa, programs + 10);
    }
}

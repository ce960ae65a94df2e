// Running a program: the pool of threads, and the walk over the operations.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>
#ifdef _WIN32
#include <process.h>
#define getpid _getpid
#else
#include <unistd.h>
#endif

#include "isa.h"
#include "program.h"
#include "team.h"

namespace {

constexpr int MOST_THREADS = 64;
using Clock = std::chrono::steady_clock;

// Waiting in a loop: at full attention for some 50 µs, then giving way to whoever else wants the core.
struct Spin {
    bool crowded;  // more threads than cores: give way at once
    unsigned turns = 0;

    void once() {
        if (turns++ < 1000 && !crowded) {
#if defined(__x86_64__) || defined(__i386__)
            __builtin_ia32_pause();
#elif defined(__aarch64__)
            asm volatile("yield");
#endif
        } else {
            std::this_thread::yield();
        }
    }
};

struct Memory {
    char* data = nullptr;
    size_t size = 0;

    void grow(size_t bytes) {
        if (bytes <= size) return;
        ::operator delete(data, std::align_val_t(64));
        data = nullptr, size = 0;
        size_t room = (bytes + bytes / 4 + 4095) & ~size_t(4095);
        data = static_cast<char*>(::operator new(room, std::align_val_t(64)));
        size = room;
    }
};

struct Job {
    int threads;
    void (*work)(Team&, const void*);
    const void* argument;
};

// The OpenMP that torch runs its loops on. After a loop its threads spin for milliseconds, in the way of any others that
// want their cores; as they are the ones that run our jobs, too, nobody is in anybody's way.
struct OpenMP {
    long pid = 0;  // whose threads they are: a child made by fork has none of them
    void (*parallel)(void (*work)(void*), void* argument, unsigned threads, unsigned flags) = nullptr;
    int (*thread)() = nullptr;
    int (*threads)() = nullptr;
} openmp;

// A thread of the pool, and how it is woken: `turn` grows by one for each job in which it takes part.
struct alignas(64) Worker {
    std::atomic<uint64_t> turn{0};
    std::atomic<bool> parked{false};
    std::mutex mutex;
    std::condition_variable wake;
};

}  // namespace

struct Pool {
    const long pid = getpid();
    const int cores = (int)std::thread::hardware_concurrency();
    std::mutex one_job;  // callers on several threads take turns
    alignas(64) std::atomic<int> arrived{0};
    alignas(64) std::atomic<uint32_t> phase{0};
    std::atomic<bool> crowded{false};
    Job job{};
    std::chrono::microseconds patience{1000};  // how long a thread looks out for the next job before it sleeps
    std::vector<Worker*> workers;              // threads 1, 2, ...
    Memory own[MOST_THREADS], common;
    std::vector<int64_t> tickets;

    Pool() {
        if (const char* text = std::getenv("GLASSFORMER_SPIN_US"))
            patience = std::chrono::microseconds(std::strtol(text, nullptr, 10));
    }

    // As many threads as are wanted, or as the system gives.
    int hire(int threads) {
        while ((int)workers.size() < threads - 1) {
            Worker* worker = new Worker;
            try {
                std::thread(&Pool::serve, this, worker, (int)workers.size() + 1).detach();
            } catch (const std::system_error&) {
                delete worker;
                break;
            }
            workers.push_back(worker);
        }
        return std::min(threads, (int)workers.size() + 1);
    }

    void run(const Job& given, int64_t counters) {
        std::lock_guard<std::mutex> lock(one_job);
        tickets.assign(counters, 0);
        job = given;
        job.threads = std::clamp(given.threads, 1, MOST_THREADS);
        const bool borrows = openmp.parallel != nullptr && openmp.pid == pid && job.threads > 1;
        if (!borrows) job.threads = hire(job.threads);
        crowded = job.threads > cores;
        if (borrows) return openmp.parallel(join, this, job.threads, 0);
        for (int i = 0; i < job.threads - 1; i++) {
            Worker& worker = *workers[i];
            worker.turn.fetch_add(1);
            if (worker.parked.load()) {
                std::lock_guard<std::mutex> asleep(worker.mutex);
                worker.wake.notify_one();
            }
        }
        take_part(0, job.threads);
    }

    static void join(void* pool) noexcept { static_cast<Pool*>(pool)->take_part(openmp.thread(), openmp.threads()); }

    void serve(Worker* worker, int thread) noexcept {
        for (uint64_t done = 0;; done++) {
            Spin spin{crowded};
            for (auto until = Clock::now() + patience; worker->turn.load() == done; spin.once()) {
                if (spin.turns % 64 || Clock::now() < until) continue;
                std::unique_lock<std::mutex> lock(worker->mutex);
                worker->parked.store(true);
                worker->wake.wait(lock, [&] { return worker->turn.load() != done; });
                worker->parked.store(false);
            }
            take_part(thread, job.threads);
        }
    }

    void take_part(int thread, int threads) noexcept {
        Job now = job;  // as the next one may be there as soon as the barrier is passed
        Team team{thread, threads, this, tickets.data(), nullptr};
        now.work(team, now.argument);
        team.barrier();
    }

    // The pool of this process: a child made by fork has none of its parent's threads, and makes its own.
    static Pool& of_process() {
        static std::atomic<Pool*> pool{nullptr};
        Pool* known = pool.load(std::memory_order_acquire);
        while (known == nullptr || known->pid != getpid()) {
            Pool* made = new Pool;
            if (pool.compare_exchange_strong(known, made, std::memory_order_acq_rel)) return *made;
            delete made;
        }
        return *known;
    }
};

void Team::barrier() {
    if (threads == 1) return;
    uint32_t phase = pool->phase.load(std::memory_order_relaxed);
    if (pool->arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
        pool->arrived.store(0, std::memory_order_relaxed);
        pool->phase.store(phase + 1, std::memory_order_release);
        return;
    }
    for (Spin spin{pool->crowded}; pool->phase.load(std::memory_order_acquire) == phase;) spin.once();
}

void Team::share(int64_t count, int64_t& first, int64_t& last) const {
    first = count * thread / threads;
    last = count * (thread + 1) / threads;
}

int64_t Team::claim(int64_t count) { return __atomic_fetch_add(ticket, count, __ATOMIC_RELAXED); }

void* Team::scratch(size_t bytes) {
    pool->own[thread].grow(bytes);
    return pool->own[thread].data;
}

void* Team::shared(size_t bytes) {
    // Asked before anybody can have passed the barrier, so that all threads see the same answer.
    bool grows = bytes > pool->common.size;
    barrier();
    if (grows) {
        if (thread == 0) pool->common.grow(bytes);
        barrier();
    }
    return pool->common.data;
}

void* Team::held() const { return pool->common.data; }

void on_team(int threads, int64_t tickets, void (*work)(Team&, const void*), const void* argument) {
    Pool::of_process().run({threads, work, argument}, tickets);
}

namespace {

struct Program {
    const gf_op* ops;
    int64_t count;
    const gf_call* call;
    const Kernels* kernels;
};

void walk(Team& team, const void* argument) {
    const Program program = *static_cast<const Program*>(argument);
    for (const gf_op* op = program.ops; op < program.ops + program.count; op++, team.ticket++) {
        program.kernels->run(*op, *program.call, team);
        team.before = op;
        if (op->sync) team.barrier();
    }
}

}  // namespace

extern "C" {

void gf_borrow_threads(void* parallel, void* thread, void* threads) {
    openmp.pid = getpid();
    openmp.parallel = reinterpret_cast<decltype(openmp.parallel)>(parallel);
    openmp.thread = reinterpret_cast<decltype(openmp.thread)>(thread);
    openmp.threads = reinterpret_cast<decltype(openmp.threads)>(threads);
}

int gf_run(const gf_op* ops, int64_t count, const gf_call* call, int threads) {
    for (int64_t i = 0; i < count; i++)
        if (ops[i].kind < GF_EMBED || ops[i].kind > GF_CHOOSE) return -1;
    if (count == 0) return 0;
    const Program program{ops, count, call, &kernels_in_use()};
    on_team(threads, count, walk, &program);
    return 0;
}

int64_t gf_burst(const gf_op* ops, int64_t count, gf_call* call, const gf_burst_call* burst, int threads) {
    const auto last = Clock::now() + std::chrono::milliseconds(burst->milliseconds);
    const int64_t texts = call->texts, *const ends = burst->ends;
    for (int64_t step = 0; step < burst->steps; step++) {
        int64_t* chosen = call->chosen = burst->chosen + step * texts;
        call->turned = step * texts;
        if (gf_run(ops, count, call, threads)) return -1;
        const bool ended = std::any_of(chosen, chosen + texts, [&](int64_t token) {
            return std::find(ends, ends + burst->end_count, token) != ends + burst->end_count;
        });
        if (ended || step + 1 == burst->steps || Clock::now() >= last) return step + 1;
        std::copy(chosen, chosen + texts, burst->ids);
        for (int64_t i = 0; i < burst->moved; i++) burst->moving[i]++;
    }
    return 0;
}

}  // extern "C"

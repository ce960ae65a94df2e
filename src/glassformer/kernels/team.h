// The threads of one call, as an operation sees them. The pool behind them is in run.cpp.
#ifndef GLASSFORMER_TEAM_H
#define GLASSFORMER_TEAM_H

#include <stddef.h>
#include <stdint.h>

struct Pool;
struct gf_op;

// What one thread holds. All functions are defined in run.cpp, so that units of other instruction sets share no code.
struct Team {
    int thread;   // this one, from 0
    int threads;  // how many take part
    Pool* pool;
    int64_t* ticket;  // of the work at hand: how many of its pieces have been claimed
    const gf_op* before;  // the operation that this thread has just done in the same run, or null

    // Wait until all threads are here.
    void barrier();
    // The first of `count` pieces of the work at hand that no thread has yet; each piece is given out once.
    int64_t claim(int64_t count = 1);
    // Memory of this thread's own, aligned to 64 bytes, until it asks again; kept between calls.
    void* scratch(size_t bytes);
    // Memory for all threads, who all ask for it with the same number; waits for all, so that nobody uses it any more.
    void* shared(size_t bytes);
    // The memory that `shared` gave last.
    void* held() const;
    // This thread's even share of `count` pieces: from `first` up to `last`.
    void share(int64_t count, int64_t& first, int64_t& last) const;
};

// Do `work` on a team of 1 to 64 threads, with `tickets` counters for `claim`; returns when all are done.
void on_team(int threads, int64_t tickets, void (*work)(Team&, const void*), const void* argument);

#endif

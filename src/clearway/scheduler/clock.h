/* The step clock: what the loop's thread and the monitor share about one loop.
 *
 * Declarations and inline functions only, because every compiled module that writes the clock includes
 * it; the state of the monitor itself lives once, in _native.
 *
 * The plan (what the monitor shall do about the step that runs now) is several words long, so it is
 * published by its sequence number: even = complete, odd = being written (a seqlock with one writer).
 *
 * The critical sections of a thread are counted in a variable of that thread, so that entering one needs no
 * loop; the clock of the loop that runs there points to it, so that the loop sees with two loads whether a
 * step has ended inside one.
 */
#ifndef CLEARWAY_SCHEDULER_CLOCK_H
#define CLEARWAY_SCHEDULER_CLOCK_H

#include <pthread.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

enum { CW_MODE_OFF = 0, CW_MODE_REPORT = 1, CW_MODE_ON = 2 };

typedef struct {
    int depth;                       /* sections that the running step is in */
    int64_t since_ns, maximum_ns;    /* of the outermost one */
} cw_critical;

typedef struct cw_clock {
    /* line 0: the loop's, one plain store per step */
    volatile uint64_t word __attribute__((aligned(64)));
    cw_critical *critical;           /* of the thread that runs the loop; never NULL */
    /* line 1: read by the loop on every idle -> running edge, written by the monitor when it parks */
    volatile uint32_t parked __attribute__((aligned(64)));
    /* line 2: the loop's, written on overruns only */
    volatile uint32_t plan_seq __attribute__((aligned(64)));
    volatile uint32_t plan_flags;
    volatile uint64_t plan_word;
    volatile int64_t plan_due_ns;
    volatile int64_t deadline_ns;    /* next timer of the loop, CLOCK_MONOTONIC; 0 = none */
    volatile int64_t alarm_ns;       /* hard timeout: kick a running step at this time, whatever the plan */
    volatile int64_t quantum_ns;
    volatile int64_t hurry_ns;       /* slice of a step that nobody announced, when not the quantum; 0 = it is */
    volatile int64_t report_ns;      /* 0 = no reports */
    volatile int mode;
    volatile int engine_fd;
    volatile int only_still;         /* kick a step only in a wait (the shuffler ends the slices of the others) */
    /* line 3: the monitor's */
    volatile uint64_t kick_word __attribute__((aligned(64)));
    volatile int64_t kick_ns;
    volatile uint64_t kicks_soft, kicks_hard, overruns, ticks;
    uint64_t seen_word;
    int64_t seen_ns;
    int64_t cpu_ns, cpu_at_ns;
    uint32_t kicked_seq;
    int kicks_unanswered;
    int idle_ticks;
    int64_t resend_ns;
    uint64_t reported_word;
    volatile uint64_t stall_word;
    volatile int64_t stall_since_ns;
    /* registration */
    pthread_t target;
    pid_t tid;
    clockid_t cpu_clock;
    int registered;
    struct cw_clock *next;
} cw_clock;

static inline int64_t cw_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* As of the last tick of the kernel's clock, at most 10 ms ago: a seventh of the cost. */
static inline int64_t cw_now_coarse(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return (int64_t)t.tv_sec * 1000000000LL + t.tv_nsec;
}

enum {
    CW_PLAN_WATCH = 1,  /* kick as well when the engine's fd or the deadline has something to do */
    CW_PLAN_WAITS = 2,  /* the step sits in a blocking call: the first kick may be a hard one */
};

static inline void cw_plan(cw_clock *c, int64_t due_ns, int flags) {
    uint32_t seq = c->plan_seq;
    __atomic_store_n(&c->plan_seq, seq + 1, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    c->plan_word = c->word;
    c->plan_due_ns = due_ns;
    c->plan_flags = flags;
    __atomic_store_n(&c->plan_seq, seq + 2, __ATOMIC_RELEASE);
}

#endif

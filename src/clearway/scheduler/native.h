/* The monitor thread and the SIGURG handler of the preemptive scheduler.
 *
 * C, included by _native.pyx alone, because every line of it runs where Python may not: on a
 * thread that never takes the GIL, in a signal handler, or below the frames it looks at.
 *
 * Who writes what
 *   the loop's thread  word, the plan, deadline, alarm; clears `parked`
 *   the monitor        everything under "monitor"; sets `parked`
 *   registration       under `cw_mutex`, which neither the signal handler nor a step ever takes
 */
#ifndef CLEARWAY_SCHEDULER_NATIVE_H
#define CLEARWAY_SCHEDULER_NATIVE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <Python.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "where.h"

/* A tick is a quarter of the quantum, so a step that nobody announced is caught between 1 and 1.25
 * quanta; announced slices (resumed steps) are timed exactly. */
#define CW_TICKS_PER_QUANTUM 4
#define CW_TICK_MIN_NS 50000L        /* 20,000 wake-ups/s would already cost 5 % of a core */
#define CW_RESEND_MIN_NS 400000L     /* first re-send; doubles up to one quantum. A kick that is answered takes a
                                      * quarter of this, timer and switch included */
#define CW_IDLE_TICKS 8              /* two quanta without a step: park */
#define CW_PARK_NS 50000000L         /* without membarrier(2) a wake-up can be missed: look every 50 ms */

static __thread cw_critical cw_critical_state;
static cw_critical cw_critical_none;        /* of a clock that no thread runs by: always zero */

static cw_clock *cw_clock_new(void) {
    cw_clock *c = NULL;
    if (posix_memalign((void **)&c, 64, sizeof(cw_clock)))
        return NULL;
    memset(c, 0, sizeof *c);
    c->engine_fd = -1;
    c->critical = &cw_critical_none;
    c->quantum_ns = 5000000;
    return c;
}

/* ---------------------------------------------------------------- the monitor's state */

static pthread_mutex_t cw_mutex = PTHREAD_MUTEX_INITIALIZER;
static cw_clock *cw_clocks;                 /* under cw_mutex */
static int cw_monitor_runs;                 /* under cw_mutex */
static int cw_atfork_done;
static pthread_t cw_monitor_thread;
static volatile uint32_t cw_wake_seq;       /* futex: registration, unpark, poke */
static volatile uint32_t cw_stall_seq;      /* stalls seen */
static volatile uint32_t cw_report_runs;    /* a thread is busy reporting them */
static void (*cw_report)(void);             /* takes the GIL */
static volatile uint32_t cw_monitor_sleeps; /* 1 while in (or about to enter) the futex */
static volatile uint64_t cw_monitor_wakeups;
static int cw_membarrier;
static pid_t cw_pid;

static long cw_futex(volatile uint32_t *word, int op, uint32_t val, const struct timespec *t, uint32_t bits) {
    return syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, val, t, NULL, bits);
}

static void cw_wake(void) {
    __atomic_add_fetch(&cw_wake_seq, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&cw_monitor_sleeps, __ATOMIC_SEQ_CST))
        cw_futex(&cw_wake_seq, FUTEX_WAKE, 1, NULL, 0);
}

static void cw_unpark(cw_clock *c) {
    c->parked = 0;
    cw_wake();
}

/* ---------------------------------------------------------------- SIGURG */

/* Set by the monitor before it sends a kick; a SIGURG that finds it clear is somebody else's. */
static volatile uint32_t cw_kick_pending;
/* The virtual signal has been tripped and its Python handler has not dealt with it yet. CPython remembers a trip,
 * and writes a byte to the wake-up descriptor for each: without this a long C call would fill that pipe with our
 * kicks, and a byte of a real signal would be lost. Until the handler is through, because a kick in the middle of
 * it would be handled on top of it, and its byte would look like work that waits. */
static volatile uint32_t cw_tripped;
static volatile int cw_virtual_signal;
static struct sigaction cw_old_action;
static int cw_handler_depth;                /* installations; GIL */
static volatile int cw_handler_hard;        /* which flavour is installed now */

static void cw_on_kick(int signum, siginfo_t *info, void *context) {
    int saved = errno;
    if (__atomic_exchange_n(&cw_kick_pending, 0, __ATOMIC_ACQ_REL)) {
        /* Here, on the target thread: called from another one without the GIL it would not reach the
         * eval loop of 3.11 and 3.12. */
        if (!__atomic_exchange_n(&cw_tripped, 1, __ATOMIC_ACQ_REL))
            PyErr_SetInterruptEx(cw_virtual_signal);
    } else if (cw_old_action.sa_flags & SA_SIGINFO) {
        if (cw_old_action.sa_sigaction)
            cw_old_action.sa_sigaction(signum, info, context);
    } else if (cw_old_action.sa_handler != SIG_DFL && cw_old_action.sa_handler != SIG_IGN) {
        cw_old_action.sa_handler(signum);   /* SIGURG's default is to be ignored */
    }
    errno = saved;
}

static int cw_set_handler(int hard) {
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_sigaction = cw_on_kick;
    a.sa_flags = SA_SIGINFO | SA_ONSTACK | (hard ? 0 : SA_RESTART);
    sigemptyset(&a.sa_mask);
    cw_handler_hard = hard;
    return sigaction(SIGURG, &a, NULL);
}

static int cw_handler_is_ours(void) {
    struct sigaction a;
    return sigaction(SIGURG, NULL, &a) == 0 && (a.sa_flags & SA_SIGINFO) && a.sa_sigaction == cw_on_kick;
}

static int cw_install_handler(int virtual_signal) {
    if (cw_handler_depth++)
        return 0;
    cw_virtual_signal = virtual_signal;
    if (!cw_handler_is_ours() && sigaction(SIGURG, NULL, &cw_old_action) != 0)
        return -1;
    return cw_set_handler(0);
}

static void cw_remove_handler(void) {
    if (cw_handler_depth == 0 || --cw_handler_depth)
        return;
    if (cw_handler_is_ours())               /* somebody who came after us keeps his */
        sigaction(SIGURG, &cw_old_action, NULL);
}

static void cw_kick(cw_clock *c, int hard) {
    if (hard != cw_handler_hard) {
        if (!cw_handler_is_ours())
            return;
        cw_set_handler(hard);
    }
    c->kick_word = c->seen_word;
    c->kick_ns = cw_now();
    if (hard) c->kicks_hard++; else c->kicks_soft++;
    __atomic_store_n(&cw_kick_pending, 1, __ATOMIC_RELEASE);
    /* Not pthread_kill(): glibc's blocks all signals around it, three more system calls. */
    syscall(SYS_tgkill, cw_pid, c->tid, SIGURG);
}

/* A kick from the loop's own thread: the self-test, and the shuffler of clearway.testing. */
static void cw_trip(cw_clock *c) {
    c->kick_word = c->word;
    c->kick_ns = cw_now();
    if (!__atomic_exchange_n(&cw_tripped, 1, __ATOMIC_ACQ_REL))
        PyErr_SetInterruptEx(cw_virtual_signal);
}

static void cw_raise_kick(cw_clock *c) {
    c->kick_word = c->word;
    __atomic_store_n(&cw_kick_pending, 1, __ATOMIC_RELEASE);
    pthread_kill(pthread_self(), SIGURG);
}

/* ---------------------------------------------------------------- the monitor */

static int64_t cw_thread_cpu(cw_clock *c) {
    struct timespec t;
    if (clock_gettime(c->cpu_clock, &t))
        return -1;
    return (int64_t)t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* Has the thread (nearly) stood still since the last sample?  -1: cannot say yet. */
static int cw_stands_still(cw_clock *c, int64_t now) {
    int64_t cpu = cw_thread_cpu(c), wall = now - c->cpu_at_ns, used = cpu - c->cpu_ns;
    int known = c->cpu_at_ns != 0 && wall >= 40000;
    if (!known && c->cpu_at_ns != 0)
        return -1;                          /* too short to judge: keep the older sample */
    c->cpu_ns = cpu;
    c->cpu_at_ns = now;
    if (!known || cpu < 0)
        return -1;
    return used * 8 < wall;
}

/* A stall is reported by a thread that exists only meanwhile: the monitor itself must not wait for the GIL,
 * and a Python thread that waited for stalls would be seen by every program that counts its threads. */
static void *cw_report_main(void *unused) {
    uint32_t seq;
    (void)unused;
    do {
        seq = __atomic_load_n(&cw_stall_seq, __ATOMIC_SEQ_CST);
        cw_report();
        __atomic_store_n(&cw_report_runs, 0, __ATOMIC_SEQ_CST);
    } while (__atomic_load_n(&cw_stall_seq, __ATOMIC_SEQ_CST) != seq &&
             !__atomic_exchange_n(&cw_report_runs, 1, __ATOMIC_SEQ_CST));
    return NULL;
}

static void cw_start_report(void) {
    pthread_attr_t attr;
    pthread_t thread;
    __atomic_add_fetch(&cw_stall_seq, 1, __ATOMIC_SEQ_CST);
    if (cw_report == NULL || __atomic_exchange_n(&cw_report_runs, 1, __ATOMIC_SEQ_CST))
        return;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    if (pthread_create(&thread, &attr, cw_report_main, NULL))  /* inherits the monitor's blocked signals */
        __atomic_store_n(&cw_report_runs, 0, __ATOMIC_SEQ_CST);
    pthread_attr_destroy(&attr);
}

typedef struct { struct pollfd fds[16]; int n; } cw_watch;

static int cw_readable(int fd) {
    struct pollfd p = {fd, POLLIN, 0};
    return fd >= 0 && poll(&p, 1, 0) > 0;
}

/* Look at one clock; returns when to look again. Called under cw_mutex. */
static int64_t cw_tick(cw_clock *c, int64_t now, cw_watch *watch) {
    uint64_t w = __atomic_load_n(&c->word, __ATOMIC_ACQUIRE);
    int64_t quantum = c->quantum_ns, hurry = c->hurry_ns, fresh = hurry ? hurry : quantum;
    int64_t tick = fresh / CW_TICKS_PER_QUANTUM, due, next;
    uint32_t seq;
    int planned, watching, waits, still, fire;

    c->ticks++;
    if (c->mode != CW_MODE_ON && c->alarm_ns == 0)
        tick = (c->report_ns ? c->report_ns : 1000000000LL) / CW_TICKS_PER_QUANTUM;
    if (tick < CW_TICK_MIN_NS)
        tick = CW_TICK_MIN_NS;
    next = now + tick;                      /* of a step that nobody announced */
    if (!(w & 1)) {
        c->idle_ticks = (w == c->seen_word) ? c->idle_ticks + 1 : 0;
        c->seen_word = w;
        return next;
    }
    c->idle_ticks = 0;
    if (w != c->seen_word) {
        c->seen_word = w;
        c->seen_ns = now;
        c->cpu_at_ns = 0;
        c->kicked_seq = 1;                  /* odd: matches no complete plan */
        c->kicks_unanswered = 0;
        c->resend_ns = 0;
    }
    if (c->report_ns && now - c->seen_ns >= c->report_ns && c->reported_word != w) {
        c->reported_word = w;
        c->stall_since_ns = c->seen_ns;
        __atomic_store_n(&c->stall_word, w, __ATOMIC_RELEASE);
        c->overruns++;
        cw_start_report();
    }
    if (c->mode != CW_MODE_ON && c->alarm_ns == 0)
        return next;

    seq = __atomic_load_n(&c->plan_seq, __ATOMIC_ACQUIRE);
    planned = !(seq & 1) && c->plan_word == w;
    due = planned ? c->plan_due_ns : c->seen_ns + fresh;
    watching = planned && (c->plan_flags & CW_PLAN_WATCH);
    waits = planned && (c->plan_flags & CW_PLAN_WAITS);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (c->plan_seq != seq)                 /* being rewritten this instant */
        return now + CW_TICK_MIN_NS;
    if (c->mode != CW_MODE_ON)
        due = INT64_MAX;
    else if (planned && !watching && due > now) {
        /* Nothing to see before it is due. A step that follows when this one ends early is then caught after
         * up to two quanta; with a tick in between the monitor would cost twice as much. */
        next = now + quantum;
        if (c->report_ns && c->seen_ns + c->report_ns > now && c->seen_ns + c->report_ns < next)
            next = c->seen_ns + c->report_ns;
    }

    fire = now >= due;
    if (c->alarm_ns && now >= c->alarm_ns)
        fire = 1;
    still = -1;
    if (fire || now + tick >= due || watching || c->cpu_at_ns == 0)
        still = cw_stands_still(c, now);
    if (watching) {
        int event = cw_readable(c->engine_fd) || (c->deadline_ns && now >= c->deadline_ns);
        if (event)
            fire = 1;
        if (!event && c->deadline_ns && c->deadline_ns < next)
            next = c->deadline_ns;
        if (!event && watch->n < 16 && c->engine_fd >= 0) {
            watch->fds[watch->n].fd = c->engine_fd;
            watch->fds[watch->n].events = POLLIN;
            watch->fds[watch->n++].revents = 0;
        }
    }
    if (fire && c->only_still && still != 1 && !(waits && still != 0) && !(c->alarm_ns && now >= c->alarm_ns))
        fire = 0;
    if (fire) {
        if (c->kicked_seq != seq) {         /* first kick under this plan */
            c->kicked_seq = seq;
            c->kicks_unanswered = 1;
            c->resend_ns = now + CW_RESEND_MIN_NS;
            cw_kick(c, still == 1 || (waits && still != 0));
        } else if (now >= c->resend_ns) {   /* not answered: blocked, or in a long C call */
            int64_t pause = CW_RESEND_MIN_NS << (c->kicks_unanswered < 6 ? c->kicks_unanswered : 6);
            if (pause > quantum && quantum > CW_RESEND_MIN_NS)
                pause = quantum;
            if (++c->kicks_unanswered % 16 == 0)
                cw_tripped = 0;             /* in case the interpreter has forgotten */
            c->resend_ns = now + pause;
            cw_kick(c, still == 1);
        }
        if (c->resend_ns < next)
            next = c->resend_ns;
    } else if (due < next && due > now) {
        next = due;
    }
    if (c->alarm_ns && c->alarm_ns > now && c->alarm_ns < next)
        next = c->alarm_ns;
    return next;
}

static void cw_short_latency(void) {
    /* EEVDF (Linux 6.12+) takes sched_runtime as the slice: a short one is scheduled sooner.  Before
     * that the call is refused or ignored. */
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } attr;
    memset(&attr, 0, sizeof attr);
    attr.size = sizeof attr;
    attr.nice = getpriority(PRIO_PROCESS, 0);
    attr.runtime = 100000;
#ifdef SYS_sched_setattr
    syscall(SYS_sched_setattr, 0, &attr, 0);
#endif
    prctl(PR_SET_TIMERSLACK, 1UL);          /* 50 us by default */
    prctl(PR_SET_NAME, "clearway-monitr");  /* 15 characters */
}

static void *cw_monitor(void *unused) {
    int lonely = 0;
    (void)unused;
    cw_short_latency();
    for (;;) {
        cw_watch watch;
        int64_t now, next;
        int idle = 1;
        uint32_t seq = __atomic_load_n(&cw_wake_seq, __ATOMIC_SEQ_CST);
        watch.n = 0;
        pthread_mutex_lock(&cw_mutex);
        cw_monitor_wakeups++;
        if (cw_clocks == NULL) {            /* the last loop has gone: so do we, unless one comes soon */
            struct timespec t = {1, 0};
            if (lonely++) {
                cw_monitor_runs = 0;
                pthread_mutex_unlock(&cw_mutex);
                return NULL;
            }
            pthread_mutex_unlock(&cw_mutex);
            __atomic_store_n(&cw_monitor_sleeps, 1, __ATOMIC_SEQ_CST);
            cw_futex(&cw_wake_seq, FUTEX_WAIT, seq, &t, 0);
            __atomic_store_n(&cw_monitor_sleeps, 0, __ATOMIC_SEQ_CST);
            continue;
        }
        lonely = 0;
        now = cw_now();
        next = now + 1000000000LL;
        for (cw_clock *c = cw_clocks; c; c = c->next) {
            int64_t n = cw_tick(c, now, &watch);
            if (n < next)
                next = n;
            if (c->idle_ticks < CW_IDLE_TICKS)
                idle = 0;
        }
        if (idle) {
            for (cw_clock *c = cw_clocks; c; c = c->next)
                __atomic_store_n(&c->parked, 1, __ATOMIC_SEQ_CST);
            /* The loop stores `word` and then reads `parked` without a fence of its own; this makes
             * every running thread of the process pass one. */
            if (cw_membarrier)
                syscall(SYS_membarrier, 8 /* MEMBARRIER_CMD_PRIVATE_EXPEDITED */, 0, 0);
            for (cw_clock *c = cw_clocks; c; c = c->next)
                if (__atomic_load_n(&c->word, __ATOMIC_SEQ_CST) != c->seen_word)
                    idle = 0;
            next = now + (cw_membarrier ? 3600000000000LL : CW_PARK_NS);
            if (!idle) {
                for (cw_clock *c = cw_clocks; c; c = c->next)
                    c->parked = 0;
                pthread_mutex_unlock(&cw_mutex);
                continue;
            }
        }
        pthread_mutex_unlock(&cw_mutex);
        if (watch.n) {
            int64_t wait = next - cw_now();
            if (wait > 0) {
                struct timespec t = {wait / 1000000000LL, wait % 1000000000LL};
                ppoll(watch.fds, watch.n, &t, NULL);
            }
        } else {
            struct timespec t = {next / 1000000000LL, next % 1000000000LL};
            __atomic_store_n(&cw_monitor_sleeps, 1, __ATOMIC_SEQ_CST);
            cw_futex(&cw_wake_seq, FUTEX_WAIT_BITSET, seq, &t, FUTEX_BITSET_MATCH_ANY);
            __atomic_store_n(&cw_monitor_sleeps, 0, __ATOMIC_SEQ_CST);
        }
    }
}

static void cw_after_fork(void) {
    /* The child has neither the monitor nor, in all likelihood, the loops: start afresh. */
    pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
    memcpy(&cw_mutex, &fresh, sizeof fresh);
    for (cw_clock *c = cw_clocks; c; c = c->next)
        c->registered = 0;
    cw_clocks = NULL;
    cw_monitor_runs = 0;
    cw_monitor_sleeps = 0;
    cw_kick_pending = 0;
    cw_report_runs = 0;
}

/* Registers the calling thread's clock; 0 or an errno. */
static int cw_register(cw_clock *c) {
    int error = 0;
    if (!cw_atfork_done) {
        cw_atfork_done = 1;
        pthread_atfork(NULL, NULL, cw_after_fork);
        cw_membarrier = syscall(SYS_membarrier, 16 /* REGISTER_PRIVATE_EXPEDITED */, 0, 0) == 0;
    }
    c->target = pthread_self();
    c->tid = (pid_t)syscall(SYS_gettid);
    cw_pid = getpid();                      /* again after a fork */
    error = pthread_getcpuclockid(c->target, &c->cpu_clock);
    if (error)
        return error;
    pthread_mutex_lock(&cw_mutex);
    if (!c->registered) {
        c->registered = 1;
        c->seen_word = c->word;
        c->seen_ns = cw_now();
        c->idle_ticks = 0;
        c->parked = 0;
        c->next = cw_clocks;
        cw_clocks = c;
    }
    if (!cw_monitor_runs) {
        pthread_attr_t attr;
        sigset_t all, old;
        sigfillset(&all);
        pthread_attr_init(&attr);
        pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        pthread_attr_setstacksize(&attr, PTHREAD_STACK_MIN > 65536 ? PTHREAD_STACK_MIN : 65536);
        pthread_sigmask(SIG_SETMASK, &all, &old);
        error = pthread_create(&cw_monitor_thread, &attr, cw_monitor, NULL);
        pthread_sigmask(SIG_SETMASK, &old, NULL);
        pthread_attr_destroy(&attr);
        if (error == 0)
            cw_monitor_runs = 1;
        else {
            cw_clocks = c->next;
            c->registered = 0;
        }
    }
    pthread_mutex_unlock(&cw_mutex);
    cw_wake();
    return error;
}

static void cw_unregister(cw_clock *c) {
    pthread_mutex_lock(&cw_mutex);
    if (c->registered) {
        cw_clock **p = &cw_clocks;
        while (*p && *p != c)
            p = &(*p)->next;
        if (*p)
            *p = c->next;
        c->registered = 0;
        c->next = NULL;
    }
    pthread_mutex_unlock(&cw_mutex);
}

/* ---------------------------------------------------------------- the thread state */

static int cw_tracing(void) {
    PyThreadState *ts = PyThreadState_Get();
    return ts->tracing != 0 || ts->c_tracefunc != NULL || ts->c_profilefunc != NULL;
}

static int cw_inside_tracer(void) { return PyThreadState_Get()->tracing != 0; }

#endif

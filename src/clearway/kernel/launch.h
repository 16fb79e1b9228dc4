/* Start a program without waiting until it runs: the child's half of it, between clone and execve.
 *
 * The child shares the parent's memory, as after vfork, but the parent goes on at once. Until execve the child
 * lives in one block of memory that the parent lends it: its stack and everything it reads. It makes system
 * calls and nothing else: no function of the C library's, which would use the parent's thread-local storage
 * (errno above all) while the parent does. All signals are blocked until their handlers, which are the
 * parent's, have been reset. */
#ifndef CLEARWAY_LAUNCH_H
#define CLEARWAY_LAUNCH_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436 /* Linux 5.9 */
#endif

/* The child's frames take less than 1 KiB; no signal handler ever runs on it. */
#define CW_LAUNCH_STACK (16 * 1024)

/* What failed, beside the error number. */
#define CW_FAILED_BEFORE 1
#define CW_FAILED_CHDIR 2
#define CW_FAILED_EXEC 3

typedef struct {
    volatile int error; /* written by the child, read by the parent when the child has let go */
    volatile int stage;
    char **paths; /* what to try, in this order */
    char **args;
    char **env;
    const char *cwd; /* or NULL */
    const int *keep; /* ascending; the pipe's end that reports is one of them */
    int keep_count;
    int report; /* that end, closed by execve */
    int from[3]; /* what becomes 0, 1 and 2; -1: what it is */
    int close_others;
    int restore_signals;
    int new_session;
    int group; /* -1: the parent's */
    int mask; /* umask; -1: the parent's */
    uint64_t signals; /* the signal mask that the program gets */
} cw_launch;

/* As the kernel has it: x86-64 and arm64. */
typedef struct {
    uintptr_t handler;
    unsigned long flags;
    uintptr_t restorer;
    uint64_t mask;
} cw_sigaction;

#if defined(__x86_64__)
#define CW_CAN_LAUNCH 1
static inline __attribute__((always_inline)) long cw_raw(long n, long a, long b, long c, long d) {
    long result;
    register long r10 __asm__("r10") = d;
    __asm__ volatile("syscall" : "=a"(result) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
#define CW_CAN_LAUNCH 1
static inline __attribute__((always_inline)) long cw_raw(long n, long a, long b, long c, long d) {
    register long x8 __asm__("x8") = n;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
    return x0;
}
#else
#define CW_CAN_LAUNCH 0
static inline long cw_raw(long n, long a, long b, long c, long d) { return -ENOSYS; }
#endif

#define CW_TRY(call)                                                                                         \
    do {                                                                                                     \
        failed = (call);                                                                                     \
        if (failed < 0)                                                                                      \
            goto fail;                                                                                       \
    } while (0)

/* The child, from its first instruction to execve or its end. */
static int cw_launch_child(void *argument) {
    cw_launch *l = (cw_launch *)argument;
    int from[3] = {l->from[0], l->from[1], l->from[2]};
    int stage = CW_FAILED_BEFORE;
    long failed = 0;

    for (int i = 0; i < l->keep_count; i++)
        if (l->keep[i] != l->report)
            CW_TRY(cw_raw(SYS_fcntl, l->keep[i], F_SETFD, 0, 0));
    /* First out of the way with what lies where another one goes. */
    for (int i = 0; i < 3; i++)
        if (from[i] >= 0 && from[i] < 3 && from[i] != i) {
            CW_TRY(cw_raw(SYS_fcntl, from[i], F_DUPFD_CLOEXEC, 3, 0));
            from[i] = (int)failed;
        }
    for (int i = 0; i < 3; i++) {
        if (from[i] == i)
            CW_TRY(cw_raw(SYS_fcntl, i, F_SETFD, 0, 0));
        else if (from[i] >= 0)
            CW_TRY(cw_raw(SYS_dup3, from[i], i, 0, 0));
    }
    if (l->cwd != NULL) {
        stage = CW_FAILED_CHDIR;
        CW_TRY(cw_raw(SYS_chdir, (long)l->cwd, 0, 0, 0));
        stage = CW_FAILED_BEFORE;
    }
    if (l->mask >= 0)
        cw_raw(SYS_umask, l->mask, 0, 0, 0);
    for (int number = 1; number <= 64; number++) {
        cw_sigaction action = {0, 0, 0, 0};
        const cw_sigaction to_default = {0, 0, 0, 0};
        if (cw_raw(SYS_rt_sigaction, number, 0, (long)&action, 8) < 0)
            continue;
        int handled = action.handler != (uintptr_t)SIG_DFL && action.handler != (uintptr_t)SIG_IGN;
        /* The two that Python ignores for itself. */
        int restored = l->restore_signals && (number == SIGPIPE || number == SIGXFSZ);
        if (handled || (restored && action.handler != (uintptr_t)SIG_DFL))
            CW_TRY(cw_raw(SYS_rt_sigaction, number, (long)&to_default, 0, 8));
    }
    CW_TRY(cw_raw(SYS_rt_sigprocmask, SIG_SETMASK, (long)&l->signals, 0, 8));
    if (l->new_session)
        CW_TRY(cw_raw(SYS_setsid, 0, 0, 0, 0));
    if (l->group >= 0)
        CW_TRY(cw_raw(SYS_setpgid, 0, l->group, 0, 0));
    if (l->close_others) {
        unsigned first = 3;
        for (int i = 0; i < l->keep_count; i++) {
            unsigned kept = (unsigned)l->keep[i];
            if (kept < first)
                continue;
            if (kept > first)
                CW_TRY(cw_raw(SYS_close_range, first, kept - 1, 0, 0));
            first = kept + 1;
        }
        CW_TRY(cw_raw(SYS_close_range, first, UINT_MAX, 0, 0));
    }
    stage = CW_FAILED_EXEC;
    long first_error = 0;
    for (char **path = l->paths; *path != NULL; path++) {
        failed = cw_raw(SYS_execve, (long)*path, (long)l->args, (long)l->env, 0);
        /* As the shell and execvp: what is there and cannot be run is told before what is not there. */
        if (failed != -ENOENT && failed != -ENOTDIR && first_error == 0)
            first_error = failed;
    }
    if (first_error != 0)
        failed = first_error;
fail:
    l->error = (int)-failed;
    l->stage = stage;
    for (;;)
        cw_raw(SYS_exit, 255, 0, 0, 0);
    return 0;
}

/* Whether this kernel, and what it runs under, knows the system calls that the child makes. */
static inline int cw_launch_supported(void) {
    return CW_CAN_LAUNCH && syscall(SYS_close_range, UINT_MAX, UINT_MAX, 0) == 0;
}

/* The child's process id, -1 with errno. */
static inline int cw_launch_start(cw_launch *l, char *stack) {
    uint64_t all = ~(uint64_t)0;
    char *top = (char *)(((uintptr_t)stack + CW_LAUNCH_STACK) & ~(uintptr_t)63);
    /* The system call itself: the C library's function leaves its own two signals alone, whose handlers must
     * not run in the child either. */
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &l->signals, 8);
    int pid = clone(cw_launch_child, top, CLONE_VM | SIGCHLD, l);
    int error = errno;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &l->signals, NULL, 8);
    errno = error;
    return pid;
}
#endif

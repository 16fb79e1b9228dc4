/* What the load generators share: a clock, a latency histogram, and the account of what the server
 * process used between two instants.
 *
 * The generator takes the server's figures itself, at the two edges of its own measuring window: a
 * harness that did it from outside would include connecting, warming up and draining. Everything
 * comes from /proc and needs no privilege on a process of the same user.
 */
#ifndef CLEARWAY_LOADGEN_H
#define CLEARWAY_LOADGEN_H

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t); /* vDSO: about 25 ns, once per request */
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

__attribute__((format(printf, 1, 2), noreturn)) static void die(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

static inline void *must(void *pointer) {
    if (!pointer) die("out of memory");
    return pointer;
}

/* ---- numbers on the command line: a typing error must not become a silent zero -------------- */

static double number(const char *option, const char *text, double low, double high) {
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (errno || end == text || *end || !(value >= low && value <= high))
        die("%s: %s is not a number from %g to %g", option, text, low, high);
    return value;
}

static void pin_to_core(int core) {
    if (core < 0) return;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    if (sched_setaffinity(0, sizeof set, &set)) die("cannot run on core %d: %s", core, strerror(errno));
}

static void raise_nofile(unsigned needed) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit)) die("getrlimit: %s", strerror(errno));
    if (limit.rlim_cur < needed && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    if (limit.rlim_cur < needed)
        die("%u open files are needed and the hard limit is %llu: raise it (ulimit -Hn)", needed,
            (unsigned long long)limit.rlim_max);
}

/* ---- latency ------------------------------------------------------------------------------- */

/* Logarithmic, 64 buckets per power of two: a bucket is at most 1.6 % wide, so its middle is
 * within 0.8 % of every value in it, from nanoseconds to 2^44 ns (about 5 hours). 20 KiB. */
#define HISTOGRAM_BITS 6
#define HISTOGRAM_SIZE ((44 - HISTOGRAM_BITS + 1) << HISTOGRAM_BITS)

struct histogram {
    uint64_t count, sum, max;
    uint64_t bucket[HISTOGRAM_SIZE];
};

static inline void histogram_add(struct histogram *h, uint64_t ns) {
    int shift = 63 - HISTOGRAM_BITS - __builtin_clzll(ns | 1);
    uint64_t index = shift <= 0 ? ns : ((uint64_t)shift << HISTOGRAM_BITS) + (ns >> shift);
    if (index >= HISTOGRAM_SIZE) index = HISTOGRAM_SIZE - 1;
    h->bucket[index]++;
    h->count++;
    h->sum += ns;
    if (ns > h->max) h->max = ns;
}

static double histogram_percentile_us(const struct histogram *h, double percent) {
    uint64_t rank = (uint64_t)(percent / 100.0 * (double)h->count + 0.9999999), seen = 0;
    if (!h->count) return 0;
    if (!rank) rank = 1;
    for (uint64_t i = 0; i < HISTOGRAM_SIZE; i++) {
        seen += h->bucket[i];
        if (seen < rank) continue;
        int shift = i < (2u << HISTOGRAM_BITS) ? 0 : (int)(i >> HISTOGRAM_BITS) - 1;
        uint64_t low = shift ? (i - ((uint64_t)shift << HISTOGRAM_BITS)) << shift : i;
        double middle = (double)low + (double)(1ull << shift) / 2;
        if (middle > (double)h->max) middle = (double)h->max;
        return middle / 1e3;
    }
    return (double)h->max / 1e3;
}

static void histogram_json(const struct histogram *h, const char *name) {
    printf("\"%s\": {\"count\": %llu, \"mean\": %.3f, \"p50\": %.3f, \"p90\": %.3f, \"p99\": %.3f, "
           "\"p99_9\": %.3f, \"max\": %.3f}",
           name, (unsigned long long)h->count, h->count ? (double)h->sum / (double)h->count / 1e3 : 0,
           histogram_percentile_us(h, 50), histogram_percentile_us(h, 90), histogram_percentile_us(h, 99),
           histogram_percentile_us(h, 99.9), (double)h->max / 1e3);
}

/* ---- what a process used ------------------------------------------------------------------- */

struct usage {
    double cpu_s;          /* time on a CPU, all threads, nanosecond account of the scheduler */
    double user_s, sys_s;  /* cpu_s split in the ratio of utime to stime (sampled at each tick) */
    uint64_t user_ticks, sys_ticks;
    uint64_t switches_voluntary, switches_involuntary;
    uint64_t minor_faults, major_faults;
    uint64_t rss_kib, rss_peak_kib, threads;
    double core_busy_s, core_steal_s; /* of the core it last ran on: all programs; the hypervisor */
};

static int slurp(const char *path, char *buffer, size_t size) {
    FILE *file = fopen(path, "re");
    if (!file) return 0;
    size_t n = fread(buffer, 1, size - 1, file);
    fclose(file);
    buffer[n] = 0;
    return n > 0;
}

static uint64_t status_field(const char *status, const char *name) {
    const char *at = strstr(status, name);
    return at ? strtoull(at + strlen(name), NULL, 10) : 0;
}

/* A thread that ended between two readings takes its nanoseconds with it; ticks and faults of the
 * process survive. Servers under test keep their threads. */
static int usage_read(pid_t pid, struct usage *u) {
    char path[96], text[8192];
    memset(u, 0, sizeof *u);
    if (pid <= 0) return 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (!slurp(path, text, sizeof text)) return 0;
    char *at = strrchr(text, ')'); /* the name in the second field may hold anything */
    unsigned long long minor, major, user, sys, threads;
    int core;
    if (!at || sscanf(at + 2, "%*c %*d %*d %*d %*d %*d %*u %llu %*u %llu %*u %llu %llu %*d %*d %*d %*d %llu "
                              "%*d %*u %*u %*d %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*d %d",
                      &minor, &major, &user, &sys, &threads, &core) != 6)
        return 0;
    u->minor_faults = minor, u->major_faults = major, u->threads = threads;
    u->user_ticks = user, u->sys_ticks = sys;

    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    if (slurp(path, text, sizeof text)) {
        u->rss_kib = status_field(text, "VmRSS:");
        u->rss_peak_kib = status_field(text, "VmHWM:");
    }
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *tasks = opendir(path);
    if (!tasks) return 0;
    double run_ns = 0;
    int have_schedstat = 0;
    for (struct dirent *task; (task = readdir(tasks));) {
        if (!isdigit((unsigned char)task->d_name[0])) continue;
        snprintf(path, sizeof path, "/proc/%d/task/%.16s/schedstat", (int)pid, task->d_name);
        if (slurp(path, text, sizeof text)) have_schedstat = 1, run_ns += strtod(text, NULL);
        snprintf(path, sizeof path, "/proc/%d/task/%.16s/status", (int)pid, task->d_name);
        if (slurp(path, text, sizeof text)) {
            u->switches_involuntary += status_field(text, "nonvoluntary_ctxt_switches:");
            /* "\nvoluntary": the other name contains this one */
            u->switches_voluntary += status_field(text, "\nvoluntary_ctxt_switches:");
        }
    }
    closedir(tasks);
    double tick_s = 1.0 / (double)sysconf(_SC_CLK_TCK);
    u->cpu_s = have_schedstat ? run_ns / 1e9 : (double)(user + sys) * tick_s;

    if (slurp("/proc/stat", text, sizeof text)) {
        char name[24];
        snprintf(name, sizeof name, "\ncpu%d ", core);
        unsigned long long t[8]; /* user nice system idle iowait irq softirq steal, in ticks */
        if ((at = strstr(text, name)) &&
            sscanf(at + strlen(name), "%llu %llu %llu %llu %llu %llu %llu %llu", &t[0], &t[1], &t[2], &t[3],
                   &t[4], &t[5], &t[6], &t[7]) == 8) {
            u->core_busy_s = (double)(t[0] + t[1] + t[2] + t[5] + t[6]) * tick_s;
            u->core_steal_s = (double)t[7] * tick_s;
        }
    }
    return 1;
}

static void usage_between(struct usage *to, const struct usage *from) {
    to->cpu_s -= from->cpu_s;
    to->user_ticks -= from->user_ticks;
    to->sys_ticks -= from->sys_ticks;
    double ticks = (double)(to->user_ticks + to->sys_ticks);
    to->user_s = ticks > 0 ? to->cpu_s * (double)to->user_ticks / ticks : 0;
    to->sys_s = to->cpu_s - to->user_s;
    to->switches_voluntary -= from->switches_voluntary;
    to->switches_involuntary -= from->switches_involuntary;
    to->minor_faults -= from->minor_faults;
    to->major_faults -= from->major_faults;
    to->core_busy_s -= from->core_busy_s;
    to->core_steal_s -= from->core_steal_s;
}

/* ---- instructions retired ------------------------------------------------------------------ */

/* Hardware counters on every thread of the server. Virtual machines often have none and
 * perf_event_paranoid may forbid them; then the figure is absent, never zero. */
struct counters {
    int fd[128];
    int n;
};

static int counter_open(pid_t tid, int kernel) {
    struct perf_event_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.size = sizeof attr;
    attr.type = PERF_TYPE_HARDWARE;
    attr.config = PERF_COUNT_HW_INSTRUCTIONS;
    attr.disabled = 1;
    attr.inherit = 1; /* threads started during the window */
    attr.exclude_kernel = !kernel;
    attr.exclude_user = !!kernel;
    attr.exclude_hv = 1;
    return (int)syscall(SYS_perf_event_open, &attr, tid, -1, -1, 8 /* PERF_FLAG_FD_CLOEXEC */);
}

static int counters_open(pid_t pid, int kernel, struct counters *c) {
    char path[64];
    c->n = 0;
    if (pid <= 0) return 0;
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *tasks = opendir(path);
    if (!tasks) return 0;
    for (struct dirent *task; (task = readdir(tasks)) && c->n < 128;) {
        if (!isdigit((unsigned char)task->d_name[0])) continue;
        int fd = counter_open((pid_t)atoi(task->d_name), kernel);
        if (fd >= 0) c->fd[c->n++] = fd;
    }
    closedir(tasks);
    return c->n;
}

static void counters_set(const struct counters *c, int on) {
    for (int i = 0; i < c->n; i++)
        ioctl(c->fd[i], on ? PERF_EVENT_IOC_ENABLE : PERF_EVENT_IOC_DISABLE, 0);
}

static void counters_json(const struct counters *c, const char *name) {
    uint64_t total = 0, value;
    for (int i = 0; i < c->n; i++)
        if (read(c->fd[i], &value, sizeof value) == sizeof value) total += value;
    if (c->n)
        printf("\"%s\": %llu", name, (unsigned long long)total);
    else
        printf("\"%s\": null", name);
}

/* ---- one measuring window ------------------------------------------------------------------ */

struct window {
    pid_t pid; /* of the server; 0: not ours to look at */
    uint64_t begin_ns, end_ns;
    struct usage server, own;
    int server_seen;
    struct counters user, kernel;
    struct usage server_begin, own_begin;
};

static void window_open(struct window *w) {
    counters_open(w->pid, 0, &w->user);
    counters_open(w->pid, 1, &w->kernel);
    usage_read(getpid(), &w->own_begin);
    w->server_seen = usage_read(w->pid, &w->server_begin);
    counters_set(&w->user, 1);
    counters_set(&w->kernel, 1);
    w->begin_ns = now_ns();
}

static void window_close(struct window *w) {
    w->end_ns = now_ns();
    counters_set(&w->user, 0);
    counters_set(&w->kernel, 0);
    w->server_seen = usage_read(w->pid, &w->server) && w->server_seen;
    usage_read(getpid(), &w->own);
    usage_between(&w->server, &w->server_begin);
    usage_between(&w->own, &w->own_begin);
}

/* What other programs and the hypervisor took of a core, as a fraction of the window. In ticks, so
 * only good to a few per cent in a short window, and only meant for a pinned process. */
static double others(const struct usage *u, double seconds) {
    double taken = u->core_busy_s - u->cpu_s;
    if (taken < 0) taken = 0;
    return seconds > 0 ? (taken + u->core_steal_s) / seconds : 0;
}

static void window_json(const struct window *w) {
    double seconds = (double)(w->end_ns - w->begin_ns) / 1e9;
    printf("\"seconds\": %.6f, \"load\": {\"cpu_s\": %.6f, \"busy\": %.4f, \"core_others\": %.3f}, ", seconds,
           w->own.cpu_s, seconds > 0 ? w->own.cpu_s / seconds : 0, others(&w->own, seconds));
    if (!w->server_seen) {
        printf("\"server\": null");
        return;
    }
    const struct usage *s = &w->server;
    printf("\"server\": {\"cpu_s\": %.6f, \"user_s\": %.6f, \"system_s\": %.6f, \"busy\": %.4f, "
           "\"switches_voluntary\": %llu, \"switches_involuntary\": %llu, \"minor_faults\": %llu, "
           "\"major_faults\": %llu, \"rss_kib\": %llu, \"rss_peak_kib\": %llu, \"threads\": %llu, "
           "\"core_others\": %.3f, ",
           s->cpu_s, s->user_s, s->sys_s, seconds > 0 ? s->cpu_s / seconds : 0,
           (unsigned long long)s->switches_voluntary, (unsigned long long)s->switches_involuntary,
           (unsigned long long)s->minor_faults, (unsigned long long)s->major_faults,
           (unsigned long long)s->rss_kib, (unsigned long long)s->rss_peak_kib,
           (unsigned long long)s->threads, others(s, seconds));
    counters_json(&w->user, "instructions_user");
    printf(", ");
    counters_json(&w->kernel, "instructions_kernel");
    printf("}");
}

#endif

/* The load of the UDP echo benchmark: SOCKETS connected sockets, one datagram in flight on each.
 *
 *   udpload --port P --sockets N --size BYTES --seconds S [--core C] [--answers N]
 *
 * With several answers to a request the next one is sent when the last has arrived.
 * Prints one line of JSON: requests answered, requests lost (no answer within 100 ms: sent anew), and the
 * server's CPU time over the window, read from /proc/PID/stat (--pid). One batch of epoll events is answered
 * before the next is fetched. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

/* CPU seconds of a process to the nanosecond: schedstat's first field is the time on a core. user and system come
 * from stat, in ticks, and only divide it. */
static void cpu(int pid, double *total, double *user, double *system) {
    char path[64], text[1024];
    unsigned long long ran = 0;
    snprintf(path, sizeof path, "/proc/%d/schedstat", pid);
    FILE *f = fopen(path, "r");
    if (f == NULL || fscanf(f, "%llu", &ran) != 1)
        ran = 0;
    if (f)
        fclose(f);
    *total = (double)ran * 1e-9;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    f = fopen(path, "r");
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    if (f)
        fclose(f);
    text[n] = 0;
    char *p = strrchr(text, ')');
    unsigned long u = 0, s = 0;
    if (p)
        sscanf(p + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &u, &s);
    *user = (double)u / (double)sysconf(_SC_CLK_TCK);
    *system = (double)s / (double)sysconf(_SC_CLK_TCK);
}

int main(int argc, char **argv) {
    int port = 0, sockets = 1, size = 64, core = -1, pid = 0, answers = 1;
    double seconds = 2, warm = 0.3;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--port")) port = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--sockets")) sockets = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--size")) size = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--seconds")) seconds = atof(argv[i + 1]);
        else if (!strcmp(argv[i], "--core")) core = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--answers")) answers = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--pid")) pid = atoi(argv[i + 1]);
        else { fprintf(stderr, "udpload: unknown option %s\n", argv[i]); return 2; }
    }
    if (core >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(core, &set);
        sched_setaffinity(0, sizeof set, &set);
    }
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int ep = epoll_create1(0);
    int *fds = calloc((size_t)sockets, sizeof *fds);
    double *sent = calloc((size_t)sockets, sizeof *sent);
    int *missing = calloc((size_t)sockets, sizeof *missing);
    char *out = calloc(1, 65536), *in = calloc(1, 65536);
    for (int i = 0; i < sockets; i++) {
        fds[i] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        if (fds[i] < 0 || connect(fds[i], (struct sockaddr *)&to, sizeof to) < 0) {
            perror("udpload: socket");
            return 1;
        }
        struct epoll_event ev = {.events = EPOLLIN, .data.u32 = (unsigned)i};
        epoll_ctl(ep, EPOLL_CTL_ADD, fds[i], &ev);
        sent[i] = now();
        missing[i] = answers;
        if (send(fds[i], out, (size_t)size, 0) < 0)
            perror("udpload: send");
    }
    long long answered = 0, lost = 0;
    double start = now(), t = start, from = 0, c0 = 0, u0 = 0, s0 = 0, checked = start;
    int measuring = 0;
    struct epoll_event evs[1024];
    for (;;) {
        int n = epoll_wait(ep, evs, 1024, 100);
        t = now();
        for (int k = 0; k < n; k++) {
            int i = (int)evs[k].data.u32;
            while (missing[i] > 0 && recv(fds[i], in, 65536, 0) >= 0)
                missing[i]--;
            if (missing[i] > 0)
                continue;
            answered++;
            sent[i] = t;
            missing[i] = answers;
            send(fds[i], out, (size_t)size, 0);
        }
        if (t - checked > 0.1) {
            checked = t;
            for (int i = 0; i < sockets; i++)
                if (t - sent[i] > 0.1) {
                    lost++;
                    sent[i] = t;
                    missing[i] = answers;
                    send(fds[i], out, (size_t)size, 0);
                }
        }
        if (!measuring && t - start > warm) {
            measuring = 1;
            answered = lost = 0;
            from = t;
            cpu(pid, &c0, &u0, &s0);
        }
        if (measuring && t - from > seconds)
            break;
    }
    double c1 = 0, u1 = 0, s1 = 0;
    cpu(pid, &c1, &u1, &s1);
    printf("{\"answered\": %lld, \"lost\": %lld, \"seconds\": %.6f, \"cpu_s\": %.9f, \"user_s\": %.3f, "
           "\"system_s\": %.3f}\n",
           answered, lost, t - from, c1 - c0, u1 - u0, s1 - s0);
    return 0;
}

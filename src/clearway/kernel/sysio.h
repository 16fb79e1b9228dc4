/* System calls of the hot path whose glibc wrappers are missing, too new or too dear to bind by hand. */
#ifndef CLEARWAY_SYSIO_H
#define CLEARWAY_SYSIO_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define CW_EVENT_SIZE (sizeof(struct epoll_event))
#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441 /* Linux 5.11; glibc wraps it since 2.35 only */
#endif

static inline int cw_accept(int fd) {
    return accept4(fd, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

#define CW_ADDRESSES_MAX 52

/* Both addresses of a connected TCP socket, packed as addresses.py says: the number of bytes; 0 for
 * another kind of socket, or where an end has no address any more. */
static inline int cw_pack_addresses(int fd, uint8_t *to) {
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_storage all;
    } a;
    uint8_t *at = to;
    int family = 0;
    for (int peer = 0; peer < 2; peer++) {
        socklen_t size = sizeof a;
        if ((peer ? getpeername : getsockname)(fd, &a.any, &size) < 0 || (peer && a.any.sa_family != family))
            return 0;
        family = a.any.sa_family;
        if (family == AF_INET && size >= sizeof a.in) {
            memcpy(at, &a.in.sin_port, 2);
            memcpy(at + 2, &a.in.sin_addr, 4);
            at += 6;
        } else if (family == AF_INET6 && size >= sizeof a.in6) {
            memcpy(at, &a.in6.sin6_port, 2);
            memcpy(at + 2, &a.in6.sin6_addr, 16);
            memcpy(at + 18, &a.in6.sin6_flowinfo, 4);
            memcpy(at + 22, &a.in6.sin6_scope_id, 4);
            at += 26;
        } else {
            return 0;
        }
    }
    return (int)(at - to);
}

static inline int cw_can_receive(int fd) {
    struct pollfd p = {fd, POLLIN, 0};
    return poll(&p, 1, 0) != 0;
}

static inline double cw_monotonic(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

/* ns < 0 waits for ever. Before Linux 5.11 there are only milliseconds: rounded up, as asyncio does,
 * so that a timer never fires early and the loop never spins. */
static inline int cw_epoll_wait(void *events, int epfd, int capacity, long long ns, int ms_only) {
    if (ns <= 0)
        return epoll_wait(epfd, (struct epoll_event *)events, capacity, ns < 0 ? -1 : 0);
    if (ms_only) {
        long long ms = (ns + 999999) / 1000000;
        return epoll_wait(epfd, (struct epoll_event *)events, capacity,
                          ms > 0x7fffffff ? 0x7fffffff : (int)ms);
    }
    struct timespec ts = {ns / 1000000000LL, ns % 1000000000LL};
    return (int)syscall(SYS_epoll_pwait2, epfd, events, capacity, &ts, 0, 8);
}

static inline int cw_epoll_ctl(int epfd, int op, int fd, uint32_t mask) {
    struct epoll_event ev;
    ev.events = mask;
    ev.data.u64 = (uint32_t)fd;
    return epoll_ctl(epfd, op, fd, &ev);
}

static inline int cw_epoll_create(void) { return epoll_create1(EPOLL_CLOEXEC); }
static inline int cw_event_fd(void *events, int i) {
    return (int)((struct epoll_event *)events)[i].data.u64;
}
static inline uint32_t cw_event_mask(void *events, int i) {
    return ((struct epoll_event *)events)[i].events;
}
#endif

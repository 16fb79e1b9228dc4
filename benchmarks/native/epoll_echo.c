/* The limit: a TCP echo server in C on level-triggered epoll, one thread, no library.
 *
 * It does for each request what every readiness loop must (wait, receive, send) and nothing else,
 * so a Python loop on epoll can at best equal it. Only a loop that pays fewer system calls, as a
 * completion ring does, can pass it.
 *
 * usage: epoll_echo [--core N]      prints {"port": P, "pid": N, ...} when it listens
 */
#define _GNU_SOURCE
#include "_loadgen.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#define RECEIVE_SIZE (64 * 1024)
#define EVENTS_MAX 1024

/* What a short send left over. Nothing is read while something is left: back-pressure. */
struct pending {
    char *data;
    size_t begin, end;
};

static int poller;
static struct pending *pending_by_fd;
static size_t pending_size;

static struct pending *pending_of(int fd) {
    if ((size_t)fd >= pending_size) {
        size_t size = (size_t)fd * 2 + 64;
        pending_by_fd = must(realloc(pending_by_fd, size * sizeof *pending_by_fd));
        memset(pending_by_fd + pending_size, 0, (size - pending_size) * sizeof *pending_by_fd);
        pending_size = size;
    }
    return &pending_by_fd[fd];
}

static void watch(int fd, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(poller, operation, fd, &event)) die("epoll_ctl: %s", strerror(errno));
}

static void drop(int fd) {
    struct pending *left = pending_of(fd);
    free(left->data);
    memset(left, 0, sizeof *left);
    close(fd); /* leaves the epoll set by itself: the descriptor has no duplicate */
}

static void accept_all(int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EINTR || errno == ECONNABORTED) continue;
            if (errno == EAGAIN) return;
            die("accept: %s", strerror(errno));
        }
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        pending_of(fd);
        watch(fd, EPOLL_CTL_ADD, EPOLLIN);
    }
}

static void on_readable(int fd) {
    static char buffer[RECEIVE_SIZE];
    ssize_t n = recv(fd, buffer, sizeof buffer, 0);
    if (n <= 0) {
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
        drop(fd);
        return;
    }
    ssize_t sent = send(fd, buffer, (size_t)n, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN) {
            drop(fd);
            return;
        }
        sent = 0;
    }
    if (sent < n) {
        struct pending *left = pending_of(fd);
        left->data = must(malloc((size_t)(n - sent)));
        memcpy(left->data, buffer + sent, (size_t)(n - sent));
        left->begin = 0, left->end = (size_t)(n - sent);
        watch(fd, EPOLL_CTL_MOD, EPOLLOUT);
    }
}

static void on_writable(int fd) {
    struct pending *left = pending_of(fd);
    ssize_t sent = send(fd, left->data + left->begin, left->end - left->begin, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN && errno != EINTR) drop(fd);
        return;
    }
    left->begin += (size_t)sent;
    if (left->begin == left->end) {
        free(left->data);
        memset(left, 0, sizeof *left);
        watch(fd, EPOLL_CTL_MOD, EPOLLIN);
    }
}

int main(int argc, char **argv) {
    static const struct option options[] = {{"core", 1, 0, 'c'}, {0, 0, 0, 0}};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c != 'c') return 2;
        pin_to_core((int)number("--core", optarg, -1, 4095));
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* whoever started it died: no orphan */
    raise_nofile(256);
    struct rlimit limit;
    if (!getrlimit(RLIMIT_NOFILE, &limit)) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }

    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) ||
        listen(listener, 4096) || getsockname(listener, (struct sockaddr *)&address, &length))
        die("cannot listen: %s", strerror(errno));
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0) die("epoll_create1: %s", strerror(errno));
    watch(listener, EPOLL_CTL_ADD, EPOLLIN);
    printf("{\"port\": %d, \"pid\": %d, \"loop\": \"c-epoll\"}\n", ntohs(address.sin_port), (int)getpid());
    fflush(stdout);

    static struct epoll_event events[EVENTS_MAX];
    for (;;) {
        int n = epoll_wait(poller, events, EVENTS_MAX, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener)
                accept_all(fd);
            else if (events[i].events & EPOLLOUT)
                on_writable(fd);
            else
                on_readable(fd);
        }
    }
}

/* Closed-loop TLS echo load: every connection sends a request, waits for all of it to come back, and
 * sends the next. One thread, epoll, OpenSSL on the sockets themselves.
 *
 * The handshakes are done one after the other, before the warm-up: the window holds records only.
 * Certificates are not verified; what is measured is the server. The same caveats as for loadgen.c
 * hold: the generator's own core may be the limit (it does the same cryptography), so judge servers by
 * their CPU per request.
 *
 * Output: one JSON object. Exit code 0 or 1 (cannot run).
 */
#define _GNU_SOURCE
#include "_loadgen.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define EVENTS_MAX 1024
#define DRAIN_NS 1000000000ull

struct connection {
    int fd;
    SSL *ssl;
    unsigned sent, received;
    uint64_t started_ns;
};

static struct {
    const char *host, *tls;
    int port, connections, core;
    unsigned size;
    double seconds, warmup;
} options = {.host = "127.0.0.1", .tls = "1.3", .connections = 1, .core = -1, .size = 1024, .seconds = 2, .warmup = 0.3};

static struct histogram latency;
static struct connection *connections;
static int poller, alive, stopping, waiting;
static uint64_t completed, errors;
static char *payload, received[64 * 1024];

static void lost(struct connection *c, const char *what) {
    if (!errors++) fprintf(stderr, "connection %d: %s: %s\n", (int)(c - connections), what,
                           ERR_error_string(ERR_peek_last_error(), NULL));
    close(c->fd);
    c->fd = -1;
    alive--;
}

/* 1: done; 0: the socket is full or empty; -1: lost */
static int outcome(struct connection *c, int result, const char *what) {
    if (result > 0) return 1;
    int why = SSL_get_error(c->ssl, result);
    if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE) return 0;
    lost(c, what);
    return -1;
}

static void push(struct connection *c) {
    while (c->sent < options.size) {
        size_t n = 0;
        if (outcome(c, SSL_write_ex(c->ssl, payload + c->sent, options.size - c->sent, &n), "write") <= 0) return;
        c->sent += (unsigned)n;
    }
}

static void start_request(struct connection *c, uint64_t now) {
    c->started_ns = now;
    c->sent = c->received = 0;
    push(c);
}

static void pull(struct connection *c) {
    while (c->fd >= 0) {
        size_t n = 0;
        if (outcome(c, SSL_read_ex(c->ssl, received, sizeof received, &n), "read") <= 0) return;
        c->received += (unsigned)n;
        if (c->received < options.size) continue;
        uint64_t now = now_ns();
        histogram_add(&latency, now - c->started_ns);
        completed++;
        if (stopping) {
            waiting--;
            return;
        }
        start_request(c, now);
        if (!SSL_pending(c->ssl)) return; /* level-triggered: what comes later wakes us again */
    }
}

static void connect_all(void) {
    SSL_CTX *context = must(SSL_CTX_new(TLS_client_method()));
    int version = strcmp(options.tls, "1.2") ? TLS1_3_VERSION : TLS1_2_VERSION;
    SSL_CTX_set_min_proto_version(context, version);
    SSL_CTX_set_max_proto_version(context, version);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_read_ahead(context, 1); /* one recv() per record instead of two */
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    if (inet_pton(AF_INET, options.host, &address.sin_addr) != 1) die("%s: not an IPv4 address", options.host);
    for (int i = 0; i < options.connections; i++) {
        struct connection *c = &connections[i];
        c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (c->fd < 0) die("socket: %s", strerror(errno));
        if (connect(c->fd, (struct sockaddr *)&address, sizeof address))
            die("connect to %s port %d: %s", options.host, options.port, strerror(errno));
        int on = 1;
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        setsockopt(c->fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4); /* as loadgen.c does */
        c->ssl = must(SSL_new(context));
        SSL_set_fd(c->ssl, c->fd);
        if (SSL_connect(c->ssl) != 1) die("handshake: %s", ERR_error_string(ERR_get_error(), NULL));
        fcntl(c->fd, F_SETFL, O_NONBLOCK);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event)) die("epoll_ctl: %s", strerror(errno));
        alive++;
    }
    waiting = alive;
}

static void run_until(uint64_t deadline_ns) {
    static struct epoll_event events[EVENTS_MAX];
    while (alive && !(stopping && waiting <= 0)) {
        uint64_t now = now_ns();
        if (now >= deadline_ns) return;
        int n = epoll_wait(poller, events, EVENTS_MAX, (int)((deadline_ns - now + 999999) / 1000000));
        if (n < 0 && errno != EINTR) die("epoll_wait: %s", strerror(errno));
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (c->fd < 0) continue;
            /* Level-triggered on input only: a full socket empties while its echo comes in. */
            if (c->sent < options.size) push(c);
            if (c->fd >= 0) pull(c);
        }
    }
}

static void parse(int argc, char **argv, struct window *window) {
    static const struct option names[] = {
        {"host", 1, 0, 'h'},   {"port", 1, 0, 'p'}, {"connections", 1, 0, 'n'}, {"size", 1, 0, 's'}, {"seconds", 1, 0, 't'},
        {"warmup", 1, 0, 'w'}, {"core", 1, 0, 'c'}, {"pid", 1, 0, 'i'},         {"tls", 1, 0, 'v'},  {0, 0, 0, 0}};
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) switch (c) {
        case 'h': options.host = optarg; break;
        case 'p': options.port = (int)number("--port", optarg, 1, 65535); break;
        case 'n': options.connections = (int)number("--connections", optarg, 1, 1e6); break;
        case 's': options.size = (unsigned)number("--size", optarg, 1, 1 << 28); break;
        case 't': options.seconds = number("--seconds", optarg, 0.01, 3600); break;
        case 'w': options.warmup = number("--warmup", optarg, 0, 3600); break;
        case 'c': options.core = (int)number("--core", optarg, -1, 4095); break;
        case 'i': window->pid = (pid_t)number("--pid", optarg, 1, 1e9); break;
        case 'v': options.tls = optarg; break;
        default: exit(2);
        }
    if (!options.port || optind != argc) die("usage: tls_loadgen --port N [--connections N] [--size BYTES] [--seconds S] "
                                             "[--warmup S] [--core N] [--pid SERVER] [--tls 1.2|1.3]");
}

int main(int argc, char **argv) {
    static struct window window;
    parse(argc, argv, &window);
    pin_to_core(options.core);
    raise_nofile((unsigned)options.connections + 64);
    connections = must(calloc((size_t)options.connections, sizeof *connections));
    payload = must(malloc(options.size));
    for (unsigned i = 0; i < options.size; i++) payload[i] = (char)('a' + i % 26);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0) die("epoll_create1: %s", strerror(errno));
    connect_all();
    for (int i = 0; i < options.connections; i++) start_request(&connections[i], now_ns());
    run_until(now_ns() + (uint64_t)(options.warmup * 1e9));
    memset(&latency, 0, sizeof latency);
    completed = 0;
    window_open(&window);
    run_until(window.begin_ns + (uint64_t)(options.seconds * 1e9));
    window_close(&window);
    uint64_t requests = completed;
    struct histogram measured = latency;
    stopping = 1;
    run_until(now_ns() + DRAIN_NS);

    double seconds = (double)(window.end_ns - window.begin_ns) / 1e9;
    printf("{\"engine\": \"epoll\", \"tls\": \"%s\", \"connections\": %d, \"size\": %u, \"requests\": %llu, "
           "\"requests_per_s\": %.1f, \"errors\": %llu, \"unfinished\": %d, ",
           options.tls, options.connections, options.size, (unsigned long long)requests, (double)requests / seconds,
           (unsigned long long)errors, waiting);
    histogram_json(&measured, "latency_us");
    printf(", ");
    window_json(&window);
    printf("}\n");
    return 0;
}

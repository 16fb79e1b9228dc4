/* A closed-loop TCP echo load generator: N connections, each with one request under way.
 *
 * It must not be the bottleneck, so it does as little as it can per request. On a ring
 * (_load_uring.h), where the kernel allows one; else on edge-triggered epoll (level triggering polls
 * every ready socket a second time) with one send, one receive that discards in the kernel
 * (MSG_TRUNC) and one clock reading. It reports its share of its core as "load.busy"; near 1.0 the
 * figure may be about the generator, and the harness says so.
 *
 * The latency of a closed loop leaves out the requests that a stalled server kept from being sent
 * ("coordinated omission"): compare it between servers, do not quote it for an open arrival rate.
 *
 * --verify sends random bytes in random lengths and chunks instead, compares every byte that comes
 * back, half-closes, and expects exactly the end of the stream.
 *
 * Output: one JSON object. Exit code 0, 1 (cannot run), 3 (wrong or missing bytes).
 */
#define _GNU_SOURCE
#include "_loadgen.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "_ring.h"

#define EVENTS_MAX 1024
#define RECEIVE_SIZE (256 * 1024)
/* Time for the last responses after the window, before the connections are closed. */
#define DRAIN_NS 1000000000ull

struct connection {
    int fd;
    unsigned size;       /* bytes of this request */
    unsigned sent, received;
    uint64_t started_ns;
    uint64_t random;     /* verify: generator state */
    char *request;       /* verify: what must come back; else the shared payload */
    int closing;
};

static struct {
    const char *host, *engine;
    int port, connections, core, verify;
    unsigned size;
    double seconds, warmup;
    uint64_t seed;
} options = {.host = "127.0.0.1", .engine = "auto", .connections = 1, .core = -1, .size = 1024, .seconds = 2, .warmup = 0.3};

static struct histogram latency;
static struct connection *connections;
static int poller, alive;
static uint64_t completed, errors, mismatches, verified_bytes;
static int stopping; /* no new requests */
static int on_ring;
static char receive_buffer[RECEIVE_SIZE];

static uint64_t next_random(uint64_t *state) { /* xorshift64*: Vigna 2016 */
    uint64_t x = *state;
    x ^= x >> 12, x ^= x << 25, x ^= x >> 27;
    *state = x;
    return x * 0x2545F4914F6CDD1Dull;
}

static void lost(struct connection *c, const char *what, int code) {
    if (!errors++) fprintf(stderr, "connection %d: %s: %s\n", (int)(c - connections), what, strerror(code));
    close(c->fd);
    c->fd = -1;
    alive--;
}

static void finish(struct connection *c) {
    close(c->fd);
    c->fd = -1;
    alive--;
}

static void start_request(struct connection *c, uint64_t now) {
    c->started_ns = now;
    c->sent = c->received = 0;
    if (options.verify) {
        c->size = 1 + (unsigned)(next_random(&c->random) % options.size);
        for (unsigned i = 0; i < c->size; i += 8) {
            uint64_t bytes = next_random(&c->random);
            memcpy(c->request + i, &bytes, c->size - i < 8 ? c->size - i : 8);
        }
    }
}

/* Send until the request is out or the socket is full. */
static int push(struct connection *c) {
    while (c->sent < c->size) {
        unsigned chunk = c->size - c->sent;
        if (options.verify && chunk > 1) chunk = 1 + (unsigned)(next_random(&c->random) % chunk);
        ssize_t n = send(c->fd, c->request + c->sent, chunk, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) return 1;
            if (errno == EINTR) continue;
            lost(c, "send", errno);
            return 0;
        }
        c->sent += (unsigned)n;
    }
    return 1;
}

static void half_close(struct connection *c) {
    c->closing = 1;
    shutdown(c->fd, SHUT_WR);
}

static void complete(struct connection *c) {
    uint64_t now = now_ns();
    histogram_add(&latency, now - c->started_ns);
    completed++;
    if (stopping) {
        half_close(c);
        return;
    }
    start_request(c, now);
    push(c);
}

/* Receive what there is. A receive shorter than asked emptied the socket: whatever comes later
 * raises a new edge, so no second call is needed to see EAGAIN. When the end of the stream came with
 * the bytes, though, this edge was for both (ended). */
static void pull(struct connection *c, int ended) {
    while (c->fd >= 0) {
        unsigned want = c->closing ? 1 : c->size - c->received;
        if (want > RECEIVE_SIZE) want = RECEIVE_SIZE;
        ssize_t n = recv(c->fd, receive_buffer, want, options.verify || c->closing ? 0 : MSG_TRUNC);
        if (n < 0) {
            if (errno == EAGAIN) return;
            if (errno == EINTR) continue;
            lost(c, "receive", errno);
            return;
        }
        if (n == 0) {
            if (c->closing)
                finish(c);
            else
                lost(c, "closed by the server", ECONNRESET);
            return;
        }
        if (c->closing) {
            mismatches++;
            lost(c, "bytes after the last response", EPROTO);
            return;
        }
        if (options.verify) {
            verified_bytes += (uint64_t)n;
            if (c->received + (unsigned)n > c->sent ||
                memcmp(receive_buffer, c->request + c->received, (size_t)n)) {
                mismatches++;
                lost(c, "echoed bytes differ", EPROTO);
                return;
            }
        }
        c->received += (unsigned)n;
        if (c->received == c->size) {
            complete(c);
            if (!ended) return;
        } else if ((unsigned)n < want && !ended) {
            return;
        }
    }
}

static void connect_all(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    if (inet_pton(AF_INET, options.host, &address.sin_addr) != 1) die("%s: not an IPv4 address", options.host);
    char *payload = must(malloc(options.size));
    for (unsigned i = 0; i < options.size; i++) payload[i] = (char)('a' + i % 26);
    for (int i = 0; i < options.connections; i++) {
        struct connection *c = &connections[i];
        /* Blocking connect: on loopback it returns when the peer's kernel has queued it. */
        c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (c->fd < 0) die("socket: %s", strerror(errno));
        if (connect(c->fd, (struct sockaddr *)&address, sizeof address))
            die("connect to %s port %d: %s", options.host, options.port, strerror(errno));
        int on = 1;
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        /* Always there and the cheapest; a system whose default is BBR keeps the default at the
         * server's end, and spends 5 % less at ours. Failure changes nothing but that. */
        setsockopt(c->fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
        c->size = options.size;
        c->request = options.verify ? must(malloc(options.size)) : payload;
        c->random = (options.seed + 1) * 0x9E3779B97F4A7C15ull ^ ((uint64_t)i << 32 | 0x5bd1e995u);
        alive++;
        if (on_ring) continue; /* which wants blocking sockets: O_NONBLOCK would mean "do not wait" */
        fcntl(c->fd, F_SETFL, O_NONBLOCK);
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event)) die("epoll_ctl: %s", strerror(errno));
    }
}

/* Serve events until the deadline or until no connection is left. */
static void epoll_run_until(uint64_t deadline_ns) {
    static struct epoll_event events[EVENTS_MAX];
    while (alive) {
        uint64_t now = now_ns();
        if (now >= deadline_ns) return;
        uint64_t left_ms = (deadline_ns - now + 999999) / 1000000;
        int n = epoll_wait(poller, events, EVENTS_MAX, (int)left_ms);
        if (n < 0 && errno != EINTR) die("epoll_wait: %s", strerror(errno));
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (c->fd < 0) continue;
            if (c->sent < c->size && !push(c)) continue;
            uint32_t ended = events[i].events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP);
            if (ended || events[i].events & EPOLLIN) pull(c, ended != 0);
        }
    }
}

static void epoll_start(void) {
    uint64_t now = now_ns();
    for (int i = 0; i < options.connections; i++) {
        start_request(&connections[i], now);
        push(&connections[i]);
    }
}

#include "_load_uring.h"

/* "auto" takes the ring where there is one; verifying needs the bytes, which the ring drops. */
static void choose_engine(void) {
    int want_ring = strcmp(options.engine, "epoll") && !options.verify, refused = ENOSYS;
    if (strcmp(options.engine, "auto") && strcmp(options.engine, "uring") && strcmp(options.engine, "epoll"))
        die("--engine: %s is none of auto, uring, epoll", options.engine);
#if RING_AVAILABLE
    /* Completions that nobody reaps while requests are queued must fit: a few per connection. */
    if (want_ring) refused = options.connections > RING_CQ_ENTRIES / 4 ? E2BIG : ring_open(&ring);
#endif
    on_ring = want_ring && !refused;
    if (!on_ring && !strcmp(options.engine, "uring"))
        die("--engine uring: %s", options.verify     ? "it drops the bytes that --verify compares"
                                  : refused == E2BIG ? "too many connections for its completion queue"
                                                     : strerror(refused));
}

static void run_until(uint64_t deadline_ns) {
#if RING_AVAILABLE
    if (on_ring) {
        uring_run_until(deadline_ns);
        return;
    }
#endif
    epoll_run_until(deadline_ns);
}

static void start(void) {
#if RING_AVAILABLE
    if (on_ring) {
        uring_start();
        return;
    }
#endif
    epoll_start();
}

static void parse(int argc, char **argv, struct window *window) {
    static const struct option names[] = {
        {"host", 1, 0, 'h'},   {"port", 1, 0, 'p'},    {"connections", 1, 0, 'n'}, {"size", 1, 0, 's'},
        {"seconds", 1, 0, 't'}, {"warmup", 1, 0, 'w'}, {"core", 1, 0, 'c'},        {"pid", 1, 0, 'i'},
        {"verify", 0, 0, 'v'}, {"seed", 1, 0, 'r'},   {"engine", 1, 0, 'e'},    {0, 0, 0, 0}};
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) switch (c) {
        case 'h': options.host = optarg; break;
        case 'p': options.port = (int)number("--port", optarg, 1, 65535); break;
        case 'n': options.connections = (int)number("--connections", optarg, 1, 1e6); break;
        case 's': options.size = (unsigned)number("--size", optarg, 1, 1 << 28); break;
        case 't': options.seconds = number("--seconds", optarg, 0.01, 3600); break;
        case 'w': options.warmup = number("--warmup", optarg, 0, 3600); break;
        case 'c': options.core = (int)number("--core", optarg, -1, 4095); break;
        case 'i': window->pid = (pid_t)number("--pid", optarg, 1, 1e9); break;
        case 'v': options.verify = 1; break;
        case 'r': options.seed = (uint64_t)number("--seed", optarg, 0, 9e15); break;
        case 'e': options.engine = optarg; break;
        default: exit(2);
        }
    if (!options.port || optind != argc) die("usage: loadgen --port N [--connections N] [--size BYTES] "
                                             "[--seconds S] [--warmup S] [--core N] [--pid SERVER] "
                                             "[--engine auto|uring|epoll] [--verify]");
}

int main(int argc, char **argv) {
    static struct window window;
    parse(argc, argv, &window);
    pin_to_core(options.core);
    raise_nofile((unsigned)options.connections + 64);
    connections = must(calloc((size_t)options.connections, sizeof *connections));
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0) die("epoll_create1: %s", strerror(errno));
    choose_engine();
    connect_all();
    start();
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
    printf("{\"engine\": \"%s\", \"connections\": %d, \"size\": %u, \"requests\": %llu, \"requests_per_s\": %.1f, "
           "\"errors\": %llu, \"unfinished\": %d, ",
           on_ring ? "uring" : "epoll", options.connections, options.size, (unsigned long long)requests, (double)requests / seconds,
           (unsigned long long)errors, alive);
    if (options.verify)
        printf("\"verified_bytes\": %llu, \"mismatches\": %llu, ", (unsigned long long)verified_bytes,
               (unsigned long long)mismatches);
    histogram_json(&measured, "latency_us");
    printf(", ");
    window_json(&window);
    printf("}\n");
    return options.verify && (errors || alive) ? 3 : 0;
}

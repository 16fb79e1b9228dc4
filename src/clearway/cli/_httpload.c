/* A small HTTP/1.1 load generator for keep-alive connections over loopback.
 *
 * Two classes of connections, each with latencies of its own: the *fast* class runs a closed loop
 * (the next request leaves when the response is complete), the *slow* class asks for another path at
 * a fixed rate, to see what handlers that take long do to everybody else.
 *
 * Latency is counted for every request that began within the window. Those still unanswered when
 * the window ends are waited for (--drain) and counted with their full latency; what then remains is
 * counted with its age and reported as unfinished: a stalled server must not look fast because its
 * worst requests never ended. Requests per second count what ended within the window.
 *
 * Responses may have Content-Length, chunks, or end with the connection, which is then opened anew.
 *
 * usage: httpload --port N [--connections N] [--path P] [--slow-connections N --slow-path P
 *        --slow-rate PER_SECOND] [--seconds S] [--warmup S] [--drain S] [--timeline-ms N]
 *        [--host H] [--core N] [--pid SERVER] [--discard]
 *
 * --discard has the kernel drop the bytes of bodies instead of copying them here: for large ones, where the
 * generator would be busier than the server.
 * Output: one JSON object. Exit code 0, or 1 when it could not run.
 */
#define _GNU_SOURCE
#include "_loadgen.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define EVENTS_MAX 1024
#define RECEIVE_SIZE (256 * 1024)
#define DISCARD_SIZE (16 * 1024 * 1024)
#define HEAD_MAX (16 * 1024)
#define REQUEST_MAX 4096
/* A connection that fails again and again must not fill the machine with attempts. */
#define RECONNECT_NS 10000000ull
#define TIMELINE_MAX 100000

enum { FAST, SLOW, CLASSES };

struct class {
    const char *name, *path;
    int connections;
    double rate; /* requests per second of the whole class; 0: closed loop */
    char request[REQUEST_MAX];
    size_t request_size;
    struct histogram latency;
    uint64_t completed, unfinished, not_2xx, connect_errors, broken, bytes;
    uint64_t *timeline_max, *timeline_count; /* per slot, by the time a request ended */
};

enum state { CLOSED, CONNECTING, IDLE, SENDING, HEAD, BODY_LENGTH, BODY_CHUNKED, BODY_TO_EOF };
enum chunk_state { CHUNK_SIZE, CHUNK_EXTENSION, CHUNK_DATA, CHUNK_DATA_END, TRAILER_START, TRAILER_LINE };

struct connection {
    int fd;
    struct class *class;
    enum state state;
    size_t sent;
    uint64_t started_ns;  /* of the request under way */
    uint64_t due_ns;      /* when to send (paced) or to connect again */
    uint64_t interval_ns; /* paced */
    int status, keep_alive, ok;
    uint64_t body_left;
    enum chunk_state chunk;
    size_t head_size;
    char head[HEAD_MAX];
};

static struct {
    const char *host;
    int port, core, discard;
    double seconds, warmup, drain, timeline_ms;
} options = {.host = "127.0.0.1", .core = -1, .seconds = 2, .warmup = 0.3, .drain = 2};

static struct class classes[CLASSES] = {
    {.name = "fast", .path = "/", .connections = 1},
    {.name = "slow", .path = "/slow", .connections = 0, .rate = 1},
};
static struct connection *connections;
static int total, poller;
static struct sockaddr_in address;
static struct window window;
static int measuring, draining;
static uint64_t slots, slot_ns;
static char buffer[RECEIVE_SIZE];

static void set_closed(struct connection *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    c->state = CLOSED;
}

static int in_flight(const struct connection *c) { return c->state >= SENDING; }

/* The request under way will get no answer. */
static void fail(struct connection *c, uint64_t now) {
    if (in_flight(c) && window.begin_ns && (measuring || c->started_ns >= window.begin_ns)) c->class->broken++;
    if (c->state == CONNECTING) c->class->connect_errors++;
    set_closed(c);
    c->due_ns = now + RECONNECT_NS;
}

static void watch(struct connection *c) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event)) die("epoll_ctl: %s", strerror(errno));
}

static void push(struct connection *c, uint64_t now) {
    struct class *k = c->class;
    while (c->sent < k->request_size) {
        ssize_t n = send(c->fd, k->request + c->sent, k->request_size - c->sent, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EINTR) continue;
            if (errno != EAGAIN) fail(c, now);
            return;
        }
        c->sent += (size_t)n;
    }
    c->state = HEAD;
}

static void start_request(struct connection *c, uint64_t now) {
    if (draining) {
        c->state = IDLE;
        return;
    }
    if (c->interval_ns) {
        if (now < c->due_ns) {
            c->state = IDLE;
            return;
        }
        /* Slots that passed while a response was awaited are skipped, not made up for. */
        c->due_ns += ((now - c->due_ns) / c->interval_ns + 1) * c->interval_ns;
    }
    c->started_ns = now;
    c->sent = c->head_size = 0;
    c->state = SENDING;
    push(c, now);
}

static void open_connection(struct connection *c, uint64_t now) {
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die("socket: %s", strerror(errno));
    int on = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(c->fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4); /* always there and the cheapest */
    c->state = CONNECTING;
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS) {
        fail(c, now);
        return;
    }
    watch(c);
}

static void finished(struct connection *c, uint64_t now) {
    struct class *k = c->class;
    uint64_t took = now - c->started_ns;
    if (window.begin_ns && c->started_ns >= window.begin_ns) histogram_add(&k->latency, took);
    if (measuring) {
        k->completed++;
        if (c->status < 200 || c->status > 299) k->not_2xx++;
    }
    if (slots && window.begin_ns) {
        uint64_t slot = (now - window.begin_ns) / slot_ns;
        if (slot < slots) {
            k->timeline_count[slot]++;
            if (took > k->timeline_max[slot]) k->timeline_max[slot] = took;
        }
    }
    if (!c->keep_alive) {
        set_closed(c);
        if (c->due_ns < now) c->due_ns = now;
        return;
    }
    start_request(c, now);
}

/* A header's value when the line is that header, else NULL. The line ends with a NUL. */
static const char *header(const char *line, const char *name) {
    size_t n = strlen(name);
    if (strncasecmp(line, name, n) || line[n] != ':') return NULL;
    line += n + 1;
    while (*line == ' ' || *line == '\t') line++;
    return line;
}

/* The head is complete in c->head. 0 when it is no HTTP response. */
static int parse_head(struct connection *c) {
    int minor;
    if (sscanf(c->head, "HTTP/1.%d %d", &minor, &c->status) != 2) return 0;
    int chunked = 0, have_length = 0;
    c->keep_alive = minor >= 1;
    c->body_left = 0;
    for (char *line = c->head; line && *line;) {
        char *end = strstr(line, "\r\n");
        if (end) *end = 0;
        const char *value;
        if ((value = header(line, "content-length"))) {
            c->body_left = strtoull(value, NULL, 10);
            have_length = 1;
        } else if ((value = header(line, "transfer-encoding"))) {
            chunked = strcasestr(value, "chunked") != NULL;
        } else if ((value = header(line, "connection"))) {
            if (strcasestr(value, "close")) c->keep_alive = 0;
            if (strcasestr(value, "keep-alive")) c->keep_alive = 1;
        }
        line = end ? end + 2 : NULL;
    }
    if (chunked) {
        c->state = BODY_CHUNKED;
        c->chunk = CHUNK_SIZE;
        c->body_left = 0;
    } else if (have_length || c->status == 204 || c->status == 304) {
        if (c->status == 204 || c->status == 304) c->body_left = 0;
        c->state = BODY_LENGTH;
    } else {
        c->state = BODY_TO_EOF;
        c->keep_alive = 0;
    }
    return 1;
}

static int hex(char ch) {
    if (ch >= '0' && ch <= '9') return ch - '0';
    ch = (char)(ch | 0x20);
    return ch >= 'a' && ch <= 'f' ? ch - 'a' + 10 : -1;
}

/* Consume chunked body bytes. 1: the body is complete, 0: more to come, -1: not chunks. */
static int take_chunks(struct connection *c, const char *data, size_t n, size_t *used) {
    size_t i = 0;
    while (i < n) {
        char ch = data[i];
        switch (c->chunk) {
        case CHUNK_SIZE:
            if (hex(ch) >= 0) {
                if (c->body_left >> 58) return -1;
                c->body_left = c->body_left * 16 + (uint64_t)hex(ch);
                i++;
                break;
            }
            c->chunk = CHUNK_EXTENSION;
            break;
        case CHUNK_EXTENSION:
            i++;
            if (ch == '\n') c->chunk = c->body_left ? CHUNK_DATA : TRAILER_START;
            break;
        case CHUNK_DATA: {
            uint64_t step = n - i < c->body_left ? n - i : c->body_left;
            i += step;
            c->body_left -= step;
            if (!c->body_left) c->chunk = CHUNK_DATA_END;
            break;
        }
        case CHUNK_DATA_END:
            i++;
            if (ch == '\n') c->chunk = CHUNK_SIZE;
            else if (ch != '\r') return -1;
            break;
        case TRAILER_START: /* an empty line ends the trailer */
            i++;
            if (ch == '\n') {
                *used = i;
                return 1;
            }
            if (ch != '\r') c->chunk = TRAILER_LINE;
            break;
        case TRAILER_LINE:
            i++;
            if (ch == '\n') c->chunk = TRAILER_START;
            break;
        }
    }
    *used = i;
    return 0;
}

/* n bytes arrived. 1: the response is complete, 0: more to come, -1: protocol error. */
static int take(struct connection *c, const char *data, size_t n) {
    c->class->bytes += n;
    if (c->state == SENDING || c->state == IDLE) return -1; /* an answer to nothing */
    if (c->state == HEAD) {
        size_t room = sizeof c->head - 1 - c->head_size, copied = n < room ? n : room;
        size_t from = c->head_size < 3 ? 0 : c->head_size - 3; /* the blank line may be split */
        memcpy(c->head + c->head_size, data, copied);
        c->head_size += copied;
        char *end = memmem(c->head + from, c->head_size - from, "\r\n\r\n", 4);
        if (!end) return c->head_size == sizeof c->head - 1 ? -1 : 0;
        size_t head_size = (size_t)(end - c->head) + 4, before = c->head_size - copied;
        data += head_size - before;
        n -= head_size - before;
        end[2] = 0;
        c->head_size = 0;
        if (!parse_head(c)) return -1;
        if (c->status >= 100 && c->status < 200) { /* interim: the real one follows */
            c->state = HEAD;
            return n ? take(c, data, n) : 0;
        }
    }
    size_t used = n;
    int done = 0;
    if (c->state == BODY_LENGTH) {
        used = n < c->body_left ? n : c->body_left;
        c->body_left -= used;
        done = c->body_left == 0;
    } else if (c->state == BODY_CHUNKED) {
        done = take_chunks(c, data, n, &used);
    }
    if (done > 0 && used != n) return -1; /* nothing was pipelined: surplus bytes are an error */
    return done;
}

/* A receive shorter than asked emptied the socket, and what comes later is a new edge; but when the
 * end of the stream came with the bytes, this edge was for both (ended). */
static void pull(struct connection *c, int ended) {
    while (c->fd >= 0) {
        /* What is certainly body is dropped in the kernel (MSG_TRUNC, tcp(7)): the bytes are not what is measured. */
        int drop = options.discard && c->state == BODY_LENGTH && c->body_left > 0;
        size_t room = !drop ? sizeof buffer : c->body_left < DISCARD_SIZE ? c->body_left : DISCARD_SIZE;
        ssize_t n = recv(c->fd, drop ? NULL : buffer, room, drop ? MSG_TRUNC : 0);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) return;
        uint64_t now = now_ns();
        if (n == 0 && c->state == BODY_TO_EOF) {
            finished(c, now);
            return;
        }
        if (n == 0 && c->state == IDLE) { /* a keep-alive time-out between two requests */
            set_closed(c);
            return;
        }
        if (n <= 0) {
            fail(c, now);
            return;
        }
        int done = take(c, buffer, (size_t)n);
        if (done < 0) {
            fail(c, now);
            return;
        }
        if (done) finished(c, now);
        if ((size_t)n < room && !ended) return;
    }
}

static void on_event(struct connection *c, uint32_t events, uint64_t now) {
    if (c->fd < 0) return;
    if (c->state == CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) {
            fail(c, now);
            return;
        }
        if (!(events & EPOLLOUT)) return;
        start_request(c, now);
        return;
    }
    if (c->state == SENDING) push(c, now);
    uint32_t ended = events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP);
    if (ended || events & EPOLLIN) pull(c, ended != 0);
}

/* Send what is due and open what is closed; return when to look again. */
static uint64_t tend(uint64_t now, uint64_t deadline_ns) {
    uint64_t next = deadline_ns;
    if (draining) return next;
    for (int i = 0; i < total; i++) {
        struct connection *c = &connections[i];
        if (c->state != CLOSED && c->state != IDLE) continue;
        if (c->due_ns <= now) {
            if (c->state == CLOSED)
                open_connection(c, now);
            else
                start_request(c, now);
        }
        if ((c->state == CLOSED || c->state == IDLE) && c->due_ns < next) next = c->due_ns;
    }
    return next;
}

/* In the closed loop no connection is ever idle, so looking through all of them for one that is due
 * happens only when the next due time has come, or when one was closed. */
static void run_until(uint64_t deadline_ns) {
    static struct epoll_event events[EVENTS_MAX];
    uint64_t next = 0;
    for (;;) {
        uint64_t now = now_ns();
        if (now >= deadline_ns) return;
        if (now >= next) next = tend(now, deadline_ns);
        int busy = 0;
        if (draining) {
            for (int i = 0; i < total && !busy; i++) busy = in_flight(&connections[i]);
            if (!busy) return;
        }
        uint64_t until = next < deadline_ns ? next : deadline_ns;
        int wait_ms = until > now ? (int)((until - now + 999999) / 1000000) : 0;
        int n = epoll_wait(poller, events, EVENTS_MAX, wait_ms);
        if (n < 0 && errno != EINTR) die("epoll_wait: %s", strerror(errno));
        if (n > 0) now = now_ns();
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            on_event(c, events[i].events, now);
            if ((c->state == CLOSED || c->state == IDLE) && c->due_ns < next) next = c->due_ns;
        }
    }
}

static void prepare(void) {
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)options.port);
    if (inet_pton(AF_INET, options.host, &address.sin_addr) != 1) die("%s: not an IPv4 address", options.host);
    total = classes[FAST].connections + classes[SLOW].connections;
    if (!total) die("no connections asked for");
    raise_nofile((unsigned)total + 64);
    connections = must(calloc((size_t)total, sizeof *connections));
    if (options.timeline_ms > 0) {
        slot_ns = (uint64_t)(options.timeline_ms * 1e6);
        slots = (uint64_t)(options.seconds * 1e9) / slot_ns + 1;
        if (slots > TIMELINE_MAX) die("--timeline-ms: more than %d slots", TIMELINE_MAX);
    }
    uint64_t now = now_ns();
    int at = 0;
    for (int k = 0; k < CLASSES; k++) {
        struct class *class = &classes[k];
        int size = snprintf(class->request, sizeof class->request,
                            "GET %s HTTP/1.1\r\nHost: %s:%d\r\nUser-Agent: clearway-httpload\r\n"
                            "Accept: */*\r\n\r\n",
                            class->path, options.host, options.port);
        if (class->path[0] != '/' || strpbrk(class->path, " \"\\\r\n") || size >= (int)sizeof class->request)
            die("%s: not a path", class->path);
        class->request_size = (size_t)size;
        class->timeline_max = must(calloc(slots + 1, sizeof(uint64_t)));
        class->timeline_count = must(calloc(slots + 1, sizeof(uint64_t)));
        for (int i = 0; i < class->connections; i++) {
            struct connection *c = &connections[at++];
            c->fd = -1;
            c->class = class;
            c->due_ns = now;
            if (class->rate > 0) {
                c->interval_ns = (uint64_t)((double)class->connections / class->rate * 1e9);
                c->due_ns += c->interval_ns * (uint64_t)i / (uint64_t)class->connections;
            }
        }
    }
}

static void count_unfinished(void) {
    uint64_t now = now_ns();
    for (int i = 0; i < total; i++) {
        struct connection *c = &connections[i];
        if (!in_flight(c) || c->started_ns < window.begin_ns) continue;
        c->class->unfinished++;
        histogram_add(&c->class->latency, now - c->started_ns);
    }
}

static void class_json(const struct class *k, double seconds) {
    printf("\"%s\": {\"path\": \"%s\", \"connections\": %d, \"requests\": %llu, \"requests_per_s\": %.1f, "
           "\"not_2xx\": %llu, \"connect_errors\": %llu, \"broken\": %llu, \"unfinished\": %llu, "
           "\"bytes\": %llu, ",
           k->name, k->path, k->connections, (unsigned long long)k->completed, (double)k->completed / seconds,
           (unsigned long long)k->not_2xx, (unsigned long long)k->connect_errors,
           (unsigned long long)k->broken, (unsigned long long)k->unfinished, (unsigned long long)k->bytes);
    histogram_json(&k->latency, "latency_us");
    if (slots) {
        printf(", \"timeline_ms\": %g, \"timeline\": [", options.timeline_ms);
        for (uint64_t i = 0; i + 1 < slots; i++)
            printf("%s[%llu, %.1f]", i ? ", " : "", (unsigned long long)k->timeline_count[i],
                   (double)k->timeline_max[i] / 1e3);
        printf("]");
    }
    printf("}");
}

static void parse(int argc, char **argv) {
    static const struct option names[] = {
        {"host", 1, 0, 'h'},        {"port", 1, 0, 'p'},      {"connections", 1, 0, 'n'}, {"path", 1, 0, 'a'},
        {"slow-connections", 1, 0, 'N'}, {"slow-path", 1, 0, 'A'}, {"slow-rate", 1, 0, 'R'}, {"seconds", 1, 0, 't'},
        {"warmup", 1, 0, 'w'},      {"drain", 1, 0, 'd'},     {"timeline-ms", 1, 0, 'm'}, {"core", 1, 0, 'c'},
        {"pid", 1, 0, 'i'},         {"discard", 0, 0, 'D'},   {0, 0, 0, 0}};
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) switch (c) {
        case 'h': options.host = optarg; break;
        case 'p': options.port = (int)number("--port", optarg, 1, 65535); break;
        case 'n': classes[FAST].connections = (int)number("--connections", optarg, 0, 1e5); break;
        case 'a': classes[FAST].path = optarg; break;
        case 'N': classes[SLOW].connections = (int)number("--slow-connections", optarg, 0, 1e5); break;
        case 'A': classes[SLOW].path = optarg; break;
        case 'R': classes[SLOW].rate = number("--slow-rate", optarg, 1e-3, 1e6); break;
        case 't': options.seconds = number("--seconds", optarg, 0.01, 3600); break;
        case 'w': options.warmup = number("--warmup", optarg, 0, 3600); break;
        case 'd': options.drain = number("--drain", optarg, 0, 3600); break;
        case 'm': options.timeline_ms = number("--timeline-ms", optarg, 1, 1e6); break;
        case 'c': options.core = (int)number("--core", optarg, -1, 4095); break;
        case 'D': options.discard = 1; break;
        case 'i': window.pid = (pid_t)number("--pid", optarg, 1, 1e9); break;
        default: exit(2);
        }
    if (!options.port || optind != argc) die("usage: httpload --port N [options]; see the head of _httpload.c");
}

int main(int argc, char **argv) {
    parse(argc, argv);
    pin_to_core(options.core);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0) die("epoll_create1: %s", strerror(errno));
    prepare();
    run_until(now_ns() + (uint64_t)(options.warmup * 1e9));
    uint64_t warm_bytes[CLASSES];
    for (int k = 0; k < CLASSES; k++) warm_bytes[k] = classes[k].bytes;
    window_open(&window);
    measuring = 1;
    run_until(window.begin_ns + (uint64_t)(options.seconds * 1e9));
    measuring = 0;
    window_close(&window);
    for (int k = 0; k < CLASSES; k++) classes[k].bytes -= warm_bytes[k];
    struct class counted[CLASSES];
    memcpy(counted, classes, sizeof counted);
    draining = 1;
    run_until(now_ns() + (uint64_t)(options.drain * 1e9));
    count_unfinished();

    printf("{");
    double seconds = (double)(window.end_ns - window.begin_ns) / 1e9;
    for (int k = 0; k < CLASSES; k++) {
        if (!classes[k].connections) continue;
        /* What began in the window and ended (or broke) in the drain belongs to it; rates do not. */
        counted[k].latency = classes[k].latency;
        counted[k].unfinished = classes[k].unfinished;
        counted[k].broken = classes[k].broken;
        class_json(&counted[k], seconds);
        printf(", ");
    }
    window_json(&window);
    printf("}\n");
    return 0;
}

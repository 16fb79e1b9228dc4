/* Many datagrams per system call: the message headers, and the addresses of peers seen before. */
#ifndef CLEARWAY_DGRAM_H
#define CLEARWAY_DGRAM_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

#define CW_DG_BATCH 32
/* What a message that the kernel cuts into datagrams may hold: a UDP packet's payload, rounded down. */
#define CW_DG_CUT 65000
/* asyncio's limit. UDP stops at 64 KiB, a Unix datagram at the sender's SO_SNDBUF (208 KiB by default). */
#define CW_DG_SIZE (256 * 1024)
/* Not a multiple of 4 KiB: else the first bytes of all slots would fall into the same few cache sets. */
#define CW_DG_STRIDE (CW_DG_SIZE + 576)

typedef union {
    struct sockaddr any;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
    struct sockaddr_un un;
} cw_dg_name;

typedef struct {
    char *memory; /* CW_DG_BATCH * CW_DG_STRIDE, touched only as far as datagrams are long */
    struct mmsghdr in[CW_DG_BATCH];
    struct iovec in_vec[CW_DG_BATCH];
    cw_dg_name names[CW_DG_BATCH];
    struct mmsghdr out[CW_DG_BATCH];
    struct iovec out_vec[CW_DG_BATCH];
    struct sockaddr_in6 out_names[CW_DG_BATCH];
    /* The same datagrams in fewer messages, each of `runs` datagrams of one size to one peer. */
    struct mmsghdr cut[CW_DG_BATCH];
    int runs[CW_DG_BATCH];
    union {
        char bytes[CMSG_SPACE(sizeof(uint16_t))];
        struct cmsghdr align;
    } sizes[CW_DG_BATCH];
} cw_dg;

static inline cw_dg *cw_dg_open(void) {
    cw_dg *d = (cw_dg *)calloc(1, sizeof *d);
    if (d == NULL)
        return NULL;
    d->memory = (char *)malloc((size_t)CW_DG_BATCH * CW_DG_STRIDE);
    if (d->memory == NULL) {
        free(d);
        return NULL;
    }
    for (int i = 0; i < CW_DG_BATCH; i++) {
        d->in_vec[i].iov_base = d->memory + (size_t)i * CW_DG_STRIDE;
        d->in_vec[i].iov_len = CW_DG_SIZE;
        d->in[i].msg_hdr.msg_iov = &d->in_vec[i];
        d->in[i].msg_hdr.msg_iovlen = 1;
        d->in[i].msg_hdr.msg_name = &d->names[i];
        d->out[i].msg_hdr.msg_iov = &d->out_vec[i];
        d->out[i].msg_hdr.msg_iovlen = 1;
    }
    return d;
}

static inline void cw_dg_close(cw_dg *d) {
    if (d != NULL) {
        free(d->memory);
        free(d);
    }
}

/* How many arrived, -1 with errno. */
static inline int cw_dg_receive(cw_dg *d, int fd) {
    for (int i = 0; i < CW_DG_BATCH; i++)
        d->in[i].msg_hdr.msg_namelen = sizeof(cw_dg_name);
    return recvmmsg(fd, d->in, CW_DG_BATCH, MSG_DONTWAIT, NULL);
}
static inline const char *cw_dg_data(cw_dg *d, int i) { return (const char *)d->in_vec[i].iov_base; }
static inline unsigned cw_dg_length(cw_dg *d, int i) { return d->in[i].msg_len; }
static inline cw_dg_name *cw_dg_from(cw_dg *d, int i) { return &d->names[i]; }
static inline unsigned cw_dg_from_length(cw_dg *d, int i) { return d->in[i].msg_hdr.msg_namelen; }
static inline int cw_dg_family(const cw_dg_name *n, unsigned length) {
    return length < sizeof(sa_family_t) ? -1 : n->any.sa_family;
}

static inline void cw_dg_put(cw_dg *d, int i, const void *data, size_t size,
                             const struct sockaddr_in6 *name, unsigned length) {
    d->out_vec[i].iov_base = (void *)data;
    d->out_vec[i].iov_len = size;
    if (length)
        memcpy(&d->out_names[i], name, length);
    d->out[i].msg_hdr.msg_name = length ? &d->out_names[i] : NULL;
    d->out[i].msg_hdr.msg_namelen = length;
}
static inline int cw_dg_send(cw_dg *d, int fd, int count) {
    if (count == 1) {
        ssize_t n = sendto(fd, d->out_vec[0].iov_base, d->out_vec[0].iov_len,
                           MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)d->out[0].msg_hdr.msg_name,
                           d->out[0].msg_hdr.msg_namelen);
        return n < 0 ? -1 : 1;
    }
    return sendmmsg(fd, d->out, count, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Whether this is a UDP socket of a kernel that cuts messages (Linux 4.18): an older one would send all as one datagram. */
static inline int cw_dg_can_cut(int fd) {
    int size = 0;
    socklen_t length = sizeof size;
    return getsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &size, &length) == 0;
}

/* Do datagrams a and b go to the same peer? */
static inline int cw_dg_together(const cw_dg *d, int a, int b) {
    unsigned length = d->out[a].msg_hdr.msg_namelen;
    if (length != d->out[b].msg_hdr.msg_namelen)
        return 0;
    if (length == sizeof(struct sockaddr_in)) /* sin_zero may hold anything */
        length = offsetof(struct sockaddr_in, sin_zero);
    return memcmp(&d->out_names[a], &d->out_names[b], length) == 0;
}

/* Pack `count` datagrams into fewer messages: how many; `count` where none go together. Only the last datagram of a message may
 * be shorter than the others, and none is empty: that is how the kernel finds where to cut. */
static inline int cw_dg_pack(cw_dg *d, int count) {
    int messages = 0;
    for (int i = 0; i < count; messages++) {
        size_t size = d->out_vec[i].iov_len, all = size;
        int run = 1;
        while (size > 0 && i + run < count) {
            size_t next = d->out_vec[i + run].iov_len;
            if (next == 0 || next > size || all + next > CW_DG_CUT || !cw_dg_together(d, i, i + run))
                break;
            all += next;
            run++;
            if (next < size)
                break;
        }
        struct msghdr *m = &d->cut[messages].msg_hdr;
        *m = d->out[i].msg_hdr;
        m->msg_iovlen = (size_t)run;
        if (run > 1) {
            m->msg_control = d->sizes[messages].bytes;
            m->msg_controllen = sizeof d->sizes[messages].bytes;
            struct cmsghdr *c = CMSG_FIRSTHDR(m);
            uint16_t cut = (uint16_t)size;
            c->cmsg_level = IPPROTO_UDP;
            c->cmsg_type = UDP_SEGMENT;
            c->cmsg_len = CMSG_LEN(sizeof cut);
            memcpy(CMSG_DATA(c), &cut, sizeof cut);
        }
        d->runs[messages] = run;
        i += run;
    }
    return messages;
}

/* Send in messages that the kernel cuts: how many datagrams left, -1 with errno. *refused is set where this socket or the way
 * to the peer does not take such messages (a datagram longer than its MTU, say); all then leave as they are. */
static inline int cw_dg_send_cut(cw_dg *d, int fd, int count, int *refused) {
    int messages = count > 1 ? cw_dg_pack(d, count) : count;
    if (messages == count)
        return cw_dg_send(d, fd, count);
    int left = sendmmsg(fd, d->cut, (unsigned)messages, MSG_DONTWAIT | MSG_NOSIGNAL), sent = 0;
    if (left < 0) {
        if (d->runs[0] == 1 || (errno != EINVAL && errno != EMSGSIZE && errno != EIO && errno != EOPNOTSUPP))
            return -1;
        *refused = 1;
        return cw_dg_send(d, fd, count);
    }
    for (int i = 0; i < left; i++)
        sent += d->runs[i];
    return sent;
}

/* Where a peer's entry may lie: Fibonacci hashing of its address and port. */
static inline unsigned cw_dg_hash(const cw_dg_name *n, unsigned bits) {
    uint64_t h;
    if (n->any.sa_family == AF_INET) {
        h = ((uint64_t)n->in.sin_addr.s_addr << 16) ^ n->in.sin_port;
    } else {
        uint64_t half[2];
        memcpy(half, &n->in6.sin6_addr, 16);
        h = half[0] ^ (half[1] * 31) ^ n->in6.sin6_port ^ ((uint64_t)n->in6.sin6_scope_id << 32);
    }
    return (unsigned)((h * 0x9E3779B97F4A7C15ULL) >> (64 - bits));
}
static inline unsigned cw_dg_pointer_hash(const void *p, unsigned bits) {
    return (unsigned)((((uint64_t)(uintptr_t)p >> 4) * 0x9E3779B97F4A7C15ULL) >> (64 - bits));
}
static inline int cw_dg_same(const struct sockaddr_in6 *a, unsigned a_length, const cw_dg_name *b,
                             unsigned b_length) {
    /* sin_zero is not the kernel's to fill: an IPv4 name counts up to its address. */
    if (a_length != b_length || ((const struct sockaddr *)a)->sa_family != b->any.sa_family)
        return 0;
    if (b->any.sa_family == AF_INET)
        return memcmp(a, b, offsetof(struct sockaddr_in, sin_zero)) == 0;
    return memcmp(a, b, sizeof(struct sockaddr_in6)) == 0;
}
#endif

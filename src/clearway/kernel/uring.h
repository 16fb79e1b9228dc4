/* The io_uring ABI and its three system calls, in as much as clearway needs them.
 *
 * liburing is not used: the version in stable distributions predates the flags that matter here, and what is
 * needed is small. Values and layouts are those of include/uapi/linux/io_uring.h; the kernel version in which
 * a flag appeared stands beside it. The indices shared with the kernel are read with acquire and written with
 * release order, which costs nothing on x86-64 and is required on aarch64.
 */
#ifndef CLEARWAY_URING_H
#define CLEARWAY_URING_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/socket.h>
#include <unistd.h>

#define CW_SYS_SETUP 425
#define CW_SYS_ENTER 426
#define CW_SYS_REGISTER 427

/* io_uring_setup flags */
#define CW_SETUP_CQSIZE (1U << 3)
#define CW_SETUP_CLAMP (1U << 4)
#define CW_SETUP_R_DISABLED (1U << 6)
#define CW_SETUP_SUBMIT_ALL (1U << 7)     /* 5.18 */
#define CW_SETUP_TASKRUN_FLAG (1U << 9)   /* 5.19 */
#define CW_SETUP_SINGLE_ISSUER (1U << 12) /* 6.0 */
#define CW_SETUP_DEFER_TASKRUN (1U << 13) /* 6.1 */
#define CW_SETUP_NO_SQARRAY (1U << 16)    /* 6.6 */

/* io_uring_enter flags */
#define CW_ENTER_GETEVENTS (1U << 0)
#define CW_ENTER_EXT_ARG (1U << 3)
#define CW_ENTER_REGISTERED_RING (1U << 4) /* 5.18 */
#define CW_ENTER_NO_IOWAIT (1U << 7)       /* 6.15 */

/* features */
#define CW_FEAT_NODROP (1U << 1)
#define CW_FEAT_SUBMIT_STABLE (1U << 2)
#define CW_FEAT_FAST_POLL (1U << 5)
#define CW_FEAT_EXT_ARG (1U << 8)
#define CW_FEAT_CQE_SKIP (1U << 11)
#define CW_FEAT_REG_REG_RING (1U << 13)
#define CW_FEAT_RECVSEND_BUNDLE (1U << 14)
#define CW_FEAT_NO_IOWAIT (1U << 17)

#define CW_SQ_CQ_OVERFLOW (1U << 1)
#define CW_SQ_TASKRUN (1U << 2)

#define CW_OFF_SQ_RING 0ULL
#define CW_OFF_SQES 0x10000000ULL

/* io_uring_register operations */
#define CW_REGISTER_PROBE 8
#define CW_REGISTER_ENABLE_RINGS 12
#define CW_REGISTER_RING_FDS 20
#define CW_UNREGISTER_RING_FDS 21
#define CW_REGISTER_PBUF_RING 22
#define CW_UNREGISTER_PBUF_RING 23
#define CW_REGISTER_IOWQ_MAX_WORKERS 19 /* 5.15 */

/* operations */
#define CW_OP_NOP 0
#define CW_OP_FSYNC 3
#define CW_OP_POLL_ADD 6
#define CW_OP_SENDMSG 9
#define CW_OP_ACCEPT 13
#define CW_OP_ASYNC_CANCEL 14
#define CW_OP_OPENAT 18
#define CW_OP_CLOSE 19
#define CW_OP_STATX 21
#define CW_OP_READ 22
#define CW_OP_WRITE 23
#define CW_OP_SEND 26
#define CW_OP_RECV 27
#define CW_OP_RENAMEAT 35
#define CW_OP_UNLINKAT 36
#define CW_OP_MKDIRAT 37
#define CW_OP_SYMLINKAT 38
#define CW_OP_LINKAT 39
#define CW_OP_SEND_ZC 47
#define CW_OP_SENDMSG_ZC 48

#define CW_SQE_ASYNC (1U << 4)
#define CW_SQE_BUFFER_SELECT (1U << 5)
#define CW_SQE_CQE_SKIP_SUCCESS (1U << 6)
#define CW_RECVSEND_POLL_FIRST (1U << 0)
#define CW_RECV_MULTISHOT (1U << 1)
#define CW_ACCEPT_MULTISHOT (1U << 0)

#define CW_CQE_F_BUFFER (1U << 0)
#define CW_CQE_F_MORE (1U << 1)
#define CW_CQE_F_NOTIF (1U << 3)
#define CW_CQE_BUFFER_SHIFT 16

struct cw_sqe {
    uint8_t opcode;
    uint8_t flags;
    uint16_t ioprio;
    int32_t fd;
    uint64_t off;
    uint64_t addr;
    uint32_t len;
    uint32_t op_flags;
    uint64_t user_data;
    uint16_t buf_group;
    uint16_t personality;
    int32_t file_index;
    uint64_t pad[2];
};

struct cw_cqe {
    uint64_t user_data;
    int32_t res;
    uint32_t flags;
};

struct cw_sq_offsets {
    uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array, resv1;
    uint64_t user_addr;
};
struct cw_cq_offsets {
    uint32_t head, tail, ring_mask, ring_entries, overflow, cqes, flags, resv1;
    uint64_t user_addr;
};
struct cw_params {
    uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd, resv[3];
    struct cw_sq_offsets sq;
    struct cw_cq_offsets cq;
};
struct cw_getevents_arg {
    uint64_t sigmask;
    uint32_t sigmask_sz;
    uint32_t min_wait_usec;
    uint64_t ts;
};
struct cw_timespec {
    int64_t sec;
    long long nsec;
};
struct cw_rsrc_update {
    uint32_t offset;
    uint32_t resv;
    uint64_t data;
};
struct cw_buf {
    uint64_t addr;
    uint32_t len;
    uint16_t bid;
    uint16_t tail; /* of the ring, in its first entry only */
};
struct cw_buf_reg {
    uint64_t ring_addr;
    uint32_t ring_entries;
    uint16_t bgid;
    uint16_t flags;
    uint64_t resv[3];
};
struct cw_probe_op {
    uint8_t op, resv;
    uint16_t flags;
    uint32_t resv2;
};
struct cw_probe {
    uint8_t last_op, ops_len;
    uint16_t resv;
    uint32_t resv2[3];
    struct cw_probe_op ops[64];
};

struct cw_ring {
    int fd;
    int enter_fd;         /* the registered index while enter_flags has REGISTERED_RING */
    uint32_t enter_flags; /* or-ed into every enter */
    uint32_t setup_flags;
    uint32_t features;
    uint32_t *sq_head, *sq_tail, *sq_flags;
    uint32_t sq_mask, sq_entries, sq_local;
    struct cw_sqe *sqes;
    uint32_t *cq_head, *cq_tail, *cq_overflow;
    uint32_t cq_mask;
    struct cw_cqe *cqes;
    void *ring_map, *sqe_map;
    size_t ring_size, sqe_size;
};

static inline uint32_t cw_load(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void cw_store(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }

static inline int cw_register(struct cw_ring *r, unsigned op, void *arg, unsigned n) {
    int rc = (int)syscall(CW_SYS_REGISTER, r->fd, op, arg, n);
    return rc < 0 ? -errno : rc;
}

static void cw_ring_close(struct cw_ring *r) {
    if (r->ring_map)
        munmap(r->ring_map, r->ring_size);
    if (r->sqe_map)
        munmap(r->sqe_map, r->sqe_size);
    if (r->fd >= 0)
        close(r->fd);
    memset(r, 0, sizeof *r);
    r->fd = -1;
}

/* In the child of a fork: the mappings are not there (MADV_DONTFORK), only the descriptor is. */
static void cw_ring_abandon(struct cw_ring *r) {
    if (r->fd >= 0)
        close(r->fd);
    memset(r, 0, sizeof *r);
    r->fd = -1;
}

/* Create a disabled ring. Returns 0 or -errno. EINVAL on the last rung means a kernel older than 6.1. */
static int cw_ring_open(struct cw_ring *r, unsigned sq_entries, unsigned cq_entries) {
    static const uint32_t base = CW_SETUP_CQSIZE | CW_SETUP_CLAMP | CW_SETUP_R_DISABLED |
                                 CW_SETUP_SUBMIT_ALL | CW_SETUP_TASKRUN_FLAG |
                                 CW_SETUP_SINGLE_ISSUER | CW_SETUP_DEFER_TASKRUN;
    static const uint32_t ladder[] = {CW_SETUP_NO_SQARRAY, 0};
    struct cw_params p;
    int fd = -1, rc = 0;
    memset(r, 0, sizeof *r);
    r->fd = -1;
    for (unsigned i = 0; i < sizeof ladder / sizeof *ladder; i++) {
        memset(&p, 0, sizeof p);
        p.flags = base | ladder[i];
        p.cq_entries = cq_entries;
        fd = (int)syscall(CW_SYS_SETUP, sq_entries, &p);
        if (fd >= 0)
            break;
        rc = -errno;
        if (rc != -EINVAL)
            return rc;
    }
    if (fd < 0)
        return rc;
    r->fd = r->enter_fd = fd;
    r->setup_flags = p.flags;
    r->features = p.features;
    size_t sq_size = p.sq.array + ((p.flags & CW_SETUP_NO_SQARRAY) ? 0 : p.sq_entries * 4);
    size_t cq_size = p.cq.cqes + p.cq_entries * sizeof(struct cw_cqe);
    r->ring_size = sq_size > cq_size ? sq_size : cq_size;
    r->sqe_size = p.sq_entries * sizeof(struct cw_sqe);
    void *map = mmap(0, r->ring_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, CW_OFF_SQ_RING);
    if (map == MAP_FAILED) {
        rc = -errno;
        cw_ring_close(r);
        return rc;
    }
    r->ring_map = map;
    map = mmap(0, r->sqe_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, CW_OFF_SQES);
    if (map == MAP_FAILED) {
        rc = -errno;
        cw_ring_close(r);
        return rc;
    }
    r->sqe_map = map;
    /* A child must neither see nor move the parent's indices. */
    madvise(r->ring_map, r->ring_size, MADV_DONTFORK);
    madvise(r->sqe_map, r->sqe_size, MADV_DONTFORK);
    char *base_ptr = (char *)r->ring_map;
    r->sq_head = (uint32_t *)(base_ptr + p.sq.head);
    r->sq_tail = (uint32_t *)(base_ptr + p.sq.tail);
    r->sq_flags = (uint32_t *)(base_ptr + p.sq.flags);
    r->sq_mask = *(uint32_t *)(base_ptr + p.sq.ring_mask);
    r->sq_entries = *(uint32_t *)(base_ptr + p.sq.ring_entries);
    r->sq_local = *r->sq_tail;
    r->sqes = (struct cw_sqe *)r->sqe_map;
    r->cq_head = (uint32_t *)(base_ptr + p.cq.head);
    r->cq_tail = (uint32_t *)(base_ptr + p.cq.tail);
    r->cq_overflow = (uint32_t *)(base_ptr + p.cq.overflow);
    r->cq_mask = *(uint32_t *)(base_ptr + p.cq.ring_mask);
    r->cqes = (struct cw_cqe *)(base_ptr + p.cq.cqes);
    if (!(p.flags & CW_SETUP_NO_SQARRAY)) {
        uint32_t *array = (uint32_t *)(base_ptr + p.sq.array);
        for (uint32_t i = 0; i < r->sq_entries; i++)
            array[i] = i;
    }
    if (r->features & CW_FEAT_NO_IOWAIT)
        r->enter_flags |= CW_ENTER_NO_IOWAIT;
    return 0;
}

/* Whether the kernel knows all of ops[]; -errno where it cannot even be asked. */
static int cw_ring_probe(struct cw_ring *r, const uint8_t *ops, int n) {
    struct cw_probe probe;
    memset(&probe, 0, sizeof probe);
    int rc = cw_register(r, CW_REGISTER_PROBE, &probe, 64);
    if (rc < 0)
        return rc;
    for (int i = 0; i < n; i++)
        if (ops[i] > probe.last_op || !(probe.ops[ops[i]].flags & 1))
            return 0;
    return 1;
}

static inline int cw_ring_enable(struct cw_ring *r) {
    return cw_register(r, CW_REGISTER_ENABLE_RINGS, 0, 0);
}

/* Cap the kernel threads that carry out what would block: those for regular files and block devices, and those for
 * everything else. Counts of the calling thread. */
static inline int cw_ring_cap_workers(struct cw_ring *r, uint32_t bounded, uint32_t unbounded) {
    uint32_t counts[2] = {bounded, unbounded};
    return cw_register(r, CW_REGISTER_IOWQ_MAX_WORKERS, counts, 2);
}

/* Spares each enter the look-up of the descriptor. Belongs to the calling thread. */
static inline int cw_ring_register_fd(struct cw_ring *r) {
    struct cw_rsrc_update up = {0xffffffffU, 0, (uint64_t)r->fd};
    int rc = cw_register(r, CW_REGISTER_RING_FDS, &up, 1);
    if (rc != 1)
        return rc < 0 ? rc : -EINVAL;
    r->enter_fd = (int)up.offset;
    r->enter_flags |= CW_ENTER_REGISTERED_RING;
    return 0;
}

static inline void cw_ring_unregister_fd(struct cw_ring *r) {
    if (!(r->enter_flags & CW_ENTER_REGISTERED_RING))
        return;
    struct cw_rsrc_update up = {(uint32_t)r->enter_fd, 0, 0};
    cw_register(r, CW_UNREGISTER_RING_FDS, &up, 1);
    r->enter_fd = r->fd;
    r->enter_flags &= ~CW_ENTER_REGISTERED_RING;
}

/* A cleared entry of the submission queue, NULL when it is full. Published by cw_enter. */
static inline struct cw_sqe *cw_get_sqe(struct cw_ring *r) {
    if (r->sq_local - cw_load(r->sq_head) >= r->sq_entries)
        return 0;
    struct cw_sqe *sqe = &r->sqes[r->sq_local & r->sq_mask];
    r->sq_local++;
    memset(sqe, 0, sizeof *sqe);
    return sqe;
}

static inline uint32_t cw_to_submit(struct cw_ring *r) { return r->sq_local - cw_load(r->sq_head); }
static inline uint32_t cw_sq_flags(struct cw_ring *r) { return cw_load(r->sq_flags); }
static inline uint32_t cw_cq_ready(struct cw_ring *r) { return cw_load(r->cq_tail) - *r->cq_head; }
static inline struct cw_cqe *cw_cqe_at(struct cw_ring *r, uint32_t i) {
    return &r->cqes[(*r->cq_head + i) & r->cq_mask];
}
static inline void cw_cq_advance(struct cw_ring *r, uint32_t n) { cw_store(r->cq_head, *r->cq_head + n); }

/* Submit everything and, with `wait`, wait for one completion; ns < 0 for ever. Returns the number of
 * submissions consumed or -errno (ETIME: nothing came in time). */
static inline int cw_enter(struct cw_ring *r, unsigned wait, long long ns) {
    uint32_t n = cw_to_submit(r);
    uint32_t flags = r->enter_flags | CW_ENTER_GETEVENTS;
    long rc;
    cw_store(r->sq_tail, r->sq_local);
    if (wait && ns >= 0) {
        struct cw_timespec ts = {ns / 1000000000LL, ns % 1000000000LL};
        struct cw_getevents_arg arg;
        memset(&arg, 0, sizeof arg);
        arg.sigmask_sz = _NSIG / 8;
        arg.ts = (uint64_t)(uintptr_t)&ts;
        rc = syscall(CW_SYS_ENTER, r->enter_fd, n, wait, flags | CW_ENTER_EXT_ARG, &arg, sizeof arg);
    } else {
        rc = syscall(CW_SYS_ENTER, r->enter_fd, n, wait, flags, (void *)0, 0);
    }
    return rc < 0 ? -errno : (int)rc;
}

/* ---- the ring of provided buffers --------------------------------------------------------------------- */
struct cw_pool {
    struct cw_buf *ring;
    char *memory;
    uint32_t entries, size; /* buffers, bytes of each */
    uint32_t provided;      /* buffers that have ever been given to the kernel */
    uint32_t out;           /* buffers the kernel has handed to us */
    uint8_t *held;          /* by buffer: 1 while it is out */
    uint16_t tail;          /* local; published by cw_pool_publish */
    int registered;
};

static int cw_pool_open(struct cw_pool *p, uint32_t entries, uint32_t size) {
    memset(p, 0, sizeof *p);
    size_t ring_bytes = entries * sizeof(struct cw_buf);
    void *ring = mmap(0, ring_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (ring == MAP_FAILED)
        return -errno;
    void *memory = mmap(0, (size_t)entries * size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        int rc = -errno;
        munmap(ring, ring_bytes);
        return rc;
    }
    p->held = (uint8_t *)calloc(entries, 1);
    if (!p->held) {
        munmap(ring, ring_bytes);
        munmap(memory, (size_t)entries * size);
        return -ENOMEM;
    }
    madvise(ring, ring_bytes, MADV_DONTFORK);
    p->ring = (struct cw_buf *)ring;
    p->memory = (char *)memory;
    p->entries = entries;
    p->size = size;
    return 0;
}

/* In the child of a fork: the ring is not there (MADV_DONTFORK); the memory is, and leases may look at it. */
static void cw_pool_abandon(struct cw_pool *p) {
    p->ring = 0;
    p->registered = 0;
}

static void cw_pool_close(struct cw_pool *p) {
    if (p->ring)
        munmap(p->ring, p->entries * sizeof(struct cw_buf));
    if (p->memory) {
        munmap(p->memory, (size_t)p->entries * p->size);
        free(p->held);
    }
    memset(p, 0, sizeof *p);
}

static int cw_pool_register(struct cw_pool *p, struct cw_ring *r) {
    struct cw_buf_reg reg;
    memset(&reg, 0, sizeof reg);
    reg.ring_addr = (uint64_t)(uintptr_t)p->ring;
    reg.ring_entries = p->entries;
    int rc = cw_register(r, CW_REGISTER_PBUF_RING, &reg, 1);
    p->registered = rc == 0;
    return rc;
}

static inline char *cw_pool_buffer(struct cw_pool *p, uint32_t bid) {
    return p->memory + (size_t)bid * p->size;
}

static inline void cw_pool_put(struct cw_pool *p, uint32_t bid) {
    struct cw_buf *b = &p->ring[p->tail & (p->entries - 1)];
    b->addr = (uint64_t)(uintptr_t)cw_pool_buffer(p, bid);
    b->len = p->size;
    b->bid = (uint16_t)bid;
    p->tail++;
}

static inline void cw_pool_publish(struct cw_pool *p) {
    __atomic_store_n(&p->ring[0].tail, p->tail, __ATOMIC_RELEASE);
}

static inline void cw_pool_take(struct cw_pool *p, uint32_t bid) {
    p->held[bid] = 1;
    p->out++;
}

static inline void cw_pool_give_back(struct cw_pool *p, uint32_t bid) {
    p->held[bid] = 0;
    p->out--;
    if (p->registered)
        cw_pool_put(p, bid);
}

/* Start over with a new ring: provide again what had been provided and is not out. */
static inline void cw_pool_restart(struct cw_pool *p) {
    p->tail = 0;
    for (uint32_t bid = 0; bid < p->provided; bid++)
        if (!p->held[bid])
            cw_pool_put(p, bid);
}

/* Provide n buffers that the kernel has not had yet; how many there were. */
static inline uint32_t cw_pool_grow(struct cw_pool *p, uint32_t n) {
    if (n > p->entries - p->provided)
        n = p->entries - p->provided;
    for (uint32_t i = 0; i < n; i++)
        cw_pool_put(p, p->provided++);
    return n;
}

/* ---- filling submissions ------------------------------------------------------------------------------ */
static inline void cw_prep_recv_multishot(struct cw_sqe *s, int fd, uint64_t data) {
    s->opcode = CW_OP_RECV;
    s->flags = CW_SQE_BUFFER_SELECT;
    s->ioprio = CW_RECV_MULTISHOT;
    s->fd = fd;
    s->user_data = data;
}
static inline void cw_prep_accept_multishot(struct cw_sqe *s, int fd, uint64_t data) {
    s->opcode = CW_OP_ACCEPT;
    s->ioprio = CW_ACCEPT_MULTISHOT;
    s->fd = fd;
    s->op_flags = SOCK_NONBLOCK | SOCK_CLOEXEC;
    s->user_data = data;
}
static inline void cw_prep_poll(struct cw_sqe *s, int fd, uint32_t mask, uint64_t data) {
    s->opcode = CW_OP_POLL_ADD;
    s->fd = fd;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    mask = (mask << 16) | (mask >> 16);
#endif
    s->op_flags = mask;
    s->user_data = data;
}
/* IORING_POLL_ADD_MULTI (5.13): a completion per wake-up, edge-like, until one comes without CW_CQE_F_MORE. */
static inline void cw_prep_poll_multishot(struct cw_sqe *s, int fd, uint32_t mask, uint64_t data) {
    cw_prep_poll(s, fd, mask, data);
    s->len = 1;
}
static inline void cw_prep_cancel(struct cw_sqe *s, uint64_t target, uint64_t data) {
    s->opcode = CW_OP_ASYNC_CANCEL;
    s->flags = CW_SQE_CQE_SKIP_SUCCESS;
    s->fd = -1;
    s->addr = target;
    s->user_data = data;
}
static inline void cw_prep_read(struct cw_sqe *s, int fd, void *buffer, uint32_t n, uint64_t data) {
    s->opcode = CW_OP_READ;
    s->fd = fd;
    s->addr = (uint64_t)(uintptr_t)buffer;
    s->len = n;
    s->off = (uint64_t)-1;
    s->user_data = data;
}
/* An operation on a file or a path. What addr, len, off and op_flags mean depends on the operation. */
static inline void cw_prep_file(struct cw_sqe *s, uint8_t opcode, uint8_t flags, int fd, uint64_t addr, uint32_t len,
                                uint64_t off, uint32_t op_flags, uint64_t data) {
    s->opcode = opcode;
    s->flags = flags;
    s->fd = fd;
    s->addr = addr;
    s->len = len;
    s->off = off;
    s->op_flags = op_flags;
    s->user_data = data;
}
/* A send that never waits: all of it now and no completion, or a completion that says how far it came.
 * MSG_WAITALL makes a short send a failure, so that CQE_SKIP_SUCCESS does not hide it. */
static inline void cw_prep_send_now(struct cw_sqe *s, int fd, const void *buffer, size_t n, uint64_t data) {
    s->opcode = CW_OP_SEND;
    s->flags = CW_SQE_CQE_SKIP_SUCCESS;
    s->fd = fd;
    s->addr = (uint64_t)(uintptr_t)buffer;
    s->len = (uint32_t)n;
    s->op_flags = MSG_DONTWAIT | MSG_WAITALL | MSG_NOSIGNAL;
    s->user_data = data;
}
static inline void cw_prep_sendmsg_now(struct cw_sqe *s, int fd, const struct msghdr *m, uint64_t data) {
    s->opcode = CW_OP_SENDMSG;
    s->flags = CW_SQE_CQE_SKIP_SUCCESS;
    s->fd = fd;
    s->addr = (uint64_t)(uintptr_t)m;
    s->len = 1;
    s->op_flags = MSG_DONTWAIT | MSG_WAITALL | MSG_NOSIGNAL;
    s->user_data = data;
}
/* A send that waits for room, then takes what fits. */
static inline void cw_prep_sendmsg_later(struct cw_sqe *s, int fd, const struct msghdr *m, uint64_t data) {
    s->opcode = CW_OP_SENDMSG;
    s->fd = fd;
    s->addr = (uint64_t)(uintptr_t)m;
    s->len = 1;
    s->op_flags = MSG_NOSIGNAL;
    s->user_data = data;
}
/* The same by zero copy (6.1). A second completion, with CW_CQE_F_NOTIF, says that the memory is ours again, and with
 * its sign bit (IORING_NOTIF_USAGE_ZC_COPIED, asked for by IORING_SEND_ZC_REPORT_USAGE, 6.2) that it was copied. */
static inline void cw_prep_sendmsg_zero_copy(struct cw_sqe *s, int fd, const struct msghdr *m, uint64_t data) {
    s->opcode = CW_OP_SENDMSG_ZC;
    s->ioprio = 1U << 3;
    s->fd = fd;
    s->addr = (uint64_t)(uintptr_t)m;
    s->len = 1;
    s->op_flags = MSG_NOSIGNAL;
    s->user_data = data;
}
#endif

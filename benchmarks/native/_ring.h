/* The few hundred bytes of io_uring that the load generator needs, by raw system calls.
 *
 * Linux 6.1 or newer (DEFER_TASKRUN, multishot receive, provided-buffer rings). RING_AVAILABLE is 0
 * where the headers are older; ring_open says at run time whether the kernel plays along.
 */
#ifndef CLEARWAY_BENCH_RING_H
#define CLEARWAY_BENCH_RING_H

#if __has_include(<linux/io_uring.h>)
#include <linux/io_uring.h>
#endif

#if defined(IORING_SETUP_DEFER_TASKRUN) && defined(IORING_RECV_MULTISHOT)
#define RING_AVAILABLE 1

#include <linux/time_types.h>
#include <sys/mman.h>

#define RING_ENTRIES 4096
#define RING_CQ_ENTRIES 32768
/* Receive buffers on offer. What arrives is discarded, so they all lie at one address. */
#define RING_BUFFERS 8192
#define RING_BUFFER_SIZE (64 * 1024)
#define RING_GROUP 0

struct ring {
    int fd;
    unsigned *sq_head, *sq_tail, sq_mask, sq_local_tail;
    unsigned *cq_head, *cq_tail, cq_mask;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
    struct io_uring_buf_ring *buffers;
    uint16_t buffers_tail;
    char *memory;
};

/* 0, or the errno with which the kernel refused. */
static int ring_open(struct ring *r) {
    struct io_uring_params p;
    memset(&p, 0, sizeof p);
    p.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE |
              IORING_SETUP_SUBMIT_ALL;
    p.cq_entries = RING_CQ_ENTRIES;
    r->fd = (int)syscall(__NR_io_uring_setup, RING_ENTRIES, &p);
    if (r->fd < 0) return errno;
    size_t sq_size = p.sq_off.array + p.sq_entries * sizeof(unsigned);
    size_t cq_size = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
    size_t size = sq_size > cq_size ? sq_size : cq_size; /* FEAT_SINGLE_MMAP: since 5.4 */
    char *rings = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, IORING_OFF_SQ_RING);
    r->sqes = mmap(NULL, p.sq_entries * sizeof *r->sqes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                   r->fd, IORING_OFF_SQES);
    if (rings == MAP_FAILED || (void *)r->sqes == MAP_FAILED) return errno;
    r->sq_head = (unsigned *)(rings + p.sq_off.head);
    r->sq_tail = (unsigned *)(rings + p.sq_off.tail);
    r->sq_mask = p.sq_entries - 1;
    r->sq_local_tail = *r->sq_tail;
    unsigned *array = (unsigned *)(rings + p.sq_off.array);
    for (unsigned i = 0; i < p.sq_entries; i++) array[i] = i;
    r->cq_head = (unsigned *)(rings + p.cq_off.head);
    r->cq_tail = (unsigned *)(rings + p.cq_off.tail);
    r->cq_mask = p.cq_entries - 1;
    r->cqes = (struct io_uring_cqe *)(rings + p.cq_off.cqes);

    r->buffers = mmap(NULL, RING_BUFFERS * sizeof(struct io_uring_buf), PROT_READ | PROT_WRITE,
                      MAP_ANONYMOUS | MAP_PRIVATE | MAP_POPULATE, -1, 0);
    r->memory = malloc(RING_BUFFER_SIZE);
    if (r->buffers == MAP_FAILED || !r->memory) return ENOMEM;
    struct io_uring_buf_reg reg = {
        .ring_addr = (uint64_t)(uintptr_t)r->buffers, .ring_entries = RING_BUFFERS, .bgid = RING_GROUP};
    if (syscall(__NR_io_uring_register, r->fd, IORING_REGISTER_PBUF_RING, &reg, 1) < 0) return errno;
    return 0;
}

static inline void ring_give_buffer(struct ring *r, uint16_t id) {
    struct io_uring_buf *buffer = &r->buffers->bufs[r->buffers_tail++ & (RING_BUFFERS - 1)];
    buffer->addr = (uint64_t)(uintptr_t)r->memory;
    buffer->len = RING_BUFFER_SIZE;
    buffer->bid = id;
}

static inline void ring_publish_buffers(struct ring *r) {
    __atomic_store_n(&r->buffers->tail, r->buffers_tail, __ATOMIC_RELEASE);
}

/* Submit what is queued and wait for a completion, for at most wait_ns (0: do not wait). */
static void ring_enter(struct ring *r, uint64_t wait_ns) {
    __atomic_store_n(r->sq_tail, r->sq_local_tail, __ATOMIC_RELEASE);
    unsigned queued = r->sq_local_tail - __atomic_load_n(r->sq_head, __ATOMIC_ACQUIRE);
    struct __kernel_timespec time = {.tv_sec = (long long)(wait_ns / 1000000000u),
                                     .tv_nsec = (long long)(wait_ns % 1000000000u)};
    struct io_uring_getevents_arg arg = {.ts = (uint64_t)(uintptr_t)&time};
    long n = syscall(__NR_io_uring_enter, r->fd, queued, wait_ns ? 1 : 0,
                     IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &arg, sizeof arg);
    if (n < 0 && errno != ETIME && errno != EINTR && errno != EBUSY && errno != EAGAIN)
        die("io_uring_enter: %s", strerror(errno));
}

static struct io_uring_sqe *ring_sqe(struct ring *r) {
    while (r->sq_local_tail - __atomic_load_n(r->sq_head, __ATOMIC_ACQUIRE) > r->sq_mask) ring_enter(r, 0);
    struct io_uring_sqe *sqe = &r->sqes[r->sq_local_tail++ & r->sq_mask];
    memset(sqe, 0, sizeof *sqe);
    return sqe;
}

#else
#define RING_AVAILABLE 0
#endif
#endif

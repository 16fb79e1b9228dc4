/* The shared ring: positions in shared memory, and the system calls around it.
 *
 * One writer and one reader, each in its own process. A position counts bytes since the beginning and never
 * wraps (2^64 bytes at 100 GB/s last five years); its place in the ring is position modulo size. The data lie
 * twice, one mapping behind the other, so that every record is contiguous.
 *
 * Who writes what: the writer `tail`, `needs`, and clears `reader_waits` when it wakes the reader; the reader
 * `head`, `reader_waits`, and clears `needs` when it wakes the writer. Each side announces that it is going to
 * sleep and then looks once more; each side publishes and then looks whether the other sleeps. With a full fence
 * between the two halves on either side at least one of them sees the other (Dekker), so no wake-up is lost.
 */
#ifndef CLEARWAY_RING_H
#define CLEARWAY_RING_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CW_LINE 64 /* bytes of a cache line on x86-64 and of most aarch64 */

struct cw_ring {
    uint64_t tail; /* written and published up to here */
    uint64_t needs; /* bytes the sleeping writer waits for; 0: it does not sleep */
    char pad0[CW_LINE - 16];
    uint64_t head; /* released up to here */
    uint64_t reader_waits;
    char pad1[CW_LINE - 16];
};

/* The first page of the memory file. */
struct cw_header {
    uint64_t magic;
    uint64_t capacity; /* bytes of each ring */
    uint64_t closed[2]; /* by side: it closed its end on purpose */
    uint64_t pid[2]; /* by side: who attached; 0: nobody yet */
    char pad[CW_LINE * 2 - 48];
    struct cw_ring ring[2]; /* by side of its writer */
};

struct cw_record {
    uint32_t size; /* bytes of the payload */
    uint32_t kind;
    uint64_t skip; /* bytes of the whole record, this head included */
};

static inline uint64_t cw_load(uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void cw_store(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline uint64_t cw_swap(uint64_t *p, uint64_t v) {
    return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);
}
static inline void cw_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

/* The ring's memory, twice in a row; NULL with errno set. */
static inline char *cw_map_twice(int fd, size_t offset, size_t size) {
    char *base = mmap(NULL, 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return NULL;
    for (int i = 0; i < 2; i++) {
        if (mmap(base + i * size, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
                 (off_t)offset) == MAP_FAILED) {
            int saved = errno;
            munmap(base, 2 * size);
            errno = saved;
            return NULL;
        }
    }
    return base;
}

static inline char *cw_map_once(int fd, size_t size) {
    char *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return base == MAP_FAILED ? NULL : base;
}

/* Add one to an eventfd. EAGAIN means that it is full, so the other side has been woken. */
static inline void cw_poke(int fd) {
    uint64_t one = 1;
    while (write(fd, &one, sizeof one) < 0 && errno == EINTR) {
    }
}
#endif

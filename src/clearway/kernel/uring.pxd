# The io_uring ABI of uring.h: declarations only, nothing is compiled here.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "uring.h" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len
    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    struct cw_sqe:
        pass
    struct cw_cqe:
        uint64_t user_data
        int32_t res
        uint32_t flags
    struct cw_ring:
        int fd
        uint32_t features
        uint32_t setup_flags
        uint32_t sq_entries
    struct cw_buf:
        pass
    struct cw_pool:
        cw_buf* ring
        uint32_t entries
        uint32_t size
        uint32_t provided
        uint32_t out
        uint16_t tail
        int registered
        char* memory

    enum: CW_SQ_CQ_OVERFLOW
    enum: CW_SQ_TASKRUN
    enum: CW_CQE_F_BUFFER
    enum: CW_CQE_F_MORE
    enum: CW_CQE_F_NOTIF
    enum: CW_CQE_BUFFER_SHIFT
    enum: CW_FEAT_NODROP
    enum: CW_FEAT_SUBMIT_STABLE
    enum: CW_FEAT_FAST_POLL
    enum: CW_FEAT_EXT_ARG
    enum: CW_FEAT_CQE_SKIP
    enum: CW_FEAT_REG_REG_RING
    enum: CW_FEAT_RECVSEND_BUNDLE
    enum: CW_FEAT_NO_IOWAIT
    enum: CW_SETUP_NO_SQARRAY
    enum: CW_SQE_ASYNC
    enum: CW_OP_FSYNC
    enum: CW_OP_OPENAT
    enum: CW_OP_CLOSE
    enum: CW_OP_STATX
    enum: CW_OP_WRITE
    enum: CW_OP_RENAMEAT
    enum: CW_OP_UNLINKAT
    enum: CW_OP_MKDIRAT
    enum: CW_OP_SYMLINKAT
    enum: CW_OP_LINKAT
    enum: CW_OP_POLL_ADD
    enum: CW_OP_SENDMSG
    enum: CW_OP_ACCEPT
    enum: CW_OP_ASYNC_CANCEL
    enum: CW_OP_READ
    enum: CW_OP_SEND
    enum: CW_OP_RECV
    enum: CW_OP_SEND_ZC
    enum: CW_OP_SENDMSG_ZC

    int cw_ring_open(cw_ring*, unsigned sq_entries, unsigned cq_entries)
    void cw_ring_close(cw_ring*)
    void cw_ring_abandon(cw_ring*)
    int cw_ring_probe(cw_ring*, const uint8_t* ops, int n)
    int cw_ring_enable(cw_ring*)
    int cw_ring_cap_workers(cw_ring*, uint32_t bounded, uint32_t unbounded)
    int cw_ring_register_fd(cw_ring*)
    void cw_ring_unregister_fd(cw_ring*)
    cw_sqe* cw_get_sqe(cw_ring*)
    uint32_t cw_to_submit(cw_ring*)
    uint32_t cw_sq_flags(cw_ring*)
    uint32_t cw_cq_ready(cw_ring*)
    cw_cqe* cw_cqe_at(cw_ring*, uint32_t)
    void cw_cq_advance(cw_ring*, uint32_t)
    int cw_enter(cw_ring*, unsigned wait, long long ns)

    int cw_pool_open(cw_pool*, uint32_t entries, uint32_t size)
    void cw_pool_close(cw_pool*)
    void cw_pool_abandon(cw_pool*)
    int cw_pool_register(cw_pool*, cw_ring*)
    char* cw_pool_buffer(cw_pool*, uint32_t bid)
    void cw_pool_take(cw_pool*, uint32_t bid)
    void cw_pool_give_back(cw_pool*, uint32_t bid)
    void cw_pool_restart(cw_pool*)
    void cw_pool_publish(cw_pool*)
    uint32_t cw_pool_grow(cw_pool*, uint32_t n)

    void cw_prep_recv_multishot(cw_sqe*, int fd, uint64_t data)
    void cw_prep_accept_multishot(cw_sqe*, int fd, uint64_t data)
    void cw_prep_poll(cw_sqe*, int fd, uint32_t mask, uint64_t data)
    void cw_prep_poll_multishot(cw_sqe*, int fd, uint32_t mask, uint64_t data)
    void cw_prep_cancel(cw_sqe*, uint64_t target, uint64_t data)
    void cw_prep_read(cw_sqe*, int fd, void* buffer, uint32_t n, uint64_t data)
    void cw_prep_file(cw_sqe*, uint8_t opcode, uint8_t flags, int fd, uint64_t addr, uint32_t n, uint64_t off,
                      uint32_t op_flags, uint64_t data)
    void cw_prep_send_now(cw_sqe*, int fd, const void* buffer, size_t n, uint64_t data)
    void cw_prep_sendmsg_now(cw_sqe*, int fd, const msghdr* m, uint64_t data)
    void cw_prep_sendmsg_later(cw_sqe*, int fd, const msghdr* m, uint64_t data)
    void cw_prep_sendmsg_zero_copy(cw_sqe*, int fd, const msghdr* m, uint64_t data)

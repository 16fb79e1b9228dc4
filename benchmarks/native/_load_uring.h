/* The ring's body of the load generator: one system call for a batch of sends and receives.
 *
 * An epoll generator does per request just what an epoll server does, so on a core each it runs
 * full when the server does, and before it when the server is better than epoll. This one does
 * less: receives are armed once (multishot), what arrives is dropped in the kernel, sends complete
 * without a completion, and a batch costs one system call.
 *
 * Included by loadgen.c, whose connections and counters it uses.
 */
#if RING_AVAILABLE

static struct ring ring;

static void uring_receive(struct connection *c) {
    struct io_uring_sqe *sqe = ring_sqe(&ring);
    sqe->opcode = IORING_OP_RECV;
    sqe->fd = c->fd;
    sqe->ioprio = IORING_RECV_MULTISHOT;
    sqe->flags = IOSQE_BUFFER_SELECT;
    sqe->buf_group = RING_GROUP;
    sqe->msg_flags = MSG_TRUNC; /* TCP: count the bytes and drop them */
    sqe->user_data = (uint64_t)(uintptr_t)c;
}

/* MSG_WAITALL: a short send goes on in the kernel, so success is always the whole request and its
 * completion can be skipped. A failure is still told. */
static void uring_send(struct connection *c) {
    struct io_uring_sqe *sqe = ring_sqe(&ring);
    sqe->opcode = IORING_OP_SEND;
    sqe->fd = c->fd;
    sqe->addr = (uint64_t)(uintptr_t)c->request;
    sqe->len = c->size;
    sqe->msg_flags = MSG_WAITALL | MSG_NOSIGNAL;
    sqe->flags = IOSQE_CQE_SKIP_SUCCESS;
    sqe->user_data = (uint64_t)(uintptr_t)c | 1; /* pointers are even: 1 marks a send */
}

static void uring_start(void) {
    for (int i = 0; i < RING_BUFFERS; i++) ring_give_buffer(&ring, (uint16_t)i);
    ring_publish_buffers(&ring);
    uint64_t now = now_ns();
    for (int i = 0; i < options.connections; i++) {
        uring_receive(&connections[i]);
        start_request(&connections[i], now);
        uring_send(&connections[i]);
    }
}

static void uring_received(struct connection *c, int n, unsigned flags) {
    if (n > 0) {
        if (c->closing) {
            lost(c, "bytes after the last response", EPROTO);
            return;
        }
        c->received += (unsigned)n;
        if (c->received > c->size) {
            lost(c, "more bytes than were sent", EPROTO);
            return;
        }
        if (c->received == c->size) {
            uint64_t now = now_ns();
            histogram_add(&latency, now - c->started_ns);
            completed++;
            if (stopping) {
                half_close(c);
            } else {
                start_request(c, now);
                uring_send(c);
            }
        }
    } else if (n == 0) {
        if (c->closing)
            finish(c);
        else
            lost(c, "closed by the server", ECONNRESET);
        return;
    } else if (n != -ENOBUFS) {
        lost(c, "receive", -n);
        return;
    }
    if (!(flags & IORING_CQE_F_MORE)) uring_receive(c);
}

static void uring_run_until(uint64_t deadline_ns) {
    while (alive) {
        uint64_t now = now_ns();
        if (now >= deadline_ns) return;
        ring_enter(&ring, deadline_ns - now);
        unsigned head = *ring.cq_head, tail = __atomic_load_n(ring.cq_tail, __ATOMIC_ACQUIRE);
        for (; head != tail; head++) {
            struct io_uring_cqe *cqe = &ring.cqes[head & ring.cq_mask];
            struct connection *c = (struct connection *)(uintptr_t)(cqe->user_data & ~1ull);
            if (cqe->flags & IORING_CQE_F_BUFFER)
                ring_give_buffer(&ring, (uint16_t)(cqe->flags >> IORING_CQE_BUFFER_SHIFT));
            if (c->fd < 0) continue;
            if (cqe->user_data & 1)
                lost(c, "send", cqe->res < 0 ? -cqe->res : EPIPE);
            else
                uring_received(c, cqe->res, cqe->flags);
        }
        ring_publish_buffers(&ring);
        __atomic_store_n(ring.cq_head, head, __ATOMIC_RELEASE);
    }
}

#endif

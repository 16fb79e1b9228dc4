"""Clients for the many-connections test, as a program of its own: they need descriptors too.

    python crowd.py HOST PORT COUNT ROUNDS

Opens COUNT connections, and only when all are open sends a message of its own on each and reads
it back, ROUNDS times. Prints "ok" when every byte came back on the right connection.
"""

from __future__ import annotations

import resource
import select
import socket
import sys

# Connects under way at once; the server's backlog must hold them.
CONNECTING_MAX = 500


def main(host: str, port: int, count: int, rounds: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    poll = select.epoll()
    socks: dict[int, socket.socket] = {}
    waiting = 0
    opened = 0
    while opened < count:
        while waiting < CONNECTING_MAX and len(socks) < count:
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex((host, port))
            socks[sock.fileno()] = sock
            poll.register(sock, select.EPOLLOUT)
            waiting += 1
        for fd, _ in poll.poll(20):
            error = socks[fd].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, "connect failed")
            poll.modify(fd, select.EPOLLIN)
            waiting -= 1
            opened += 1
    for turn in range(rounds):
        expected = {}
        for fd, sock in socks.items():
            expected[fd] = b"%08d.%08d;" % (fd, turn)
            sock.send(expected[fd])
        while expected:
            events = poll.poll(20)
            if not events:
                raise TimeoutError(f"{len(expected)} connections without an answer")
            for fd, _ in events:
                got = socks[fd].recv(100)
                wanted = expected[fd]
                if not got or not wanted.startswith(got):
                    raise ValueError(f"sent {wanted!r}, received {got!r}")
                if got == wanted:
                    del expected[fd]
                else:
                    expected[fd] = wanted[len(got) :]
    print("ok", flush=True)
    sys.stdin.readline()  # stay until the server has counted us


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))

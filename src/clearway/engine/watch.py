"""Level-triggered readiness on an epoll set: ``add_reader``/``add_writer`` and one-shot polls.

The epoll engine keeps its watches in its own set; io_uring has no level trigger, so its engine nests a set of
this kind in the ring. A handle that is still running (suspended mid-function) must not be started again though
its descriptor stays readable: its interest is masked meanwhile, or the loop would spin.
"""

from __future__ import annotations

from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI
from typing import Any

from clearway.engine.interface import Poll
from clearway.kernel.sysio import Poller
from clearway.steps import Step

IN_EVENTS = EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLPRI
OUT_EVENTS = EPOLLOUT | EPOLLHUP | EPOLLERR


class WatchStep(Step):
    """One direction of a watched descriptor: runs the user's handle each time it is ready."""

    def __init__(self, watch: Watch, handle: Any, mask: int) -> None:
        self.watch = watch
        self.handle = handle
        self.mask = mask
        self.queued = False
        self.busy = False
        self.masked = False

    def context(self) -> Any:
        return self.handle.context()

    def run(self) -> None:
        self.queued = False
        if self.busy or self.handle.cancelled():
            return
        self.busy = True
        try:
            self.handle.run()
        finally:
            self.busy = False
            if self.masked:
                self.masked = False
                self.watch.update()


class WatchPoll(Poll):
    """A one-shot poll on a watch."""

    def __init__(self, step: Step, ready: list[Step], watch: Watch, mask: int) -> None:
        Poll.__init__(self, step, ready)
        self.watch = watch
        self.mask = mask

    def cancel(self) -> None:
        if not self.done:
            self.done = True
            self.watch.polls.remove(self)
            self.watch.update()


class Watch:
    """All interest in one descriptor."""

    def __init__(self, table: WatchTable, fd: int) -> None:
        self.table = table
        self.fd = fd
        self.mask = 0
        self.reader: WatchStep | None = None
        self.writer: WatchStep | None = None
        self.polls: list[WatchPoll] = []

    def update(self) -> None:
        """Bring the epoll set in line with the interest there is."""
        mask = 0
        if self.reader is not None and not self.reader.masked:
            mask |= EPOLLIN
        if self.writer is not None and not self.writer.masked:
            mask |= EPOLLOUT
        for poll in self.polls:
            mask |= poll.mask
        idle = self.reader is None and self.writer is None and not self.polls
        if mask == self.mask and not (idle and mask):
            if idle:
                self.table.watches.pop(self.fd, None)
            return
        poller = self.table.poller
        before = self.mask
        self.mask = mask
        if not mask:
            # Masked directions leave the set altogether: EPOLLHUP and EPOLLERR cannot be masked out.
            poller.remove(self.fd)
        elif before:
            poller.modify(self.fd, mask)
        else:
            try:
                poller.add(self.fd, mask)
            except FileExistsError:
                poller.modify(self.fd, mask)
            except OSError:
                self.mask = 0
                raise
        if idle:
            self.table.watches.pop(self.fd, None)

    def fire(self, mask: int) -> None:
        """Queue what waits for ``mask``."""
        if mask & IN_EVENTS and self.reader is not None:
            self.offer(self.reader)
        if mask & OUT_EVENTS and self.writer is not None:
            self.offer(self.writer)
        if self.polls:
            left = []
            for poll in self.polls:
                wanted = IN_EVENTS if poll.mask & EPOLLIN else OUT_EVENTS
                if mask & wanted:
                    poll.done = True
                    self.table.ready.append(poll.step)
                else:
                    left.append(poll)
            self.polls = left
            self.update()

    def offer(self, step: WatchStep) -> None:
        if step.busy:
            if not step.masked:
                step.masked = True
                self.update()
        elif not step.queued:
            step.queued = True
            self.table.ready.append(step)


class WatchTable:
    """The watches of one epoll set.

    :param ready: where the steps of ready descriptors are queued.
    """

    def __init__(self, poller: Poller, ready: list[Step]) -> None:
        self.poller = poller
        self.ready = ready
        self.watches: dict[int, Watch] = {}

    def get(self, fd: int) -> Watch:
        watch = self.watches.get(fd)
        if watch is None:
            watch = Watch(self, fd)
            self.watches[fd] = watch
        return watch

    def set_step(self, fd: int, mask: int, handle: Any) -> Any:
        """Put ``handle`` (None: nothing) in charge of one direction; returns the handle it replaces."""
        if handle is None and fd not in self.watches:
            return None
        watch = self.get(fd)
        step = None if handle is None else WatchStep(watch, handle, mask)
        if mask == EPOLLIN:
            old = watch.reader
            watch.reader = step
        else:
            old = watch.writer
            watch.writer = step
        try:
            watch.update()
        except OSError:
            if mask == EPOLLIN:
                watch.reader = old
            else:
                watch.writer = old
            if watch.reader is None and watch.writer is None and not watch.polls:
                self.watches.pop(fd, None)
            raise
        return None if old is None else old.handle

    def get_handle(self, fd: int, mask: int) -> Any:
        watch = self.watches.get(fd)
        if watch is None:
            return None
        step = watch.reader if mask == EPOLLIN else watch.writer
        return None if step is None else step.handle

    def poll(self, fd: int, mask: int, step: Step) -> Poll:
        watch = self.get(fd)
        poll = WatchPoll(step, self.ready, watch, mask)
        watch.polls.append(poll)
        try:
            watch.update()
        except OSError:
            watch.polls.remove(poll)
            if watch.reader is None and watch.writer is None and not watch.polls:
                self.watches.pop(fd, None)
            raise
        return poll

    def reap(self, timeout_ns: int) -> int:
        """Wait on a set that holds nothing but watches and queue what is ready."""
        count = self.poller.wait(timeout_ns)
        for index in range(count):
            watch = self.watches.get(self.poller.fd_at(index))
            if watch is not None:
                watch.fire(self.poller.mask_at(index))
        return count

"""One operation on a file that the kernel is asked to carry out, as the engine and the files above it share it.

The engine neither knows what the operation means nor looks at its memory: it fills a submission with these fields
and, when the kernel is done, queues the operation as a step with its result. Until then it keeps a strong reference,
whatever becomes of the task that waits: so the memory, which the operation must own, outlives the kernel's use of it.
"""

from __future__ import annotations

from clearway.steps import Step


class FileOperation(Step):
    """A submission and its completion. Subclasses say in ``run`` what happens then.

    :param opcode: which operation; ``clearway.kernel.fileio`` has the names.
    :param fd: the file, or the directory that relative paths begin at.
    :param address: of the memory that is read from or written to, or of a path.
    :param length: bytes, or what else the operation calls its length.
    :param offset: position in the file in bytes (2**64 - 1: the descriptor's own), or a second address.
    :param flags: those of the operation.
    :param forced: carry it out in a worker of the kernel without trying it first: for what would block unseen.
    :ivar flying: the kernel has it.
    :ivar result: what the system call would have returned, or minus its errno.
    """

    def __init__(
        self,
        opcode: int,
        fd: int,
        address: int,
        length: int,
        offset: int,
        flags: int = 0,
        forced: bool = False,
    ) -> None:
        self.opcode = opcode
        self.fd = fd
        self.address = address
        self.length = length
        self.offset = offset
        self.flags = flags
        self.forced = forced
        self.flying = False
        self.result = 0

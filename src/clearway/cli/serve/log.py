"""The access log. A terminal or a pipe that nobody reads can hold up whoever writes to it: here that is a thread."""

from __future__ import annotations

import queue
import sys
import threading
import time

from clearway.cli.serve.answers import Request

#: Lines that wait for the thread before new ones are dropped (and counted): some 10 MB.
LINES_MAX = 100_000


class AccessLog:
    """Writes a line per request to standard output, complaints to standard error."""

    def __init__(self) -> None:
        self._lines: queue.SimpleQueue[tuple[bool, str] | None] = queue.SimpleQueue()
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="clearway-log", daemon=True)
        self._thread.start()

    def write(self, peer: str, request: Request, status: int, sent: int, took_s: float) -> None:
        """Log one request."""
        if self._lines.qsize() >= LINES_MAX:
            self._dropped += 1
            return
        when = time.strftime("%Y-%m-%dT%H:%M:%S")
        line = b"%b %b" % (request.method or b"-", request.target or b"-")
        self._lines.put(
            (False, f'{when} {peer} "{_printable(line)}" {status} {sent} {took_s * 1000:.1f}ms\n')
        )

    def complain(self, text: str) -> None:
        """Say what went wrong."""
        self._lines.put((True, text))

    def close(self) -> None:
        """Write what is left, unless nobody takes it within a second."""
        self._lines.put(None)
        self._thread.join(1.0)

    def _run(self) -> None:
        while (item := self._lines.get()) is not None:
            complaint, text = item
            file = sys.stderr if complaint else sys.stdout
            try:
                dropped, self._dropped = self._dropped, 0
                if dropped:
                    file.write(f"({dropped} lines are missing here)\n")
                file.write(text)
                if self._lines.empty():
                    file.flush()
            except (OSError, ValueError):
                return  # nobody is there to read it


def _printable(text: bytes) -> str:
    """Without control characters and quotes, so that a request cannot forge lines."""
    return text.decode("ascii", "backslashreplace").translate(_ESCAPES)


_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), 34, 92, 127)}

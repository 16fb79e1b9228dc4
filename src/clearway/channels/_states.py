"""The life of an operation on a channel.

::

    NEW ──start──▶ DONE                       nothing had to be waited for
    NEW ──start──▶ WAITING ──grant──▶ GRANTED ──resume──▶ DONE
                      │                  │
                      └────abandon───────┴──▶ GONE       cancelled, timed out or dropped

A *grant* is a claim on one message (or on one free slot), not the message itself. The message stays in the
channel until its receiver runs; a receiver that is cancelled in between passes the claim on, and nothing was
moved that would have to be put back.
"""

from __future__ import annotations

NEW = 0
WAITING = 1
GRANTED = 2
DONE = 3
GONE = 4

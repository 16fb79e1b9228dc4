"""Conditional requests (RFC 9110, section 13): whether the client has what it asks for already."""

from __future__ import annotations

import calendar
import email.utils
import re
import time
from collections.abc import Mapping
from functools import lru_cache

NOT_MODIFIED = 304
PRECONDITION_FAILED = 412

_TAG = re.compile(rb'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
#: A modification time is a strong validator once it is so many seconds old (RFC 9110, section 8.8.2.2): nothing
#: else can have been there within the same second.
_STRONG_AFTER_S = 2


@lru_cache(1024)
def http_date(when: int) -> bytes:
    """Seconds since the epoch as an HTTP date."""
    return email.utils.formatdate(when, usegmt=True).encode()


def parse_date(value: bytes) -> int | None:
    """The seconds since the epoch that an HTTP date (any of its three forms) means; None when it is none."""
    try:
        parts = email.utils.parsedate(value.decode("ascii"))
        return None if parts is None else calendar.timegm(parts)
    except (ValueError, OverflowError, TypeError, IndexError):
        return None


def evaluate(fields: Mapping[bytes, bytes], etag: bytes, modified: int) -> int:
    """Apply the preconditions of a GET or HEAD in the order of RFC 9110, section 13.2.2.

    :param fields: of the request, by lower-case names.
    :param etag: of the file, strong.
    :param modified: when it was, in seconds since the epoch.
    :returns: 0: go on; NOT_MODIFIED or PRECONDITION_FAILED: answer so.
    """
    value = fields.get(b"if-match")
    if value is not None:
        if not _matches(value, etag, weak=False):
            return PRECONDITION_FAILED
    elif (value := fields.get(b"if-unmodified-since")) is not None:
        when = parse_date(value)
        if when is not None and modified > when:
            return PRECONDITION_FAILED
    value = fields.get(b"if-none-match")
    if value is not None:
        if _matches(value, etag, weak=True):
            return NOT_MODIFIED
    elif (value := fields.get(b"if-modified-since")) is not None:
        when = parse_date(value)
        if when is not None and modified <= when:
            return NOT_MODIFIED
    return 0


def range_holds(fields: Mapping[bytes, bytes], etag: bytes, modified: int) -> bool:
    """Whether ``Range`` may be followed: there is no ``If-Range``, or what it names is what is there."""
    value = fields.get(b"if-range")
    if value is None:
        return True
    if value.startswith((b'"', b"W/")):
        return value == etag
    return parse_date(value) == modified and modified + _STRONG_AFTER_S <= time.time()


def _matches(value: bytes, etag: bytes, *, weak: bool) -> bool:
    if value.strip() == b"*":
        return True
    return any(match[2] == etag and (weak or not match[1]) for match in _TAG.finditer(value))

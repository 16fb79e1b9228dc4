"""The ``Range`` field (RFC 9110, section 14): which bytes of a file are asked for."""

from __future__ import annotations

import re

#: Ranges of one request. A reader of a document needs a few; hundreds are an attack (RFC 9110, section 17.15).
MAX_RANGES = 16

_SPEC = re.compile(rb"(\d*)-(\d*)")
#: Digits of a position: 10**18 bytes are an exbibyte, and Python refuses to read numbers of thousands of digits.
_DIGITS_MAX = 18


class Unsatisfiable(Exception):
    """None of the ranges is in the file: 416."""


def parse_range(value: bytes, size: int) -> list[tuple[int, int]] | None:
    """The (start, length) pairs that are asked for, in the order in which they are.

    :param value: of the field.
    :param size: bytes of the file.
    :returns: None when the field is to be ignored: another unit, not well-formed, too many ranges, or ranges that add
        up to more than the file (overlaps; nobody gains by those).
    :raises Unsatisfiable: it is well-formed, and nothing of it is in the file.
    """
    unit, equals, text = value.partition(b"=")
    if not equals or unit.strip().lower() != b"bytes":
        return None
    found: list[tuple[int, int]] = []
    specs = [spec for spec in (part.strip(b" \t") for part in text.split(b",")) if spec]
    if not specs or len(specs) > MAX_RANGES:
        return None
    for spec in specs:
        match = _SPEC.fullmatch(spec)
        if match is None or max(map(len, match.groups())) > _DIGITS_MAX:
            return None
        first, last = match.groups()
        if first:
            start = int(first)
            end = int(last) + 1 if last else size
            if end <= start and last:
                return None
        elif last:
            start, end = max(0, size - int(last)), size
        else:
            return None
        end = min(end, size)
        if start < end:
            found.append((start, end - start))
    if not found:
        raise Unsatisfiable
    if sum(length for _, length in found) > size:
        return None
    return found

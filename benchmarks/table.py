"""Plain-text tables: columns as wide as their content, names to the left, figures to the right."""

from __future__ import annotations

from collections.abc import Sequence


def render(rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Lay out ``rows``, the first being the head; the first ``left`` columns are flush left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([line(rows[0]), rule, *map(line, rows[1:])])


def without_empty_columns(rows: list[list[str]]) -> list[list[str]]:
    """Drop the columns in which no row but the head has anything."""
    kept = [c for c in range(len(rows[0])) if any(row[c] not in ("", "-") for row in rows[1:])]
    return [[row[column] for column in kept] for row in rows]

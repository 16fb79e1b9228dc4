"""The second act as a picture: one HTML file, its SVG inside, nothing to load from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from clearway.cli.demo import app, probe, slow
from clearway.cli.demo.slow import Outcome, Waits
from clearway.observe.timeline import Slice

#: User units of the drawing; it scales with the page.
_WIDTH = 1120
_LEFT = 210
_RIGHT = 24
_PLOT = _WIDTH - _LEFT - _RIGHT

_LANE = 122
_HANDLER = 16
_BARS = 74

#: A wait that people notice in what they do (and a bar that is drawn in the warning colour), ms.
_LONG_MS = 20.0

#: Length of the magnified piece, ms: some slices of the default quantum.
_ZOOM_MS = 30.0

_STYLE = """
:root { color-scheme: light dark;
  --paper: #fdfdfb; --ink: #1c2126; --faint: #69727c; --line: #dcdfe2; --band: #f1f3f4;
  --cpu: #d9822b; --block: #7a5bc7; --fine: #1f8f7a; --long: #d03a3a; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #15181b; --ink: #e8eaec; --faint: #98a2ad; --line: #343a40; --band: #1e2327;
  --cpu: #f0a04b; --block: #a78bfa; --fine: #3fc1a5; --long: #ff6b6b; } }
body { margin: 0 auto; max-width: 1160px; padding: 28px 20px 40px; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 27px; line-height: 1.25; margin: 0 0 8px; letter-spacing: -.01em; }
h2 { font-size: 18px; margin: 30px 0 4px; }
p { margin: 6px 0; max-width: 78ch; } .faint { color: var(--faint); font-size: 14px; }
.legend { display: flex; flex-wrap: wrap; gap: 6px 24px; margin: 16px 0 4px; font-size: 14px;
  padding: 0; list-style: none; }
.legend i { display: inline-block; width: 18px; height: 12px; margin-right: 7px;
  border-radius: 2px; vertical-align: -1px; }
.cpu { background: var(--cpu); fill: var(--cpu); } .block { background: var(--block);
  fill: var(--block); } .fine { background: var(--fine); stroke: var(--fine); }
.long { background: var(--long); stroke: var(--long); }
svg { display: block; width: 100%; height: auto; font-family: inherit; }
svg text { fill: var(--ink); font-size: 13px; } svg .name { font-size: 15px; font-weight: 600; }
svg .small { fill: var(--faint); font-size: 12px; } svg .strong { font-weight: 600; }
svg .good { fill: var(--fine); font-weight: 600; } svg .bad { fill: var(--long); font-weight: 600; }
svg .grid { stroke: var(--line); stroke-width: 1; fill: none; } svg .band { fill: var(--band); }
svg .span { fill: none; stroke-width: 1; opacity: .75; }
svg .span.cpu { stroke: var(--cpu); } svg .span.block { stroke: var(--block); }
svg .bar { fill: none; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 15px; margin-top: 8px;
  font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line); }
th { color: var(--faint); font-weight: 500; font-size: 13px; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-right: 26px; }
tr.on td { font-weight: 600; }
"""


def write(path: Path, outcomes: Sequence[Outcome], about: Sequence[str]) -> None:
    """Draw into a file; the parameters are those of :func:`draw`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(draw(outcomes, about), encoding="utf-8")


def draw(outcomes: Sequence[Outcome], about: Sequence[str]) -> str:
    """The whole page.

    :param outcomes: in the order in which they are to be shown; at least one.
    :param about: lines that say how it was measured.
    """
    title = finding(outcomes)
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>The same web service on each event loop. Every {1000 / slow.SLOW_RATE:.0f} ms "
        f"somebody asks for a page whose handler takes {app.SLOW_S * 1e3:.0f} ms without an "
        f"<code>await</code>; meanwhile {slow.FAST_RATE:,.0f} requests per second ask for "
        "a page that takes next to nothing. How long do those wait?</p>",
        _legend(),
        _lanes(outcomes),
    ]
    zoomed = next((item for item in outcomes if item.contestant.preempt == "on"), None)
    if zoomed is not None:
        body += _zoom(zoomed)
    body += ["<h2>The figures</h2>", _table(outcomes)]
    body += [f'<p class="faint">{escape(line)}</p>' for line in about]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def finding(outcomes: Sequence[Outcome]) -> str:
    """The sentence that the measurement comes to: 99 of 100 clients wait at most so long."""
    waits = [(item.contestant, wait) for item in outcomes if (wait := item.waits("/")) is not None]
    others = [f"{ms(wait.p99_s)} ms on {who.loop}" for who, wait in waits if who.preempt is None]
    # The first is the engine that clearway takes without a choice, be it the better one or not.
    on = [f"{ms(wait.p99_s)} ms on clearway" for who, wait in waits if who.preempt == "on"]
    off = [f"{ms(wait.p99_s)} ms with clearway off" for who, wait in waits if who.preempt == "off"]
    parts = (others or off) + on[:1]
    return f"Beside slow handlers, the other clients wait (p99): {', '.join(parts)}"


def ms(seconds: float) -> str:
    """Milliseconds with two significant digits, or all before the point."""
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.995 else f"{value:.2f}"


def _legend() -> str:
    return (
        '<ul class="legend">'
        '<li><i class="cpu"></i>slow handler computing (pure Python)</li>'
        '<li><i class="block"></i>slow handler in a blocking call (time.sleep)</li>'
        '<li><i class="fine"></i>one fast request; the height is how long it waited</li>'
        f'<li><i class="long"></i>the same, more than {_LONG_MS:.0f} ms</li></ul>'
    )


def _window(item: Outcome) -> tuple[int, int]:
    """Begin and end of what is shown, ns: one request for each slow path, the second of each."""
    gap_ns = int(1e9 / slow.SLOW_RATE)
    length = len(probe.SLOW_PATHS) * gap_ns
    # Long requests of the first pair may reach into it; a short measurement has one pair only.
    last_ns = max(answer.due_ns for answer in item.report.answers)
    skip = length if last_ns - item.report.began_ns >= 1.9 * length else 0
    return item.report.began_ns + skip, item.report.began_ns + skip + length


def _lanes(outcomes: Sequence[Outcome]) -> str:
    ceiling = _ceiling(outcomes)
    height = _LANE * len(outcomes) + 34
    parts = [
        _svg(height, "Timelines of the slow handlers and the fast requests, one lane per loop")
    ]
    for number, item in enumerate(outcomes):
        parts.append(_lane(item, number * _LANE + 4, ceiling))
    begin_ns, end_ns = _window(outcomes[0])
    parts.append(_axis(height - 26, (end_ns - begin_ns) / 1e6, 100.0))
    parts.append("</svg>")
    return "\n".join(parts)


def _ceiling(outcomes: Sequence[Outcome]) -> float:
    """The top of the scale of all lanes, ms: what is drawn, rounded up to 50."""
    longest = max(
        (
            answer.latency_ns / 1e6
            for item in outcomes
            for answer in item.report.answers
            if answer.path == "/" and _window(item)[0] <= answer.due_ns < _window(item)[1]
        ),
        default=50.0,
    )
    return max(50.0, 50.0 * -(-longest // 50.0))


def _lane(item: Outcome, top: int, ceiling: float) -> str:
    begin_ns, end_ns = _window(item)
    scale = _PLOT / (end_ns - begin_ns)
    floor = top + _HANDLER + 8 + _BARS
    parts = [
        f'<rect class="band" x="{_LEFT}" y="{top}" width="{_PLOT}" height="{_HANDLER}" rx="2"/>'
    ]
    for mark in _marks(ceiling):
        y = floor - mark / ceiling * _BARS
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}h{_PLOT}"/>')
        parts.append(
            f'<text class="small" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
            f"{mark:.0f}{' ms' if mark else ''}</text>"
        )
    parts += _handler(item.slices, begin_ns, end_ns, scale, top, _HANDLER)
    fine: list[str] = []
    late: list[str] = []
    for answer in item.report.answers:
        if answer.path == "/" and begin_ns <= answer.due_ns < end_ns:
            wait_ms = answer.latency_ns / 1e6
            x = _LEFT + (answer.due_ns - begin_ns) * scale
            # A line too short to see would look like no request at all.
            length = min(max(wait_ms / ceiling * _BARS, 1.5), _BARS)
            (late if wait_ms > _LONG_MS else fine).append(f"M{x:.1f} {floor}v-{length:.1f}")
    for kind, paths in (("fine", fine), ("long", late)):
        parts.append(f'<path class="bar {kind}" stroke-width="1.1" d="{"".join(paths)}"/>')
    wait = item.waits("/")
    if wait is not None:
        mood = "bad" if wait.p99_s * 1e3 > _LONG_MS else "good"
        parts += [
            f'<text class="name" x="0" y="{top + 14}">{escape(_name(item))}</text>',
            f'<text class="small" x="0" y="{top + 32}">{escape(_subtitle(item))}</text>',
            f'<text class="{mood}" x="0" y="{top + 56}">p99 {ms(wait.p99_s)} ms</text>',
            f'<text class="small" x="0" y="{top + 74}">longest {ms(wait.max_s)} ms</text>',
        ]
    return "\n".join(parts)


def _name(item: Outcome) -> str:
    return item.contestant.loop if item.contestant.preempt is None else "clearway"


def _subtitle(item: Outcome) -> str:
    who = item.contestant
    if who.preempt is None:
        return "cooperative"
    if who.preempt == "off":
        return f"preemption off, {who.loop}"
    return f"preemption on, {who.loop}"


def _marks(ceiling: float) -> list[float]:
    step = 50.0 if ceiling <= 150 else 100.0 if ceiling <= 400 else 500.0
    return [step * number for number in range(int(ceiling // step) + 1)]


def _kind(name: str) -> str:
    return "cpu" if name == "/cpu" else "block"


def _handler(
    slices: Sequence[Slice], begin_ns: int, end_ns: int, scale: float, top: int, height: int
) -> list[str]:
    """The slow handlers' row: a block for each slice, an outline around all of a handler."""
    parts = []
    spans: dict[int, list[Slice]] = {}
    for piece in slices:
        spans.setdefault(piece.number, []).append(piece)
    for pieces in spans.values():
        kind = _kind(pieces[0].name)
        first, last = max(pieces[0].began_ns, begin_ns), min(pieces[-1].ended_ns, end_ns)
        if first >= last:
            continue
        x = _LEFT + (first - begin_ns) * scale
        parts.append(
            f'<rect class="span {kind}" x="{x:.1f}" y="{top + 0.5}" '
            f'width="{(last - first) * scale:.1f}" height="{height - 1}" rx="2"/>'
        )
        blocks = []
        for piece in pieces:
            start, end = max(piece.began_ns, begin_ns), min(piece.ended_ns, end_ns)
            if start < end:
                x, width = _LEFT + (start - begin_ns) * scale, (end - start) * scale
                blocks.append(
                    f"M{x:.2f} {top}h{max(width, 0.4):.2f}v{height}h-{max(width, 0.4):.2f}z"
                )
        parts.append(f'<path class="{kind}" d="{"".join(blocks)}"/>')
    return parts


def _zoom(item: Outcome) -> list[str]:
    """A few slices under the magnifier: the handler's, and the answers that went out between."""
    begin_ns, end_ns = _window(item)
    computing = [
        piece for piece in item.slices if piece.name == "/cpu" and piece.began_ns >= begin_ns
    ]
    if not computing or computing[0].began_ns >= end_ns:
        return []
    # From shortly before the handler begins, to see the first quantum run out.
    begin_ns = computing[0].began_ns - int(2e6)
    end_ns = begin_ns + int(_ZOOM_MS * 1e6)
    scale = _PLOT / (end_ns - begin_ns)
    height = 132
    parts = [_svg(height, "The first slices of a computing handler, magnified")]
    parts.append(f'<rect class="band" x="{_LEFT}" y="6" width="{_PLOT}" height="30" rx="2"/>')
    parts += _handler(item.slices, begin_ns, end_ns, scale, 6, 30)
    parts.append('<text class="strong" x="0" y="19">slow handler</text>')
    parts.append('<text class="small" x="0" y="35">has the thread</text>')
    parts.append('<text class="strong" x="0" y="66">fast requests</text>')
    parts.append('<text class="small" x="0" y="82">from asking to answer</text>')
    rows = 8
    lines = []
    answers = [
        a
        for a in item.report.answers
        if a.path == "/" and a.due_ns < end_ns and a.ended_ns > begin_ns
    ]
    for number, answer in enumerate(sorted(answers, key=lambda answer: answer.due_ns)):
        y = 50 + (number % rows) * 6
        x = _LEFT + max(answer.due_ns - begin_ns, 0) * scale
        end = _LEFT + (min(answer.ended_ns, end_ns) - begin_ns) * scale
        lines.append(f"M{x:.1f} {y}H{max(end, x + 1.5):.1f}")
    parts.append(f'<path class="bar fine" stroke-width="3.5" d="{"".join(lines)}"/>')
    parts.append(_axis(height - 26, _ZOOM_MS, 5.0))
    parts.append("</svg>")
    return [
        f"<h2>Under the magnifier: {_ZOOM_MS:.0f} ms of {escape(item.contestant.title)}</h2>",
        f"<p>After {slow.QUANTUM_S * 1e3:g} ms the handler is suspended in the middle of its loop, "
        "on the same thread; whoever waits is served, and it goes on where it was. "
        "When nobody waits, it is not disturbed.</p>",
        *parts,
    ]


def _svg(height: int, label: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(label)}" '
        'xmlns="http://www.w3.org/2000/svg">'
    )


def _axis(y: int, length_ms: float, step_ms: float) -> str:
    parts = []
    marks = int(length_ms // step_ms)
    for number in range(marks + 1):
        x = _LEFT + _PLOT * number * step_ms / length_ms
        unit = " ms" if number == marks else ""
        parts.append(f'<path class="grid" d="M{x:.1f} {y}v5"/>')
        parts.append(
            f'<text class="small" x="{x:.1f}" y="{y + 20}" text-anchor="middle">'
            f"{number * step_ms:.0f}{unit}</text>"
        )
    parts.append(f'<path class="grid" d="M{_LEFT} {y}h{_PLOT}"/>')
    return "".join(parts)


def _table(outcomes: Sequence[Outcome]) -> str:
    heads = ["p50", "p99", "p99.9", "longest", "/cpu, median", "/block, median", "suspensions"]
    rows = ["<tr><th>milliseconds</th>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"]
    for item in outcomes:
        mark = ' class="on"' if item.contestant.preempt == "on" else ""
        cells = "".join(f"<td>{cell}</td>" for cell in cells_of(item))
        rows.append(f"<tr{mark}><td>{escape(item.contestant.title)}</td>{cells}</tr>")
    return f'<div class="wide"><table>{"".join(rows)}</table></div>'


def cells_of(item: Outcome) -> list[str]:
    """The figures of one row: four of the fast requests, two of the slow ones, suspensions."""
    fast: Waits | None = item.waits("/")
    values = [fast.p50_s, fast.p99_s, fast.p999_s, fast.max_s] if fast is not None else []
    cells = [ms(value) for value in values]
    for path in probe.SLOW_PATHS:
        waits = item.waits(path)
        cells.append("-" if waits is None else ms(waits.p50_s))
    cells.append("-" if not item.suspensions else f"{item.suspensions:,}")
    return cells

"""Charts as SVG and pages of HTML that need nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

COLOURS = ("#1f6feb", "#d9480f", "#2b8a3e", "#7048e8", "#868e96")
WIDTH, HEIGHT, LEFT, BOTTOM = 760, 300, 64, 44

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:820px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}svg text{font-size:12px;fill:#333}.answer{font-size:1.1em;border-left:4px solid
#1f6feb;padding-left:1em}code{background:#f3f3f3;padding:0 .2em}"""


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x: str,
    y: str,
    level: tuple[str, float] | None = None,
    zero: bool = True,
) -> str:
    """Lines over one axis, with a level across."""
    points = [point for line in series.values() for point in line]
    values = [value for _, value in points] + ([level[1]] if level else [])
    left, right = min(at for at, _ in points), max(at for at, _ in points)
    low, high = (0.0 if zero else min(values)), max(values) * 1.08
    span = (right - left) or 1.0

    def place(at: float, value: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - 20) * (at - left) / span
        return across, HEIGHT - BOTTOM - (HEIGHT - BOTTOM - 30) * (value - low) / ((high - low) or 1.0)

    parts = [axes(place, left, right, low, high, x, y)]
    for colour, (name, line) in zip(COLOURS, series.items(), strict=False):
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in (place(*point) for point in line))
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.8" points="{path}"/>')
    if level:
        height = place(left, level[1])[1]
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - 20}" y1="{height:.1f}" y2="{height:.1f}" stroke="#c00" stroke-dasharray="6 4"/>'
        )
        parts.append(
            f'<text x="{WIDTH - 24}" y="{height - 6:.1f}" text-anchor="end">{escape(level[0])}</text>'
        )
    keys = zip(COLOURS, series, strict=False)
    for at, (colour, name) in enumerate(keys):
        parts.append(f'<rect x="{LEFT + 160 * at}" y="6" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + 160 * at + 17}" y="16">{escape(name)}</text>')
    return svg(parts)


def bars(values: Mapping[str, float], *, unit: str) -> str:
    """Bars with their numbers, one under the other."""
    most = max(values.values()) or 1.0
    parts = []
    for at, (name, value) in enumerate(values.items()):
        top = 10 + 24 * at
        parts.append(f'<text x="214" y="{top + 13}" text-anchor="end">{escape(name)}</text>')
        parts.append(
            f'<rect x="220" y="{top}" width="{430 * value / most:.1f}" height="17" fill="{COLOURS[0]}"/>'
        )
        parts.append(
            f'<text x="{226 + 430 * value / most:.1f}" y="{top + 13}">{value:,.3g} {escape(unit)}</text>'
        )
    return svg(parts, 20 + 24 * len(values))


def axes(place, left: float, right: float, low: float, high: float, x: str, y: str) -> str:
    """Ticks and names of both axes."""
    parts = []
    for part in range(5):
        value = low + (high - low) * part / 4
        height = place(left, value)[1]
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - 20}" y1="{height:.1f}" y2="{height:.1f}" stroke="#eee"/>'
        )
        parts.append(f'<text x="{LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{value:,.4g}</text>')
        at = left + (right - left) * part / 4
        across = place(at, low)[0]
        parts.append(f'<text x="{across:.1f}" y="{HEIGHT - 24}" text-anchor="middle">{at:,.4g}</text>')
    parts.append(f'<text x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x)}</text>')
    parts.append(f'<text x="{LEFT}" y="28">{escape(y)}</text>')
    return "".join(parts)


def svg(parts: Sequence[str], height: int = HEIGHT) -> str:
    """A drawing."""
    return f'<svg viewBox="0 0 {WIDTH} {height}" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    row = lambda cells, tag: "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"  # noqa: E731
    return "<table>" + row(head, "th") + "".join(row(cells, "td") for cells in rows) + "</table>"


def write(path: Path, question: str, answer: str, parts: Sequence[str], script: str) -> None:
    """Write the page, with how it was made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = f"<p>Made by <code>python bindings/python/notebooks/{escape(script)}</code>.</p>"
    body = f'<h1>{escape(question)}</h1><p class="answer">{escape(answer)}</p>{"".join(parts)}{made}'
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(question)}</title><style>{STYLE}</style><body>{body}</body></html>'
    path.write_text(page + "\n", encoding="utf-8")
    print(f"{answer}\n{path}: {path.stat().st_size / 1000:.0f} kB")

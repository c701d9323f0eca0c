"""Small charts as inline SVG. Colours come from the page's style sheet, so that they follow light and dark mode."""

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from evaluation.statistics import Interval
from lorasweep.report.figures import score

Curve = Sequence[tuple[float, float]]
Ends = tuple[int, int]

LINE = Markup('<polyline class="{}" points="{}"><title>{}</title></polyline>')
LABEL = Markup('<text x="{}" y="{}" class="{}">{}</text>')
RULE = Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>')
DOT = Markup('<circle class="{}" cx="{}" cy="{}" r="{}"/>')
FRAME = Markup('<svg x="{0}" y="{1}" width="{2}" height="{3}" viewBox="{0} {1} {2} {3}">{4}</svg>')
MARGIN = 4  # pixels around the frame, so that dots and thick lines at its edge are whole


class Scale:
    """Maps values to coordinates; if all values are equal, to the middle."""

    def __init__(self, values: Iterable[float], start: float, end: float) -> None:
        known = list(values) or [0.0]
        self.low, self.high = min(known), max(known)
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        width = self.high - self.low
        share = (value - self.low) / width if width else 0.5
        return round(self.start + share * (self.end - self.start), 1)


def interval_bar(interval: Interval, every: Sequence[Interval], best: float) -> Markup:
    """Draw an interval on the axis that all rows share, with a mark at the best value."""
    x = Scale((bound for i in every for bound in (i.low, i.high)), 3, 97)
    marks = [
        RULE.format("best", x(best), 1, x(best), 15),
        RULE.format("bar", x(interval.low), 8, x(interval.high), 8),
        DOT.format("dot", x(interval.value), 8, 3.2),
    ]
    return _svg(100, 16, "interval", marks)


def spark(curve: Curve, every: Sequence[Curve]) -> Markup:
    """Draw one curve on the axes that all rows share."""
    x, y = _axes(every, every, (2, 62), (18, 2))
    marks = [LINE.format("line", _points(curve, x, y), "")] if len(curve) > 1 else []
    last = [DOT.format("dot", x(curve[-1][0]), y(curve[-1][1]), 1.8)] if curve else []
    return _svg(64, 20, "spark", [*marks, *last])


def curves(lines: Sequence[tuple[str, str, Curve]], framing: Sequence[Curve]) -> Markup:
    """Draw curves: (name, class, points). Curves outside the range of `framing` are clipped at the frame.

    A diverged trial would otherwise flatten all other curves.
    """
    x, y = _axes([curve for _, _, curve in lines], framing, (56, 620), (220, 14))
    marks = []
    for name, kind, curve in lines:
        marks.append(LINE.format(kind, _points(curve, x, y), name))
        if kind == "first":
            marks += [DOT.format("first", x(step), y(value), 3) for step, value in curve]
    return _svg(640, 250, "curves", [*_grid(x, y), _clipped(marks, x, y)])


def _clipped(marks: Iterable[Markup], x: Scale, y: Scale) -> Markup:
    """Return marks in a nested SVG, which cuts off everything outside the axes."""
    left, top = x.start - MARGIN, y.end - MARGIN
    width, height = x.end - x.start + 2 * MARGIN, y.start - y.end + 2 * MARGIN
    return FRAME.format(left, top, width, height, Markup("").join(marks))


def _axes(every: Sequence[Curve], framing: Sequence[Curve], width: Ends, height: Ends) -> tuple[Scale, Scale]:
    x = Scale((step for curve in every for step, _ in curve), *width)
    return x, Scale((value for curve in framing for _, value in curve), *height)


def _grid(x: Scale, y: Scale) -> Iterable[Markup]:
    for part in (0.0, 0.5, 1.0):
        value = y.low + part * (y.high - y.low)
        yield RULE.format("grid", x.start, y(value), x.end, y(value))
        yield LABEL.format(x.start - 8, y(value) + 4, "end", score(value))
    yield LABEL.format(x.start, y.start + 22, "begin", f"step {x.low:g}")
    yield LABEL.format(x.end, y.start + 22, "end", f"step {x.high:g}")


def _points(curve: Curve, x: Scale, y: Scale) -> str:
    # Renderers fail on huge coordinates, so points far outside the frame, which clips them, are moved closer to it.
    beyond = 60
    low, high = min(y.start, y.end) - beyond, max(y.start, y.end) + beyond
    return " ".join(f"{x(step)},{min(max(y(value), low), high)}" for step, value in curve)


def _svg(width: int, height: int, kind: str, marks: Iterable[Markup]) -> Markup:
    head = Markup('<svg class="{}" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-hidden="true">')
    return head.format(kind, width, height, width, height) + Markup("").join(marks) + Markup("</svg>")

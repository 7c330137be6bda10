"""Positions of the labels of a scatter plot. No label covers another, a point or an edge, at any width of the plot."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

__all__ = ["LabelPlace", "Point", "place_labels"]

_WIDTHS = (230, 300, 360, 450, 600, 800, 1000)  # pixels of plots on phones, tablets and screens
_CHARACTER, _LINE = 6.7, 14  # pixels: width of a letter of a label, height of its line
_POINT = 7  # pixels between the middle of a point and the nearest label
_NEAR = 12  # pixels; a label at most this far from its point needs no leader line
_DISTANCES = (_NEAR, 24, 38, 52, 70, 90)
_DIRECTIONS = ((0.8, -0.8), (0.8, 0.8), (1, 0), (-0.8, -0.8), (-0.8, 0.8), (-1, 0), (0, -1), (0, 1))
_WORTH = 2  # a label moves one distance farther out if it then crosses lines at this many widths fewer

Box = tuple[float, float, float, float]  # left, top, right, bottom
Point = tuple[float, float]  # shares of the plot's width and height, from its upper left corner


@dataclass(frozen=True)
class LabelPlace:
    """Position of a label relative to its point.

    Attributes:
        right: Pixels from the point to the label's anchor, to the right.
        down: Pixels from the point to the label's anchor, downwards.
        align: Which end of the label is its anchor: "left", "right" or "center", as in Vega.
    """

    right: float
    down: float
    align: str

    @property
    def far(self) -> bool:
        """Whether the label needs a leader line to its point."""
        return max(abs(self.right), abs(self.down)) > _NEAR


def place_labels(
    points: Sequence[Point], texts: Sequence[str], height: float, lines: Sequence[tuple[Point, Point]] = ()
) -> list[LabelPlace]:
    """Choose, for each label, the nearest place that is free at every width. Earlier labels choose first.

    Args:
        points: The points that get a label.
        texts: Text of each label.
        height: Height of the plot in pixels.
        lines: Vertical or horizontal lines. Labels avoid them unless that moves a label too far from its point.

    Returns:
        A place for each label. If no place is free, the label gets the place with the fewest overlaps.
    """
    taken = {width: [_around(x * width, y * height) for x, y in points] for width in _WIDTHS}  # points, then labels
    crossed = {width: [_drawn(line, width, height) for line in lines] for width in _WIDTHS}
    places = []
    for own, (point, text) in enumerate(zip(points, texts, strict=True)):
        costs: dict[LabelPlace, tuple[int, int]] = {}
        for step, place in _places():
            boxes = {width: _box(place, point, text, width, height) for width in _WIDTHS}
            covered = sum(_covered(boxes[width], taken[width], own, width, height) for width in _WIDTHS)
            lying_on = sum(any(_overlap(boxes[width], line) for line in crossed[width]) for width in _WIDTHS)
            costs[place] = covered, lying_on + _WORTH * step
        place = min(costs, key=costs.__getitem__)
        for width in _WIDTHS:
            taken[width].append(_box(place, point, text, width, height))
        places.append(place)
    return places


def _places() -> Iterator[tuple[int, LabelPlace]]:
    """Yield the candidate places, nearest first, each with the index of its distance."""
    for (step, distance), (right, down) in product(enumerate(_DISTANCES), _DIRECTIONS):
        align = "left" if right > 0 else "right" if right < 0 else "center"
        yield step, LabelPlace(distance * right, distance * down, align)


def _covered(box: Box, taken: Sequence[Box], own: int, width: float, height: float) -> int:
    """Count what a label would overlap, including the edge of the plot but not its own point."""
    left, top, right, bottom = box
    outside = left < 0 or top < 0 or right > width or bottom > height
    return outside + sum(_overlap(box, other) for index, other in enumerate(taken) if index != own)


def _drawn(line: tuple[Point, Point], width: float, height: float) -> Box:
    (x, y), (to_x, to_y) = line
    return min(x, to_x) * width, min(y, to_y) * height, max(x, to_x) * width, max(y, to_y) * height


def _box(place: LabelPlace, point: tuple[float, float], text: str, width: float, height: float) -> Box:
    long = _CHARACTER * len(text)
    left = point[0] * width + place.right - {"left": 0.0, "center": long / 2, "right": long}[place.align]
    middle = point[1] * height + place.down
    return left, middle - _LINE / 2, left + long, middle + _LINE / 2


def _around(x: float, y: float) -> Box:
    return x - _POINT, y - _POINT, x + _POINT, y + _POINT


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]

"""Where the labels of a scatter plot go, so that none covers another, a point or an edge, however wide the plot is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

__all__ = ["LabelPlace", "Point", "place_labels"]

_WIDTHS = (230, 300, 360, 450, 600, 800, 1000)  # pixels of plots on phones, tablets and screens
_CHARACTER, _LINE = 6.7, 14  # pixels of a label's letter and of its line
_POINT = 7  # pixels from the middle of a point to where a label may begin
_NEAR = 12  # pixels to a label that needs no leader
_DISTANCES = (_NEAR, 24, 38, 52, 70, 90)
_DIRECTIONS = ((0.8, -0.8), (0.8, 0.8), (1, 0), (-0.8, -0.8), (-0.8, 0.8), (-1, 0), (0, -1), (0, 1))
_WORTH = 2  # widths at which a line is crossed no more, for going one distance farther

Box = tuple[float, float, float, float]  # left, top, right, bottom
Point = tuple[float, float]  # shares of the plot's width and height, from its upper left corner


@dataclass(frozen=True)
class LabelPlace:
    """A label's end, in pixels from its point, and which of its ends that is.

    Attributes:
        right, down: pixels.
        align: "left", "right" or "center", as Vega has it.
    """

    right: float
    down: float
    align: str

    @property
    def far(self) -> bool:
        """Whether a leader must say which point the label belongs to."""
        return max(abs(self.right), abs(self.down)) > _NEAR


def place_labels(
    points: Sequence[Point], texts: Sequence[str], height: float, lines: Sequence[tuple[Point, Point]] = ()
) -> list[LabelPlace]:
    """The nearest place for each label that is free at every width, the first ones first.

    Args:
        points: what is labelled.
        texts: of the labels.
        height: of the plot, in pixels.
        lines: upright or level; labels stay off them where that takes them not too far away.

    Returns:
        A place for each. Where no place is free, one that the fewest things cover.
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
    """Near ones first, with the step of their distance."""
    for (step, distance), (right, down) in product(enumerate(_DISTANCES), _DIRECTIONS):
        align = "left" if right > 0 else "right" if right < 0 else "center"
        yield step, LabelPlace(distance * right, distance * down, align)


def _covered(box: Box, taken: Sequence[Box], own: int, width: float, height: float) -> int:
    """How much a label would cover, the edge of the plot included, its own point left out."""
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

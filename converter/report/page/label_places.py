"""Where the labels of a scatter plot go, so that none covers another, a point or an edge, however wide the plot is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

__all__ = ["LabelPlace", "place_labels"]

_WIDTHS = (230, 300, 360, 450, 600, 800, 1000)  # pixels of plots on phones, tablets and screens
_CHARACTER, _LINE = 6.7, 14  # pixels of a label's letter and of its line
_POINT = 7  # pixels from the middle of a point to where a label may begin
_NEAR = 12  # pixels to a label that needs no leader
_DISTANCES = (_NEAR, 24, 38, 52, 70, 90)
_DIRECTIONS = ((1, 0), (-1, 0), (0.8, -0.8), (0.8, 0.8), (-0.8, -0.8), (-0.8, 0.8), (0, -1), (0, 1))

Box = tuple[float, float, float, float]  # left, top, right, bottom


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


def place_labels(points: Sequence[tuple[float, float]], texts: Sequence[str], height: float) -> list[LabelPlace]:
    """The nearest place for each label that is free at every width, the first ones first.

    Args:
        points: in shares of the plot's width and height, from its upper left corner.
        texts: of the labels.
        height: of the plot, in pixels.

    Returns:
        A place for each. Where no place is free, one that the fewest things cover.
    """
    taken: dict[int, list[Box]] = {
        width: [_around(x * width, y * height) for x, y in points] for width in _WIDTHS
    }  # points first, then labels
    places = []
    for own, (point, text) in enumerate(zip(points, texts, strict=True)):
        place = min(_places(), key=lambda each: _covered(each, own, point, text, height, taken))
        for width in _WIDTHS:
            taken[width].append(_box(place, point, text, width, height))
        places.append(place)
    return places


def _places() -> Iterator[LabelPlace]:
    """Near ones first."""
    for distance, (right, down) in product(_DISTANCES, _DIRECTIONS):
        align = "left" if right > 0 else "right" if right < 0 else "center"
        yield LabelPlace(distance * right, distance * down, align)


def _covered(
    place: LabelPlace,
    own: int,
    point: tuple[float, float],
    text: str,
    height: float,
    taken: dict[int, list[Box]],
) -> int:
    """How much the label would cover, over all widths."""
    count = 0
    for width, boxes in taken.items():
        left, top, right, bottom = box = _box(place, point, text, width, height)
        count += left < 0 or top < 0 or right > width or bottom > height
        count += sum(_overlap(box, other) for index, other in enumerate(boxes) if index != own)
    return count


def _box(place: LabelPlace, point: tuple[float, float], text: str, width: float, height: float) -> Box:
    long = _CHARACTER * len(text)
    left = point[0] * width + place.right - {"left": 0.0, "center": long / 2, "right": long}[place.align]
    middle = point[1] * height + place.down
    return left, middle - _LINE / 2, left + long, middle + _LINE / 2


def _around(x: float, y: float) -> Box:
    return x - _POINT, y - _POINT, x + _POINT, y + _POINT


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]

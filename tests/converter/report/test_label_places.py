from itertools import combinations

import pytest

from converter.report.page.label_places import LabelPlace, place_labels

LETTER, LINE, HEIGHT = 6.5, 12, 320  # pixels


def box(place: LabelPlace, point: tuple[float, float], text: str, width: float) -> tuple[float, float, float, float]:
    long = LETTER * len(text)
    left = point[0] * width + place.right - {"left": 0, "center": long / 2, "right": long}[place.align]
    middle = point[1] * HEIGHT + place.down
    return left, middle - LINE / 2, left + long, middle + LINE / 2


@pytest.mark.parametrize("width", [240, 300, 500, 900])
@pytest.mark.parametrize(
    "points",
    [
        [(0.5, 0.5)] * 8,
        [(0.1, 0.1), (0.12, 0.1), (0.9, 0.9), (0.9, 0.89)],
        [(0.03, 0.5 + 0.005 * index) for index in range(8)],
    ],
    ids=["one place", "corners", "left edge"],
)
def test_no_label_covers_another_or_leaves_the_plot(points: list[tuple[float, float]], width: float) -> None:
    texts = ["1 int8", "2 int4", "3 mixed, kept", "4", "5", "6", "7", "8 mixed-learned"][: len(points)]
    boxes = [
        box(place, point, text, width)
        for place, point, text in zip(place_labels(points, texts, HEIGHT), points, texts, strict=True)
    ]
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= HEIGHT
    for one, other in combinations(boxes, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def test_a_label_stays_near_where_there_is_room() -> None:
    places = place_labels([(0.5, 0.5), (0.5, 0.5)], ["first", "second"], HEIGHT)
    assert not places[0].far
    assert places[0].align == "left"
    (edge,) = place_labels([(0.99, 0.5)], ["label"], HEIGHT)
    assert (edge.align, edge.far) == ("right", False)


def test_a_label_stays_off_lines() -> None:
    point, (level, upright) = (0.5, 0.5), (((0.0, 0.48), (1.0, 0.48)), ((0.52, 0.0), (0.52, 1.0)))
    (place,) = place_labels([point], ["label"], HEIGHT, [level, upright])
    left, top, right, bottom = box(place, point, "label", 500)
    assert not top < 0.48 * HEIGHT < bottom
    assert not left < 0.52 * 500 < right
    assert not place.far

"""Built-in metrics: values that are known, and the float model's outputs as the truth."""

import numpy as np
import pytest

from converter.metrics.metric import Metric
from converter.metrics.registry import METRICS, find_metric
from passes.errors import DataError, ModelError, UsageError

SCORES = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5]], np.float32)


def measured(metric: str, outputs: dict[str, np.ndarray], **labels: object) -> float:
    one = find_metric(metric)()
    one.update(outputs, labels)
    return one.value()


def test_top1_and_top5() -> None:
    assert measured("top1", {"y": SCORES}, y=np.array([1, 1, 2])) == pytest.approx(200 / 3)
    many = np.arange(20, dtype=np.float32).reshape(2, 10)
    assert measured("top5", {"y": many}, y=np.array([5, 4])) == 50.0


def test_a_named_output_is_read() -> None:
    outputs = {"boxes": np.zeros((3, 4, 2), np.float32), "scores": SCORES}
    assert measured("top1(output='scores')", outputs, y=np.array([1, 0, 2])) == 100.0
    with pytest.raises(ModelError, match=r"output 'boxes' is \[3, 4, 2\], not class scores"):
        measured("top1", outputs, y=np.array([1, 0, 2]))
    with pytest.raises(ModelError, match="no output 'logits'; it has: boxes, scores"):
        measured("top1(output='logits')", outputs, y=np.array([1, 0, 2]))


def test_f1_of_one_class_and_of_several() -> None:
    assert measured("f1", {"y": SCORES}, y=np.array([1, 0, 2])) == 100.0
    several = np.array([[1, 1, 0], [1, 0, 0]])
    assert measured(
        "f1(average='micro')", {"y": np.array([[0.9, 0.1, 0.1], [0.8, 0.2, 0.1]])}, y=several
    ) == pytest.approx(80)


def test_mean_iou_by_hand() -> None:
    """Class 0: 2 of 3 pixels, class 1: 1 of 2; the ignored pixel does not count."""
    scores = np.zeros((1, 2, 1, 5), np.float32)
    scores[0, 1, 0, [2, 3]] = 1
    labels = np.array([[[0, 0, 0, 1, 255]]])
    assert measured("miou", {"y": scores}, y=labels) == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)


def test_mean_iou_of_one_class_and_of_class_numbers() -> None:
    probability = np.array([[[[0.9, 0.1]]]], np.float32)
    assert measured("miou", {"y": probability}, y=np.array([[[1, 0]]])) == 100.0
    assert measured("miou", {"y": np.array([[[1, 0]]])}, y=np.array([[[1, 1]]])) == pytest.approx(25.0)


def test_masks_of_another_size_are_named() -> None:
    with pytest.raises(DataError, match=r"labels y are \[1, 4, 4\], and the output has classes \[1, 2, 2\]; resize"):
        measured("miou", {"y": np.zeros((1, 3, 2, 2))}, y=np.zeros((1, 4, 4), np.int64))


@pytest.mark.parametrize("channels", [1, 3])
def test_miou_refuses_masks_of_0_and_255(channels: int) -> None:
    mask = np.array([[[0, 255], [255, 0]]])
    with pytest.raises(DataError, match="give class numbers, 0 for the background and 1 for the object"):
        measured("miou", {"y": np.ones((1, channels, 2, 2), np.float32)}, y=mask)
    measured("miou", {"y": np.ones((1, channels, 2, 2), np.float32)}, y=np.array([[[0, 255], [1, 0]]]))


def test_psnr_ssim_and_depth() -> None:
    image = np.random.default_rng(0).uniform(0, 1, (2, 1, 16, 16)).astype(np.float32)
    assert measured("psnr", {"y": image + 0.1}, y=image) == pytest.approx(20.0, abs=1e-4)
    assert measured("psnr(peak=10)", {"y": image + 0.1}, y=image) == pytest.approx(40.0, abs=1e-4)
    assert measured("psnr", {"y": image}, y=image) == 100.0
    assert measured("ssim", {"y": image}, y=image) == pytest.approx(1.0)
    assert measured("ssim", {"y": 1 - image}, y=image) < 0.1
    depth = np.array([[2.0, 0.0, 4.0]])
    assert measured("absrel", {"y": np.array([[1.0, 9.0, 5.0]])}, y=depth) == pytest.approx(100 * (0.5 + 0.25) / 2)
    assert not METRICS["absrel"].higher_is_better
    with pytest.raises(DataError, match="give labels of the same shape"):
        measured("psnr", {"y": image}, y=image[:, :, :8])


def test_error_rates_of_text() -> None:
    """Greedy CTC: repeats merge, blanks go. One of two characters is wrong."""
    best = np.array([[1, 1, 0, 1, 2, 2]])
    scores = np.eye(4, dtype=np.float32)[best]
    assert measured("cer(alphabet='_abc')", {"y": scores}, y=["aab"]) == 0.0
    assert measured("cer(alphabet='_abc')", {"y": scores}, y=["aac"]) == pytest.approx(100 / 3)
    assert measured("cer(alphabet='_abc', time_first=True)", {"y": scores.swapaxes(0, 1)}, y=["aab"]) == 0.0
    assert measured("wer(alphabet='_a b')", {"y": scores}, y=["aa x"]) == pytest.approx(50.0)
    assert measured("cer", {"y": scores}, y=[[1, 1, 2]]) == 0.0
    assert measured("cer(alphabet='_abc')", {"y": scores}, y=np.array([b"aab"])) == 0.0
    with pytest.raises(DataError, match="every true text is empty"):
        measured("cer", {"y": scores}, y=[""])
    with pytest.raises(DataError, match=r"write cer\(alphabet='...'\)"):
        measured("cer", {"y": scores}, y=["aab"])


def test_cosine_and_sqnr() -> None:
    a = np.array([[1.0, 0.0], [1.0, 1.0]])
    assert measured("cosine", {"y": a}, y=np.array([[2.0, 0.0], [1.0, -1.0]])) == pytest.approx(0.5)
    assert measured("sqnr", {"y": a * 0.9, "z": a}, y=a, z=a) == pytest.approx(20.0)


def decode(outputs: dict[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    return [(rows[:, :4], rows[:, 4], rows[:, 5]) for rows in outputs["y"]]


BOXES = np.array(
    [[[0, 0, 10, 10, 0.9, 0], [20, 20, 40, 40, 0.8, 1]], [[5, 5, 25, 25, 0.7, 1], [0, 0, 1, 1, 0.0, 0]]], np.float64
)
TRUTH = [np.array([[0, 0, 0, 10, 10], [1, 20, 20, 40, 40]]), np.array([[1, 5, 5, 25, 25]])]


def ap(found: np.ndarray, truth: list[np.ndarray], **options: object) -> float:
    metric = METRICS["map"](decode=decode, **options)  # type: ignore[call-arg]
    metric.update({"y": found}, {"boxes": truth})
    return metric.value()


def test_average_precision_of_right_and_shifted_boxes() -> None:
    assert ap(BOXES, TRUTH) == pytest.approx(100.0)
    shifted = BOXES.copy()
    shifted[..., [0, 2]] += 2.5  # IoU 0.6 of the small box, 0.78 of the others
    assert ap(shifted, TRUTH, iou=0.5) == pytest.approx(100.0)
    assert 20 < ap(shifted, TRUTH) < 60
    assert ap(np.zeros((2, 0, 6)), TRUTH) == 0.0


def test_the_float_detections_are_the_truth() -> None:
    metric = METRICS["map"](decode=decode)  # type: ignore[call-arg]
    labels = metric.truth({"y": BOXES})
    assert labels is not None
    assert [len(rows) for rows in labels["boxes"]] == [2, 1]
    assert ap(BOXES, labels["boxes"]) == pytest.approx(100.0)


def test_a_wrong_decode_is_named() -> None:
    with pytest.raises(UsageError, match=r"map\(decode='FILE.py:FUNCTION'\)"):
        find_metric("map")
    for wrong, why in ((lambda _: [], "0 samples"), (lambda _: [(np.zeros((1, 3)), [1], [1])] * 2, r"not \[k, 4\]")):
        metric = METRICS["map"](decode=wrong)  # type: ignore[call-arg]
        with pytest.raises(DataError, match=why):
            metric.update({"y": BOXES}, {"boxes": TRUTH})
    metric = METRICS["map"](decode=lambda _: [(np.zeros((2, 4)), np.zeros(2), 0)] * 2)  # type: ignore[call-arg]
    with pytest.raises(DataError, match="2 boxes, 2 scores and 1 classes"):
        metric.update({"y": BOXES}, {"boxes": TRUTH})


def test_boxes_without_a_column_are_named() -> None:
    with pytest.raises(DataError, match=r"shape \[2, 4\], not \[m, 5\].*\[m, 6\]"):
        ap(BOXES, [TRUTH[0][:, 1:], TRUTH[1]])


def test_keypoints() -> None:
    right = np.array([[[0.0, 0.0, 2.0], [10.0, 10.0, 2.0], [99.0, 99.0, 0.0]]])
    assert measured("oks", {"y": right[:, :, :2]}, keypoints=right, area=[100.0]) == pytest.approx(100.0)
    moved = right[:, :, :2] + [1.0, 0.0]
    expected = 100 * np.exp(-1 / (2 * 100 * 0.1**2))
    assert measured("oks", {"y": moved}, keypoints=right, area=[100.0]) == pytest.approx(expected)


@pytest.mark.parametrize("name", [name for name in METRICS if name not in ("map", "oks", "cer", "wer")])
def test_a_model_agrees_with_itself(name: str) -> None:
    """Without labels the float model's outputs are the truth: the best value."""
    rng = np.random.default_rng(1)
    outputs = {"y": rng.uniform(0.1, 1, (4, 16, 16) if name in ("psnr", "ssim", "absrel") else (4, 6))}
    if name == "miou":
        outputs = {"y": rng.uniform(0, 1, (2, 3, 4, 4))}
    metric: Metric = METRICS[name]()
    labels = metric.truth(outputs)
    assert labels is not None
    metric.update(outputs, labels)
    best = {"psnr": 100.0, "ssim": 1.0, "absrel": 0.0, "cosine": 1.0, "sqnr": np.inf}.get(name, 100.0)
    assert metric.value() == pytest.approx(best)

"""Training images: each once per epoch, augmented as set, and the coverage of activations by trained grids."""

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from converter.learn.training.coverage import Coverage  # noqa: E402
from converter.learn.training.images import augmented, epoch_batches, in_order  # noqa: E402
from passes.numerics.grid import ActivationGrid  # noqa: E402
from tests.support.networks import dataset, images, prepared, resnet  # noqa: E402

X = images(20, 3, 12, 12)
Y = np.arange(20) % 10
CPU = torch.device("cpu")


def index_of(image: NDArray[np.float32]) -> int:
    """Index of an image."""
    (actual,) = np.flatnonzero((image == X).all(axis=(1, 2, 3)))
    return int(actual)


def test_an_epoch_has_each_image_at_most_once_with_its_label() -> None:
    data, chosen = dataset(prepared(resnet()), (X, Y)), np.array([1, 4, 5, 8, 11, 13, 17])
    seen = []
    for batch in epoch_batches(data, chosen, 3, [7, 0], CPU):
        assert len(batch) == 3
        assert batch.labels is not None
        for image, label in zip(batch.inputs["x"].numpy(), batch.labels.tolist(), strict=True):
            seen.append(index_of(image))
            assert Y[seen[-1]] == label
    assert len(seen) == len(set(seen)) == 6
    assert set(seen) < set(chosen.tolist())
    repeated, other = (
        [index_of(batch.inputs["x"][0].numpy()) for batch in epoch_batches(data, chosen, 3, [7, epoch], CPU)]
        for epoch in (0, 1)
    )
    assert repeated == [seen[0], seen[3]]
    assert repeated != other


def test_in_order_yields_all_images() -> None:
    data = dataset(prepared(resnet()), X)
    actual = torch.cat([batch.inputs["x"] for batch in in_order(data, np.arange(20), 6, CPU)])
    np.testing.assert_array_equal(actual.numpy(), X)


def test_images_are_mirrored_and_moved_and_other_inputs_stay() -> None:
    x, flat = torch.from_numpy(X), torch.arange(20.0)[:, None]
    actual = augmented({"x": x, "flat": flat}, True, 2, np.random.default_rng(0))
    assert actual["flat"] is flat
    padded = np.pad(X, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
    seen = set()
    for image, whole in zip(actual["x"].numpy(), padded, strict=True):
        windows = {
            (y, left, turned): piece[:, :, ::-1] if turned else piece
            for y in range(5)
            for left in range(5)
            for turned in (False, True)
            for piece in [whole[:, y : y + 12, left : left + 12]]
        }
        matching = [window for window, piece in windows.items() if np.array_equal(piece, image)]
        assert matching
        seen.add(matching[0])
    assert len(seen) > 10
    assert {turned for *_, turned in seen} == {False, True}


def test_augmentation_without_options_changes_nothing() -> None:
    actual = augmented({"x": torch.from_numpy(X)}, False, 0, np.random.default_rng(0))
    np.testing.assert_array_equal(actual["x"].numpy(), X)


def test_what_lies_outside_a_grid_is_counted() -> None:
    coverage = Coverage({"a": ActivationGrid(np.float32(0.1), 0, False, 0.0, 25.5)})
    coverage("a", torch.tensor([-1.0, -0.04, 3.0, 25.54]))
    coverage("a", torch.tensor([26.0, 7.0, 7.0, 7.0]))
    coverage("b", torch.tensor([1.0]))
    (actual,) = coverage.ranges().values()
    assert actual.clipped == 2 / 8
    assert (actual.low, actual.high) == (-1.0, 26.0)

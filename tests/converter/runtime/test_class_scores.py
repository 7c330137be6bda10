"""Which outputs are scores of classes."""

import numpy as np

from converter.runtime.runner import class_scores

RNG = np.random.default_rng(0)


def test_scores_may_have_trailing_axes_of_length_one() -> None:
    output = RNG.normal(size=(3, 5, 1, 1))
    scores = class_scores(output)
    assert scores is not None
    assert np.array_equal(scores, output[:, :, 0, 0])
    assert class_scores(output[:, :, 0, 0]) is not None
    assert class_scores(np.zeros((3, 5, 1, 2))) is None
    assert class_scores(np.zeros(3)) is None


def test_rows_of_length_one_are_embeddings_and_no_scores() -> None:
    rows = RNG.normal(size=(6, 32)).astype(np.float32)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    powers = np.exp(20 * rows)
    assert class_scores(unit) is None
    assert class_scores(unit[:1]) is None
    for scores in (
        rows,
        np.concatenate([unit, rows]),
        powers / powers.sum(axis=1, keepdims=True),
        unit[:0],
        unit[:, :2],
    ):
        assert class_scores(scores) is not None
    assert class_scores(np.eye(4, dtype=np.float32)) is not None  # certain probabilities

"""The small graphs are valid and finite."""

import numpy as np
import pytest

from converter.runtime.session import open_session
from models.zoo import ZOO, feeds_of


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_runs(name: str) -> None:
    model = ZOO[name]()
    session, feeds = open_session(model, threads=1), feeds_of(model, 2)
    for row in range(2):
        for output in session.run(None, {key: values[row : row + 1] for key, values in feeds.items()}):
            assert np.isfinite(output).all()

"""The small graphs are valid and finite."""

import numpy as np
import pytest

from converter.runtime.session import open_session
from models.zoo import ZOO, feeds_of


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_runs(name: str) -> None:
    model = ZOO[name]()
    for output in open_session(model, threads=1).run(None, feeds_of(model, 2)):
        assert np.isfinite(output).all()

"""Roundings that are measured by other processes have the errors of one process."""

import pickle

import numpy as np
import pytest

from converter import Workers, sensitivity
from converter.engine.engine import InProcess
from converter.engine.shelf import Shelf
from converter.engine.storage import Storage
from converter.error_sources.measure import measure
from tests.support.graphs import array
from tests.support.outlier_network import SHAPE, with_outlier

DATA = array(48, *SHAPE)


class Elsewhere(InProcess):
    """An engine whose arguments go through a storage and pickle, as those of other processes do."""

    workers = 2

    def __init__(self, folder: str) -> None:
        self.shelf = Shelf.on(Storage(folder))


def test_values_that_travel_give_the_same_errors(tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("fsspec", reason="storage needs convert-onnx[dask]")
    from converter.data.dataset import load_data
    from converter.data.inputs import input_specs
    from converter.pipeline.convert import run_passes
    from converter.pipeline.prepare import prepare
    from converter.recipes.builtin import find_recipe
    from converter.runtime.few_samples import real_feeds
    from converter.runtime.session import no_progress
    from converter.targets.catalog import find_target

    model = with_outlier()
    work, _ = run_passes(prepare(model, DATA, find_recipe("int8"), find_target("cpu")), no_progress)
    samples = real_feeds(load_data(DATA, input_specs(model)), 3)
    folder = tmp_path_factory.mktemp("storage")
    engine = Elsewhere(str(folder))
    assert measure(work, samples, engine=engine) == measure(work, samples)
    assert list(folder.glob("values-*/*"))
    engine.shelf.clear()
    assert not list(folder.iterdir())


def test_a_shelf_gives_back_what_was_put(tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("fsspec", reason="storage needs convert-onnx[dask]")
    shelf = Shelf.on(Storage(str(tmp_path_factory.mktemp("storage"))))
    item = shelf.put({"a": np.arange(3)})
    far = pickle.loads(pickle.dumps((shelf, item)))
    assert far[0].get(far[1])["a"].tolist() == [0, 1, 2]
    assert far[0].kept(far[1]) is far[0].kept(far[1])
    near = Shelf()
    value = object()
    assert near.get(near.put(value)) is near.kept(near.put(value)) is value


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of dask's own threads and sockets when a cluster closes
def test_local_workers_give_the_sensitivity_of_one_process() -> None:
    pytest.importorskip("distributed", reason="workers need convert-onnx[dask]")
    assert sensitivity(with_outlier(), DATA, workers=Workers(2)) == sensitivity(with_outlier(), DATA)

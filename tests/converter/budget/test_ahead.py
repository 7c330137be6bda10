"""What other processes measure for a search is what the search would measure itself."""

from pathlib import Path

import pytest

from converter import Budget, Settings, Workers, convert_within
from converter.engine.engine import InProcess
from converter.engine.shelf import Shelf
from converter.engine.storage import Storage
from passes.errors import UsageError
from tests.support.networks import images, wide

DATA = images(64, 3, 12, 12)
BUDGET = Budget(max_drop=30.0)


class Elsewhere(InProcess):
    """An engine whose arguments and results go through a storage and pickle, as those of other processes do."""

    workers = 2

    def __init__(self, folder: Path, *, shares_disk: bool) -> None:
        self.shelf, self.shares_disk = Shelf.on(Storage(str(folder))), shares_disk


class Measured:
    """Progress callback that notes what was measured."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, what: str, done: int, total: int) -> None:
        self.seen.append(what)


@pytest.mark.slow
@pytest.mark.parametrize("shares_disk", [True, False])
def test_a_search_finds_everything_in_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shares_disk: bool
) -> None:
    pytest.importorskip("distributed", reason="workers need convert-onnx[dask]")
    from contextlib import nullcontext

    alone = convert_within(wide(), DATA, BUDGET, settings=Settings(limit=32, deterministic=True))
    engine = Elsewhere(tmp_path / "storage", shares_disk=shares_disk)
    monkeypatch.setattr("converter.budget.ladder.opened", lambda _: nullcontext(engine))
    measured = Measured()
    spread = convert_within(
        wide(),
        DATA,
        BUDGET,
        settings=Settings(limit=32, deterministic=True),
        workers=Workers(2),
        cache=tmp_path / "cache",
        progress=measured,
    )
    assert spread.model.SerializeToString() == alone.model.SerializeToString()
    assert alone.search is not None
    assert spread.search is not None
    assert [each.name for each in spread.search.attempts] == [each.name for each in alone.search.attempts]
    assert [each.bytes for each in spread.search.attempts] == [each.bytes for each in alone.search.attempts]
    assert spread.search.effects == alone.search.effects
    assert measured.seen.count("measuring") == 1 + 4 + 4  # four files, and the effects in four parts


def test_workers_without_use_are_refused() -> None:
    pytest.importorskip("distributed", reason="workers need convert-onnx[dask]")
    with pytest.raises(UsageError, match="`workers=` has no effect without recipe 'auto'"):
        convert_within(wide(), DATA, BUDGET, recipe="int4", workers=Workers(2))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of dask's own threads and sockets when a cluster closes
def test_local_workers_find_the_same_file() -> None:
    pytest.importorskip("distributed", reason="workers need convert-onnx[dask]")
    settings = Settings(limit=32, deterministic=True)
    alone = convert_within(wide(), DATA, BUDGET, settings=settings)
    spread = convert_within(wide(), DATA, BUDGET, settings=settings, workers=Workers(2))
    assert spread.model.SerializeToString() == alone.model.SerializeToString()
